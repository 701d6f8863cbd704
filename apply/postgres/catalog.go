package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"shardcdc/apply"
)

type tableName struct{ schema, name string }

func (n tableName) String() string { return quote(n.schema) + "." + quote(n.name) }

// table is a table of the target, as it was when it was read.
type table struct {
	name        tableName
	oid         string
	partitioned bool
	columns     map[string]*column
	keys        [][]*column // of each unique index on NOT NULL columns, checked at once; the primary key first
}

// column of the target.
type column struct {
	name      string
	typ       string // its type without modifier, of a domain the base type; as SQL
	always    bool   // GENERATED ALWAYS AS IDENTITY
	generated bool   // GENERATED ALWAYS AS (…), STORED or VIRTUAL
	notNull   bool
	equal     string // the equality operator of an index on it, as SQL; empty: there is none
	leads     bool   // an index begins with it
}

// from is the table in FROM, UPDATE and DELETE. Children of old-style inheritance are tables of their own, and
// their rows arrive under their own names.
func (t *table) from() string {
	if t.partitioned {
		return t.name.String()
	}
	return "ONLY " + t.name.String()
}

const columnsSQL = `
SELECT a.attname, pg_catalog.format_type(base.oid, -1), a.attidentity, a.attgenerated, a.attnotnull
FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL (
	WITH RECURSIVE up(oid) AS (
		SELECT a.atttypid
		UNION ALL SELECT t.typbasetype FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype = 'd')
	SELECT up.oid FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype <> 'd') base
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// indexesSQL gives the key columns of every index that compares whole columns for equality, and the operator.
const indexesSQL = `
SELECT i.indexrelid, i.indisunique AND i.indimmediate AND NOT i.indisexclusion, k.n, a.attname, ns.nspname, o.oprname
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = ic.relam AND am.amname IN ('btree', 'hash')
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) k(n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n]
JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[k.n]
JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
	AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = CASE am.amname WHEN 'btree' THEN 3 ELSE 1 END
JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
JOIN pg_catalog.pg_namespace ns ON ns.oid = o.oprnamespace
WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indexrelid, k.n`

// table finds a table of the target, from memory or from the catalog.
func (s *session) table(ctx context.Context, name tableName) (*table, error) {
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	oid, kind, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &table{name: name, oid: oid, partitioned: kind == "p", columns: map[string]*column{}}
	rows, err := s.query(ctx, columnsSQL, oid)
	if err != nil {
		return nil, fmt.Errorf("columns of %s: %w", name, err)
	}
	for _, r := range rows {
		c := &column{
			name: string(r[0]), typ: string(r[1]), always: string(r[2]) == "a",
			generated: string(r[3]) != "", notNull: string(r[4]) == "t",
		}
		t.columns[c.name] = c
	}
	if err := s.indexes(ctx, t, oid); err != nil {
		return nil, err
	}
	s.tables[name] = t
	return t, nil
}

func (s *session) find(ctx context.Context, name tableName) (oid, kind string, err error) {
	rows, err := s.query(ctx, `SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2`, name.schema, name.name)
	if err != nil {
		return "", "", fmt.Errorf("look for %s: %w", name, err)
	}
	if len(rows) == 0 {
		return "", "", &apply.Blocked{
			Table: name.String(), Problem: "is not on the target",
			Try: "create it there, for example with pg_dump --schema-only of one shard; it goes on by itself",
		}
	}
	oid, kind = string(rows[0][0]), string(rows[0][1])
	if kind != "r" && kind != "p" {
		return "", "", &apply.Blocked{
			Table: name.String(), Problem: fmt.Sprintf("is not a table on the target (relkind %s)", kind),
			Try: "rename it and create a table of this name",
		}
	}
	return oid, kind, nil
}

func (s *session) indexes(ctx context.Context, t *table, oid string) error {
	rows, err := s.query(ctx, indexesSQL, oid)
	if err != nil {
		return fmt.Errorf("indexes of %s: %w", t.name, err)
	}
	for len(rows) > 0 {
		n := slices.IndexFunc(rows, func(r [][]byte) bool { return string(r[0]) != string(rows[0][0]) })
		if n < 0 {
			n = len(rows)
		}
		t.index(rows[:n])
		rows = rows[n:]
	}
	return nil
}

// index takes the key columns of one index. The order of rows puts the primary key first; its operators win.
func (t *table) index(rows [][][]byte) {
	unique := string(rows[0][1]) == "t"
	var key []*column
	for i, r := range rows {
		c := t.columns[string(r[3])]
		if c == nil {
			return // made by DDL between the two queries; the next session sees it
		}
		if i == 0 && string(r[2]) == "0" {
			c.leads = true
		}
		if c.equal == "" || unique && len(t.keys) == 0 {
			c.equal = operator(string(r[4]), string(r[5]))
		}
		unique = unique && c.notNull
		key = append(key, c)
	}
	if unique {
		t.keys = append(t.keys, key)
	}
}

func operator(schema, name string) string {
	if schema == "pg_catalog" {
		return name
	}
	return "OPERATOR(" + quote(schema) + "." + name + ")"
}

// quote makes an identifier of any name.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal makes a string constant; standard_conforming_strings does not matter to what is given here.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
