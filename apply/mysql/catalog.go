package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mysql"
)

// tableName is a table of the source, or of the target.
type tableName struct{ schema, name string }

// String is the name as statements have it.
func (n tableName) String() string { return quote(n.schema) + "." + quote(n.name) }

func quote(name string) string { return string(mysql.AppendName(nil, name)) }

// table is a table of the target.
type table struct {
	name    tableName
	columns []*column
	keys    [][]*column // unique, of columns that are NOT NULL and whole; the primary key first
	uniques int         // unique indexes of any kind
}

type column struct {
	name      string
	mysql     mysql.Column
	generated bool
	notNull   bool
	folds     bool // its collation calls strings equal that are not, as a and A
	pads      bool // or are not but for blanks at the end
}

// column finds one by name: MySQL's columns have no case, so a name that is written otherwise is the same one.
func (t *table) column(name string) *column {
	for _, same := range []func(a, b string) bool{func(a, b string) bool { return a == b }, strings.EqualFold} {
		if i := slices.IndexFunc(t.columns, func(c *column) bool { return same(c.name, name) }); i >= 0 {
			return t.columns[i]
		}
	}
	return nil
}

// targetName is where a table of the source is.
func (s *session) targetName(schema, name string) tableName {
	database, name := mysql.Table(schema, name)
	if database == "" {
		database = s.database
	}
	if s.foldsNames {
		database, name = strings.ToLower(database), strings.ToLower(name)
	}
	return tableName{database, name}
}

// systems are databases of the server itself.
var systems = []string{"mysql", "information_schema", "performance_schema", "sys"}

// Limits of names.
const (
	nameMax     = 64
	nameRuneMax = 0xFFFF
)

// mayBe refuses names under which rows would come to what is not theirs, and those that MySQL cannot have.
func (s *session) mayBe(name tableName) error {
	b := &apply.Blocked{Table: name.String(), Try: "rename it with a shaping rule (docs/shaping.md), or leave it out"}
	switch {
	case name.schema == s.database && slices.Contains(Tables, strings.ToLower(name.name)):
		b.Problem = "is a table of shardcdc's own on the target"
	case slices.Contains(systems, strings.ToLower(name.schema)):
		b.Problem = "would be in a database of the server itself"
	case badName(name.schema), badName(name.name):
		b.Problem = fmt.Sprintf("has a name that MySQL cannot have: at most %d characters, none above U+FFFF", nameMax)
	default:
		return nil
	}
	return b
}

func badName(name string) bool {
	return utf8.RuneCountInString(name) > nameMax || strings.ContainsFunc(name, func(r rune) bool { return r > nameRuneMax })
}

// claim notes which table of the source a table of the target is for. Two that differ by their schema or by the case of their names
// may have one place; their rows would be taken for each other's.
func (s *session) claim(source, target tableName) error {
	first, claimed := s.sources[target]
	if !claimed {
		s.sources[target] = source
		return nil
	}
	if first == source {
		return nil
	}
	return &apply.Blocked{
		Table: target.String(), Problem: fmt.Sprintf("is the place of two tables of the source, %s and %s", first, source),
		Try: "rename one of them with a shaping rule (docs/shaping.md), or leave it out; or another database in the target's DSN",
	}
}

// find reads a table's description; nil: it is not there.
func (s *session) find(ctx context.Context, name tableName) (*table, error) {
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	if err := s.mayBe(name); err != nil {
		return nil, err
	}
	engine, err := s.engine(ctx, name)
	if err != nil {
		return nil, classify(fmt.Errorf("look for %s: %w", name, err), nil)
	}
	switch engine {
	case "":
		return nil, nil
	case innoDB:
	default:
		return nil, &apply.Blocked{
			Table: name.String(), Problem: fmt.Sprintf("is no table with transactions on the target (%s)", engine),
			Try: fmt.Sprintf("ALTER TABLE %s ENGINE = InnoDB; it goes on by itself", name),
		}
	}
	t := &table{name: name}
	for _, learn := range []func(context.Context, *table) error{s.readColumns, s.readKeys} {
		if err := learn(ctx, t); err != nil {
			return nil, classify(fmt.Errorf("look at %s: %w", name, err), nil)
		}
	}
	s.tables[name] = t
	return t, nil
}

const innoDB = "InnoDB"

