package copier

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
)

// publishedSQL gives a row for each table and publication. A partition whose partitioned table is published, too, is sent
// under that one's name. What is asked about rights is what reading needs.
const publishedSQL = `
SELECT p.name FROM pg_catalog.unnest(%[1]s) p(name) WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = p.name);
WITH p AS MATERIALIZED (
	SELECT c.oid, c.relkind, c.relreplident, c.relispartition, n.oid AS nspoid, n.nspname, c.relname, p.attnames, p.rowfilter
	FROM pg_catalog.pg_publication_tables p JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
	JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
	WHERE p.pubname = ANY (%[1]s))
SELECT c.oid, c.nspname, c.relname, c.relkind = 'p', c.relreplident, pg_catalog.to_json(c.attnames), c.rowfilter,
	pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.has_schema_privilege(c.nspoid, 'USAGE'), pg_catalog.row_security_active(c.oid),
	CASE WHEN c.relkind = 'p' THEN (SELECT pg_catalog.min(f.oid::regclass::text) FROM pg_catalog.pg_partition_tree(c.oid) l
		JOIN pg_catalog.pg_class f ON f.oid = l.relid WHERE f.relkind = 'f') END
FROM p AS c CROSS JOIN LATERAL (SELECT c.nspname) n(nspname)
WHERE (%[2]s) AND NOT (c.relispartition AND EXISTS (
	SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a JOIN p AS up ON up.oid = a.relid WHERE a.relid <> c.oid))
ORDER BY c.nspname, c.relname, c.oid`

// columnsSQL: the type's name is what a Type message says (of a domain its base type's); the cast that of a value.
const columnsSQL = `
SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, a.attgenerated, n.nspname, t.typname, pg_catalog.format_type(base.oid, -1)
FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL (
	WITH RECURSIVE up(oid) AS (
		SELECT a.atttypid
		UNION ALL SELECT t.typbasetype FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype = 'd')
	SELECT up.oid FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype <> 'd') base
JOIN pg_catalog.pg_type t ON t.oid = base.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum`

// indexesSQL gives a row for each column of an index that proves that no two rows are alike in its columns, at any time. The
// operators are those of the index, by strategy: <, <=, =, >=, >.
const indexesSQL = `
SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident, a.attname, a.attnotnull,
	(SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, o.oprname) ORDER BY ao.amopstrategy)
		FROM pg_catalog.pg_amop ao JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
		WHERE ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype AND ao.amoppurpose = 's'),
	(SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(co.collname) FROM pg_catalog.pg_collation co
		JOIN pg_catalog.pg_namespace n ON n.oid = co.collnamespace WHERE co.oid = i.indcollation[k.n] AND co.oid <> a.attcollation),
	(SELECT y.typtype = 'd' AND of.typtype = 'p' FROM pg_catalog.pg_type y, pg_catalog.pg_type of WHERE y.oid = a.atttypid AND of.oid = oc.opcintype), oc.opcdefault,
	oc.opcfamily || ' ' || i.indcollation[k.n]
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) k(n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n]
JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[k.n]
WHERE i.indrelid = ANY (%s) AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid, k.n`

// sizesSQL: where the statistics know how many rows a page has, its pages now say how many rows there are; else a guess.
const sizesSQL = `
SELECT t.oid, pg_catalog.sum(CASE WHEN c.relpages > 0 AND c.reltuples >= 0 THEN c.reltuples / c.relpages * (s.bytes / b.size) ELSE s.bytes / 100 END)::bigint,
	coalesce(pg_catalog.sum(pg_catalog.pg_table_size(c.oid)), 0)::bigint
FROM pg_catalog.unnest(%s) t(oid) CROSS JOIN (SELECT pg_catalog.current_setting('block_size')::float8) b(size)
CROSS JOIN LATERAL (SELECT t.oid::regclass UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(t.oid) p WHERE p.isleaf) l(oid)
JOIN pg_catalog.pg_class c ON c.oid = l.oid CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.pg_relation_size(c.oid), 0)) s(bytes)
WHERE c.relkind = 'r' GROUP BY t.oid`

// sendsGenerated is the first version that can publish generated columns. What the view says of earlier ones is not so.
const sendsGenerated = 180000

// shape is what the catalog says of a table, as it is gathered.
type shape struct {
	table    *Table
	identity byte
	listed   []string // the columns that are published
	columns  []columnShape
	indexes  []indexShape
}

type columnShape struct {
	name      string
	typ       uint32
	modifier  int32
	generated bool
	base      pipeline.Type // the type's, of a domain its base type's; OID is that of typ
	cast      string
}

