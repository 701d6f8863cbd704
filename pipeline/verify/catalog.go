package verify

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tableName names a table on every server.
type tableName struct{ schema, name string }

func (n tableName) String() string { return n.schema + "." + n.name }
func (n tableName) sql() string    { return quote(n.schema) + "." + quote(n.name) }

// described is a table as one server has it.
type described struct {
	oid         string
	partitioned bool
	identity    string // pg_class.relreplident
	columns     []column
	indexes     []index
	filter      string // of the publications, as SQL; empty: every row
	rows        int64  // by the statistics, which may be old
	bytes       int64
}

// column of a table on one server.
type column struct {
	name      string
	typ       string // without modifier, of a domain the base type; as SQL
	notNull   bool
	generated bool
	published bool
}

// index that compares whole columns for equality.
type index struct {
	primary, replica, unique bool // unique: and checked at once
	columns                  []string
	operators                []string // the equality operators, as SQL
}

const publishedSQL = `
SELECT DISTINCT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = ANY ($1::name[])`

// published lists the tables of which a shard sends changes, under the names by which it sends them.
func published(ctx context.Context, d *database, publications []string) ([]tableName, error) {
	rows, err := d.query(ctx, publishedSQL, array(publications))
	if err != nil {
		return nil, fmt.Errorf("list the published tables: %w", err)
	}
	names := make([]tableName, len(rows))
	for i, r := range rows {
		names[i] = tableName{string(r[0]), string(r[1])}
	}
	return names, nil
}

const tableSQL = `
SELECT c.oid, c.relkind, c.relreplident, s.rows::bigint, s.bytes::bigint
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
	SELECT pg_catalog.sum(greatest(p.reltuples, 0)) AS rows, pg_catalog.sum(pg_catalog.pg_relation_size(p.oid)) AS bytes
	FROM pg_catalog.pg_class p WHERE p.oid = c.oid OR p.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) t)) s
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`

const columnsSQL = `
SELECT a.attname, pg_catalog.format_type(base.oid, -1), a.attnotnull, a.attgenerated
FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL (
	WITH RECURSIVE up(oid) AS (
		SELECT a.atttypid
		UNION ALL SELECT t.typbasetype FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype = 'd')
	SELECT up.oid FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype <> 'd') base
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

const indexesSQL = `
SELECT i.indexrelid, i.indisprimary, i.indisreplident, i.indisunique AND i.indimmediate, a.attname, ns.nspname, o.oprname
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) k(n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n]
JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[k.n]
JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
	AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3
JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
JOIN pg_catalog.pg_namespace ns ON ns.oid = o.oprnamespace
WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indexrelid, k.n`

// describe reads what a server says about a table; nil when it has none.
func describe(ctx context.Context, d *database, name tableName) (*described, error) {
	t, err := describeTable(ctx, d, name)
	if err != nil {
		return nil, fmt.Errorf("describe table %s: %w", name, err)
	}
	return t, nil
}

func describeTable(ctx context.Context, d *database, name tableName) (*described, error) {
	rows, err := d.query(ctx, tableSQL, name.schema, name.name)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	t := &described{oid: string(rows[0][0]), partitioned: string(rows[0][1]) == "p", identity: string(rows[0][2])}
	if t.rows, err = strconv.ParseInt(string(rows[0][3]), 10, 64); err != nil {
		return nil, err
	}
	if t.bytes, err = strconv.ParseInt(string(rows[0][4]), 10, 64); err != nil {
		return nil, err
	}
	if rows, err = d.query(ctx, columnsSQL, t.oid); err != nil {
		return nil, err
	}
	for _, r := range rows {
		t.columns = append(t.columns, column{name: string(r[0]), typ: string(r[1]), notNull: string(r[2]) == "t", generated: len(r[3]) > 0})
	}
	if rows, err = d.query(ctx, indexesSQL, t.oid); err != nil {
		return nil, err
	}
	for i, r := range rows {
		if i == 0 || string(r[0]) != string(rows[i-1][0]) {
			t.indexes = append(t.indexes, index{primary: string(r[1]) == "t", replica: string(r[2]) == "t", unique: string(r[3]) == "t"})
		}
		x := &t.indexes[len(t.indexes)-1]
		x.columns = append(x.columns, string(r[4]))
		x.operators = append(x.operators, "OPERATOR("+quote(string(r[5]))+"."+string(r[6])+")")
	}
	return t, nil
}

// What publications send of a table: generated columns not before version 18, whatever the view says. Several
// publications of one table have the same column list, and their row filters are alternatives. A table without columns has
// one row, without a name.
const sentSQL = `
SELECT a.name, rowfilter IS NULL, coalesce(rowfilter, '')
FROM pg_catalog.pg_publication_tables LEFT JOIN LATERAL pg_catalog.unnest(attnames) a(name) ON true WHERE pubname = ANY ($1::name[]) AND schemaname = $2 AND tablename = $3`

const sendsGenerated = 180000

// describePublished is describe for a shard, with what its publications send.
func describePublished(ctx context.Context, d *database, name tableName, publications []string) (*described, error) {
	t, err := describe(ctx, d, name)
	if err != nil || t == nil {
		return nil, err
	}
	rows, err := d.query(ctx, sentSQL, array(publications), name.schema, name.name)
	if err != nil {
		return nil, fmt.Errorf("describe table %s: %w", name, err)
	}
	if len(rows) == 0 {
		return nil, nil // not published here
	}
	var filters []string
	everything := false
	for _, r := range rows {
		if i := t.column(string(r[0])); i >= 0 {
			t.columns[i].published = !t.columns[i].generated || d.version >= sendsGenerated
		}
		everything = everything || string(r[1]) == "t"
		filters = append(filters, "("+string(r[2])+")")
	}
	if !everything {
		slices.Sort(filters)
		t.filter = strings.Join(slices.Compact(filters), " OR ")
	}
	return t, nil
}

func (t *described) column(name string) int {
	return slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
}

// identityColumns are those that every change of a row carries, in the order of their index. all: the whole row.
func (t *described) identityColumns() (names []string, all bool) {
	for _, x := range t.indexes {
		if t.identity == "d" && x.primary && x.unique || t.identity == "i" && x.replica {
			return x.columns, false
		}
	}
	return nil, t.identity == "f"
}

// operator is the equality operator of an index on the column; empty: there is none.
func (t *described) operator(name string) string {
	for _, x := range t.indexes {
		if i := slices.Index(x.columns, name); i >= 0 {
			return x.operators[i]
		}
	}
	return ""
}

// leads says that an index begins with the column.
func (t *described) leads(name string) bool {
	return slices.ContainsFunc(t.indexes, func(x index) bool { return x.columns[0] == name })
}
