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
	uniques     []unique    // everything that keeps rows apart, of its partitions too
	gathered    *gathered   // changes that were not sent yet; nil: it is not in session.gathered
	tree        string      // the OID of the root of its partition tree; "": it is in none
	strict      bool        // something fires at a change although the session is a replica: it has to see what it would on the source
}

// unique is an index in which no two rows may meet: a unique index, or one of an exclusion constraint.
type unique struct {
	columns []*column
	exact   bool // rows meet if all columns are equal, and only then, and equal values have equal canonical text; else columns says nothing
}

// column of the target.
type column struct {
	name      string
	exact     bool   // its equal values have equal canonical text; see exactTypes
	typ       string // its type without modifier, of a domain the base type; as SQL
	always    bool   // GENERATED ALWAYS AS IDENTITY
	generated bool   // GENERATED ALWAYS AS (…), STORED or VIRTUAL
	notNull   bool
	casts     bool   // a cast of text is what reads a value of its type; see columnsSQL
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

// exactTypes are the types of which two equal values have the same text, but for what a canonical form removes: trailing zeros
// of numeric, trailing blanks of char(n), the sign of a floating zero. So are enums, and a domain is as its base type. Of
// others it is not known (interval, jsonb and arrays call values equal whose text differs; types of extensions, anything).
const exactTypes = `'bool', 'bpchar', 'bytea', 'char', 'cidr', 'date', 'float4', 'float8', 'inet', 'int2', 'int4', 'int8', 'macaddr', 'macaddr8',
	'money', 'name', 'numeric', 'oid', 'pg_lsn', 'bit', 'text', 'time', 'timestamp', 'timestamptz', 'timetz', 'uuid', 'varbit', 'varchar'`

// columnsSQL gives the columns. A cast of text to a type is its input function, unless somebody (or PostgreSQL, for "char", name,
// xml and regclass) made another one.
const columnsSQL = `
SELECT a.attname, pg_catalog.format_type(base.oid, -1), a.attidentity, a.attgenerated, a.attnotnull,
	(bt.typtype = 'e' OR bt.typname IN (` + exactTypes + `) AND bt.typnamespace = 'pg_catalog'::regnamespace) AND coalesce(co.collisdeterministic, true),
	NOT EXISTS (SELECT FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_proc reads ON reads.oid = bt.typinput
		WHERE k.castsource = 'pg_catalog.text'::regtype AND k.casttarget = base.oid
		AND (k.castmethod = 'f' OR k.castmethod = 'b' AND reads.proname NOT IN ('textin', 'varcharin', 'bpcharin', 'citextin')))
FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL (
	WITH RECURSIVE up(oid) AS (
		SELECT a.atttypid
		UNION ALL SELECT t.typbasetype FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype = 'd')
	SELECT up.oid FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype <> 'd') base
JOIN pg_catalog.pg_type bt ON bt.oid = base.oid
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
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

// uniquesSQL gives every index in which rows may meet: its columns, and whether only equality of whole columns counts, as the
// columns' own type and collation understand it. An index that only a partition has is never so.
const uniquesSQL = treeSQL + `
SELECT i.indexrelid, a.attname,
	i.indrelid = $1::oid AND NOT i.indisexclusion AND i.indpred IS NULL AND i.indexprs IS NULL
		AND ns.nspname = 'pg_catalog' AND oc.opcnamespace = 'pg_catalog'::regnamespace AND coalesce(co.collisdeterministic, true)
FROM tree JOIN pg_catalog.pg_index i ON i.indrelid = tree.oid
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) k(n)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n] AND a.attnum > 0
JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[k.n]
JOIN pg_catalog.pg_opfamily f ON f.oid = oc.opcfamily
JOIN pg_catalog.pg_namespace ns ON ns.oid = f.opfnamespace
LEFT JOIN pg_catalog.pg_collation co ON co.oid = i.indcollation[k.n]
WHERE (i.indisunique OR i.indisexclusion)
	AND (i.indrelid = $1::oid OR NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid))
ORDER BY i.indexrelid, k.n`

// treeSQL is a table with its partitions.
const treeSQL = `WITH tree(oid) AS (SELECT $1::oid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))`

// strictSQL asks whether a trigger or a rule fires under session_replication_role replica, those of foreign keys among them; and
// for the root of the table's partition tree.
const strictSQL = treeSQL + `
SELECT EXISTS (SELECT FROM tree JOIN pg_catalog.pg_trigger g ON g.tgrelid = tree.oid WHERE g.tgenabled IN ('R', 'A'))
	OR EXISTS (SELECT FROM tree JOIN pg_catalog.pg_rewrite r ON r.ev_class = tree.oid WHERE r.ev_enabled IN ('R', 'A') AND r.ev_type <> '1'),
	coalesce(pg_catalog.pg_partition_root($1::oid)::oid::text, '')`

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
			generated: string(r[3]) != "", notNull: string(r[4]) == "t", exact: string(r[5]) == "t",
			casts: string(r[6]) == "t",
		}
		t.columns[c.name] = c
	}
	for _, learn := range []func(context.Context, *table) error{s.indexes, s.uniques, s.strict} {
		if err := learn(ctx, t); err != nil {
			return nil, err
		}
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

func (s *session) indexes(ctx context.Context, t *table) error {
	rows, err := s.query(ctx, indexesSQL, t.oid)
	if err != nil {
		return fmt.Errorf("indexes of %s: %w", t.name, err)
	}
	eachIndex(rows, t.index)
	return nil
}

// eachIndex gives the rows of one index after the other; the first column is its OID.
func eachIndex(rows [][][]byte, fn func([][][]byte)) {
	for len(rows) > 0 {
		n := slices.IndexFunc(rows, func(r [][]byte) bool { return string(r[0]) != string(rows[0][0]) })
		if n < 0 {
			n = len(rows)
		}
		fn(rows[:n])
		rows = rows[n:]
	}
}

func (s *session) uniques(ctx context.Context, t *table) error {
	rows, err := s.query(ctx, uniquesSQL, t.oid)
	if err != nil {
		return fmt.Errorf("unique indexes of %s: %w", t.name, err)
	}
	eachIndex(rows, t.unique)
	return nil
}

// unique takes the columns of one index.
func (t *table) unique(rows [][][]byte) {
	u := unique{exact: true}
	for _, r := range rows {
		c := t.columns[string(r[1])] // nil: an expression, or made by DDL between two queries
		u.exact = u.exact && c != nil && c.exact && string(r[2]) == "t"
		u.columns = append(u.columns, c)
	}
	if !u.exact {
		u.columns = nil
	}
	t.uniques = append(t.uniques, u)
}

func (s *session) strict(ctx context.Context, t *table) error {
	rows, err := s.query(ctx, strictSQL, t.oid)
	if err != nil {
		return fmt.Errorf("triggers of %s: %w", t.name, err)
	}
	t.strict, t.tree = string(rows[0][0]) == "t", string(rows[0][1])
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