type indexShape struct {
	oid              string
	primary, replica bool
	notNull          bool
	odd              bool        // has a column whose order cannot be written down
	columns          []keyColumn // Cast is not known yet
}

// catalog describes the published tables for which a condition on c (pg_class) and n (pg_namespace) holds.
func (s *Session) catalog(ctx context.Context, condition string) ([]*Table, error) {
	results, err := s.query(ctx, fmt.Sprintf(publishedSQL, names(s.src.Publications), condition))
	if err != nil {
		return nil, err
	}
	if missing := results[0].Rows; len(missing) > 0 {
		name := string(missing[0][0])
		return nil, &Error{Shard: s.src.Name, What: fmt.Sprintf("publication %q does not exist", name), Try: "create it again with the same name and tables"}
	}
	shapes, order, err := s.published(results[1])
	if err != nil || len(order) == 0 {
		return nil, err
	}
	oids := "'{" + strings.Join(order, ",") + "}'::oid[]"
	if results, err = s.query(ctx, fmt.Sprintf(columnsSQL+";"+indexesSQL+";"+sizesSQL, oids, oids, oids)); err != nil {
		return nil, err
	}
	for i, take := range []func(*shape, [][]byte) error{(*shape).column, (*shape).index, (*shape).size} {
		for _, row := range results[i].Rows {
			if err := take(shapes[string(row[0])], row); err != nil {
				return nil, err
			}
		}
	}
	tables := make([]*Table, len(order))
	for i, oid := range order {
		if tables[i], err = shapes[oid].finish(s.version); err != nil {
			return nil, err
		}
	}
	return tables, nil
}

// published reads the rows of publishedSQL: column lists have to be the same, row filters are alternatives.
func (s *Session) published(result *pgconn.Result) (shapes map[string]*shape, order []string, err error) {
	shapes = map[string]*shape{}
	filters := map[string][]string{}
	for _, row := range result.Rows {
		oid := string(row[0])
		sh := shapes[oid]
		var listed []string
		if err := json.Unmarshal(row[5], &listed); row[5] != nil && err != nil {
			return nil, nil, fmt.Errorf("columns %s: %w", row[5], err)
		}
		if sh == nil {
			t := &Table{oid: oid, partitioned: string(row[3]) == "t"}
			t.Schema, t.Name = string(row[1]), string(row[2])
			t.Fault = s.fault(t, row)
			sh = &shape{table: t, identity: row[4][0], listed: listed}
			shapes[oid] = sh
			order = append(order, oid)
		} else if !slices.Equal(sh.listed, listed) && sh.table.Fault == "" {
			sh.table.Fault = "publications list different columns of it, which PostgreSQL does not send. Try: ALTER PUBLICATION … SET TABLE with the same columns"
		}
		filter := "true"
		if row[6] != nil {
			filter = string(row[6])
		}
		filters[oid] = append(filters[oid], filter)
	}
	for oid, alternatives := range filters {
		if !slices.Contains(alternatives, "true") {
			slices.Sort(alternatives)
			shapes[oid].table.filter = strings.Join(slices.Compact(alternatives), " OR ")
		}
	}
	return shapes, order, nil
}

// fault looks at what keeps us from reading a table.
func (s *Session) fault(t *Table, row [][]byte) string {
	yes := func(i int) bool { return string(row[i]) == "t" }
	switch {
	case !yes(8):
		return fmt.Sprintf("role %s may not use its schema. Try: GRANT USAGE ON SCHEMA %s TO %s", s.role, identifier(t.Schema), s.role)
	case !yes(7):
		return fmt.Sprintf("role %s may not read it. Try: GRANT SELECT ON %s TO %s", s.role, t.quoted(), s.role)
	case yes(9):
		return fmt.Sprintf("row-level security hides rows of it from role %s. Try: ALTER ROLE %s BYPASSRLS", s.role, s.role)
	case row[10] != nil:
		return fmt.Sprintf("its partition %s is a foreign table, whose changes are not in the WAL. Try: publish the other partitions, each by its own name", row[10])
	}
	return ""
}

func (sh *shape) column(row [][]byte) error {
	typ, err := strconv.ParseUint(string(row[2]), 10, 32)
	if err != nil {
		return fmt.Errorf("type of column %s: %w", row[1], err)
	}
	modifier, err := strconv.ParseInt(string(row[3]), 10, 32)
	if err != nil {
		return fmt.Errorf("type modifier of column %s: %w", row[1], err)
	}
	sh.columns = append(sh.columns, columnShape{
		name: string(row[1]), typ: uint32(typ), modifier: int32(modifier), generated: len(row[4]) > 0,
		base: pipeline.Type{OID: uint32(typ), Namespace: string(row[5]), Name: string(row[6])}, cast: string(row[7]),
	})
	return nil
}