// engine is that of a table, or what else has the name; empty: nothing has.
func (s *session) engine(ctx context.Context, name tableName) (string, error) {
	var engine, kind sql.NullString
	err := s.query(ctx, "SELECT engine, table_type FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
		func(scan func(...any) error) error { return scan(&engine, &kind) }, name.schema, name.name)
	if kind.Valid && kind.String != "BASE TABLE" {
		return kind.String, err
	}
	return engine.String, err
}

func (s *session) readColumns(ctx context.Context, t *table) error {
	return s.query(ctx, `SELECT column_name, data_type, COALESCE(numeric_scale, datetime_precision, -1), extra, is_nullable, COALESCE(collation_name, ''), column_type, COALESCE(character_octet_length, 0)
		FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position`, func(scan func(...any) error) error {
		var c column
		var extra, nullable, collation string
		var length uint64 // of a LONGTEXT more than an int of 32 bits has
		err := scan(&c.name, &c.mysql.DataType, &c.mysql.Places, &extra, &nullable, &collation, &c.mysql.Type, &length)
		// DEFAULT_GENERATED is a default that is an expression.
		extra = strings.ToUpper(extra)
		c.generated = strings.Contains(extra, "VIRTUAL") || strings.Contains(extra, "STORED") || strings.Contains(extra, "PERSISTENT")
		c.notNull = nullable == "NO"
		c.mysql.Length = int(min(length, math.MaxInt32))
		c.folds, c.pads = compares(collation)
		t.columns = append(t.columns, &c)
		return err
	}, t.name.schema, t.name.name)
}

// compares says what a collation does to strings that are not equal. Those of the name nopad (MariaDB) and 0900 (MySQL) mind blanks at the end.
func compares(collation string) (folds, pads bool) {
	if collation == "" || collation == "binary" {
		return false, false
	}
	return !strings.HasSuffix(collation, "_bin"), !strings.Contains(collation, "_nopad") && !strings.Contains(collation, "_0900_")
}

func (s *session) readKeys(ctx context.Context, t *table) error {
	type index struct {
		whole   bool
		columns []*column
	}
	byName, names := map[string]*index{}, []string(nil)
	err := s.query(ctx, `SELECT index_name, COALESCE(column_name, ''), sub_part IS NULL FROM information_schema.statistics
		WHERE table_schema = ? AND table_name = ? AND non_unique = 0 ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index`, func(scan func(...any) error) error {
		var name, column string
		var whole bool
		err := scan(&name, &column, &whole)
		x := byName[name]
		if x == nil {
			x = &index{whole: true}
			byName[name], names = x, append(names, name)
		}
		c := t.column(column)
		x.whole = x.whole && whole && column != "" && c != nil && c.notNull
		x.columns = append(x.columns, c)
		return err
	}, t.name.schema, t.name.name)
	for _, name := range names {
		t.uniques++
		if x := byName[name]; x.whole {
			t.keys = append(t.keys, x.columns)
		}
	}
	return err
}

// table finds a table that has to be there.
func (s *session) table(ctx context.Context, name tableName) (*table, error) {
	t, err := s.find(ctx, name)
	if t == nil && err == nil {
		err = &apply.Blocked{
			Table: name.String(), Problem: "is not on the target",
			Try: "create it there (docs/mysql.md has the types), or cdcctl alter-subscription " + s.cfg.Subscription + " --create-tables; it goes on by itself",
		}
	}
	return t, err
}

// make makes the table of a relation if it is missing. It commits, as every DDL does, so no transaction may be open; that nothing was
// applied yet is no harm, since an empty table means nothing.
func (s *session) make(ctx context.Context, r *pipeline.Relation) error {
	name := s.targetName(r.Namespace, r.Name)
	t, err := s.find(ctx, name)
	if t != nil || err != nil {
		return err
	}
	failed := &apply.Blocked{Table: name.String(), Problem: "cannot be made on the target", Try: "create it there; it goes on by itself"}
	text, err := mysql.AppendCreateTable(nil, r)
	if err != nil {
		failed.Err = err
		return failed
	}
	if name.schema != s.database {
		_, err = s.exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quote(name.schema))
	}
	if err == nil {
		_, err = s.exec(ctx, string(text))
	}
	return classify(wrap("create "+name.String(), err), failed)
}
