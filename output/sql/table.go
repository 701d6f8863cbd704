package sql

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mysql"
	"shardcdc/pipeline/pgtype"
)

// tables remembers what is the same for all rows of a relation.
type tables struct {
	dialect   dialect
	relations output.Relations[table]
}

// table is a relation, ready to be written.
type table struct {
	relation *pipeline.Relation
	name     string // quoted, with the schema
	columns  []column
	key      []int  // columns that identify a row; nil: the whole row does, or nothing
	row      []int  // columns by which a change finds a row: the key, or all; nil: nothing finds one
	full     bool   // REPLICA IDENTITY FULL
	insert   string // up to the values
	upsert   string // behind the values: a row that is there takes them; empty: the key is not known
	before   string // a WHERE that compares whole rows, to find one of them
	behind   string // it
	path     string // a line that sets what comparing a key needs; see dialect.path
}

type column struct {
	name string // quoted
	kind kind   // of PostgreSQL
	key  bool
	cast string     // behind a literal that is compared with =
	my   mysql.Kind // of MySQL
}

// kind says how a value of PostgreSQL is written and compared.
type kind uint8

const (
	asOther   kind = iota // a string; the same text is the same value
	asText                // a string; other bytes are another value, whatever a collation says
	asExact               // a string; equal values have the same text
	asLoose               // a string; equal values may differ in text
	asInteger             // a number
	asNumeric             // a number where it is finite; equal values may differ in text
	asBoolean
)

var kinds = map[string]kind{
	"bool": asBoolean, "int2": asInteger, "int4": asInteger, "int8": asInteger, "numeric": asNumeric, "float4": asLoose, "float8": asLoose, "bpchar": asLoose,
	"text": asText, "varchar": asText, "oid": asExact, "uuid": asExact, "date": asExact, "timestamp": asExact, "timestamptz": asExact, "time": asExact,
	"bytea": asExact, "pg_lsn": asExact, "macaddr": asExact, "xid8": asExact,
}

func (t *tables) of(r *pipeline.Relation) (*table, error) { return t.relations.Of(r, t.make) }

var errName = errors.New("the name is not valid UTF-8 and has no form in SQL. Try: ALTER TABLE … RENAME, or cdcctl create-subscription … --format internal")

func checkName(d dialect, name string) error {
	if !utf8.ValidString(name) {
		return errName
	}
	return d.checkName(name)
}

func checkNames(d dialect, schema, table string) error {
	for _, name := range []string{schema, table} {
		if err := checkName(d, name); err != nil {
			return fmt.Errorf("table %q: %w", schema+"."+table, err)
		}
	}
	return nil
}

func (t *tables) make(r *pipeline.Relation) (*table, error) { return newTable(t.dialect, r) }

func newTable(d dialect, r *pipeline.Relation) (*table, error) {
	if err := checkNames(d, r.Namespace, r.Name); err != nil {
		return nil, err
	}
	t := &table{relation: r, name: d.table(r.Namespace, r.Name), full: r.Identity == 'f', columns: make([]column, len(r.Columns))}
	for i, c := range r.Columns {
		if err := checkName(d, c.Name); err != nil {
			return nil, fmt.Errorf("table %s: column %q: %w", r, c.Name, err)
		}
		t.columns[i] = column{name: d.name(c.Name), kind: kinds[pgtype.Name(r, c.Type)], cast: d.cast(r, &c), my: mysql.KindOf(r, i)}
	}
	if !t.full {
		t.key = mysql.KeyColumns(r)
	}
	t.row = t.key
	if t.full {
		for i := range r.Columns {
			t.row = append(t.row, i)
		}
	}
	for _, i := range t.key {
		t.columns[i].key = true
	}
	t.insert, t.upsert = d.insert(t)
	t.before, t.behind = d.one(t)
	t.path = d.path(t)
	return t, nil
}

// list writes names of columns with commas between.
func (t *table) list(dst []byte, which func(c *column) bool, write func(dst []byte, c *column) []byte) []byte {
	first := true
	for i := range t.columns {
		c := &t.columns[i]
		if !which(c) {
			continue
		}
		if !first {
			dst = append(dst, ", "...)
		}
		first = false
		dst = write(dst, c)
	}
	return dst
}

func everyColumn(*column) bool { return true }

func keyColumn(c *column) bool { return c.key }

func restColumn(c *column) bool { return !c.key }

func plainName(dst []byte, c *column) []byte { return append(dst, c.name...) }