func (sh *shape) index(row [][]byte) error {
	if n := len(sh.indexes); n == 0 || sh.indexes[n-1].oid != string(row[1]) {
		sh.indexes = append(sh.indexes, indexShape{oid: string(row[1]), primary: string(row[2]) == "t", replica: string(row[3]) == "t", notNull: true})
	}
	x := &sh.indexes[len(sh.indexes)-1]
	x.notNull = x.notNull && string(row[5]) == "t"
	c := keyColumn{name: string(row[4]), collation: string(row[7]), bare: string(row[8]) == "t", order: string(row[10])}
	x.odd = x.odd || c.bare && (string(row[9]) != "t" || c.collation != "")
	var operators [][2]string
	if err := json.Unmarshal(row[6], &operators); err != nil || len(operators) != len(c.operators) {
		return fmt.Errorf("operators of an index on column %s: %s", c.name, row[6])
	}
	for i, o := range operators {
		c.operators[i] = operator(o)
	}
	x.columns = append(x.columns, c)
	return nil
}

func (sh *shape) size(row [][]byte) (err error) {
	if sh.table.Rows, err = strconv.ParseInt(string(row[1]), 10, 64); err == nil {
		sh.table.Bytes, err = strconv.ParseInt(string(row[2]), 10, 64)
	}
	return err
}

// finish leaves the columns that are sent, and makes of them what pgoutput would say.
func (sh *shape) finish(version int) (*Table, error) {
	sh.columns = slices.DeleteFunc(sh.columns, func(c columnShape) bool {
		return sh.listed != nil && !slices.Contains(sh.listed, c.name) || c.generated && (version < sendsGenerated || sh.listed == nil)
	})
	var identity *indexShape
	for i, x := range sh.indexes {
		if sh.identity == 'd' && x.primary || sh.identity == 'i' && x.replica {
			identity = &sh.indexes[i]
		}
	}
	t := sh.table
	var err error
	types := func(oid uint32) (pipeline.Type, bool) {
		i := slices.IndexFunc(sh.columns, func(c columnShape) bool { return c.typ == oid })
		return sh.columns[i].base, true
	}
	if t.Relation, err = pipeline.ParseRelation(sh.message(identity), types); err != nil {
		return nil, fmt.Errorf("table %s: %w", t, err)
	}
	t.key = sh.chooseKey(identity)
	for _, c := range t.key {
		t.Key = append(t.Key, c.name)
	}
	return t, nil
}

// message is the Relation message.
func (sh *shape) message(identity *indexShape) []byte {
	oid, _ := strconv.ParseUint(sh.table.oid, 10, 32) // PostgreSQL's own
	msg := binary.BigEndian.AppendUint32([]byte{'R'}, uint32(oid))
	if sh.table.Schema != "pg_catalog" {
		msg = append(msg, sh.table.Schema...)
	}
	msg = append(append(append(msg, 0), sh.table.Name...), 0, sh.identity)
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(sh.columns)))
	for _, c := range sh.columns {
		flag := byte(0)
		if sh.identity == 'f' || identity != nil && identity.has(c.name) {
			flag = 1
		}
		msg = append(append(append(msg, flag), c.name...), 0)
		msg = binary.BigEndian.AppendUint32(msg, c.typ)
		msg = binary.BigEndian.AppendUint32(msg, uint32(c.modifier))
	}
	return msg
}

func (x *indexShape) has(column string) bool {
	return slices.ContainsFunc(x.columns, func(c keyColumn) bool { return c.name == column })
}

// chooseKey finds columns that name a row: what the changes of a row carry, if they carry less than everything. Nil: none.
func (sh *shape) chooseKey(identity *indexShape) []keyColumn {
	if identity != nil {
		return sh.keyOf(identity)
	}
	for i := range sh.indexes {
		if key := sh.keyOf(&sh.indexes[i]); key != nil {
			return key
		}
	}
	return nil
}

// keyOf is nil if a column of the index is not published, may be NULL, or has no order that a query could ask for.
func (sh *shape) keyOf(x *indexShape) []keyColumn {
	if !x.notNull || x.odd {
		return nil
	}
	key := slices.Clone(x.columns)
	for i := range key {
		at := slices.IndexFunc(sh.columns, func(c columnShape) bool { return c.name == key[i].name })
		if at < 0 {
			return nil
		}
		key[i].at, key[i].cast = at, sh.columns[at].cast
	}
	return key
}
