package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
)

// Table is a table as the shard publishes it.
type Table struct {
	fold.Table
	// Relation is what pgoutput would say of the table now. Two chunks of a Session have the same one as long as that is so.
	Relation *pipeline.Relation
	// Rows and Bytes are estimates by size and statistics, of all partitions together. Bytes has the TOAST data and no indexes.
	Rows, Bytes int64
	// Fault says why the rows cannot be read, and what to try; empty: nothing is known that speaks against it.
	Fault string

	oid         string
	partitioned bool
	filter      string      // a condition on its rows, as SQL; empty: every row
	key         []keyColumn // of Table.Key
	stamp       string      // of the catalog's rows that this was made from
}

func (t *Table) quoted() string { return identifier(t.Schema) + "." + identifier(t.Name) }

// from is the table in a FROM clause or behind LOCK TABLE.
func (t *Table) from() string {
	if t.partitioned {
		return t.quoted()
	}
	return "ONLY " + t.quoted()
}

// where joins conditions with the row filter.
func (t *Table) where(conditions ...string) string {
	all := slices.DeleteFunc(append([]string{t.filter}, conditions...), func(c string) bool { return c == "" })
	if len(all) == 0 {
		return ""
	}
	return " WHERE (" + strings.Join(all, ") AND (") + ")"
}

// Order says, of each column of Key, in which order ranges have its values. Ranges mean nothing in another one.
func (t *Table) Order() []string {
	order := make([]string, len(t.key))
	for i, c := range t.key {
		order[i] = c.order
	}
	return order
}

// columns is what is read of a row.
func (t *Table) columns() string {
	names := make([]string, len(t.Relation.Columns))
	for i, c := range t.Relation.Columns {
		names[i] = identifier(c.Name)
	}
	return strings.Join(names, ", ")
}

// Tables lists every published table, by the name that its rows are published under.
func (s *Session) Tables(ctx context.Context) (tables []*Table, err error) {
	err = s.transaction(ctx, "SELECT", func([]*pgconn.Result) error {
		tables, err = s.catalog(ctx, "true")
		return err
	})
	return tables, s.fail("list the published tables", nil, err)
}

// Describe looks at one published table. ErrGone: there is none of this name.
func (s *Session) Describe(ctx context.Context, schema, name string) (t *Table, err error) {
	t = &Table{Table: fold.Table{Schema: schema, Name: name}}
	begin := s.stampSQL(t)
	err = s.transaction(ctx, begin, func(results []*pgconn.Result) error {
		described, err := s.describe(ctx, t, stampOf(results))
		if err == nil {
			t = described
		}
		return err
	})
	if err != nil {
		return nil, s.fail("describe", t, err)
	}
	return t, nil
}

// describe looks at a table anew, unless what is known of it was made from the same rows of the catalog.
func (s *Session) describe(ctx context.Context, like *Table, stamp string) (*Table, error) {
	name := like.quoted()
	last := s.tables[name]
	if last != nil && last.stamp == stamp {
		return last, nil
	}
	tables, err := s.catalog(ctx, like.condition())
	if err != nil {
		return nil, err
	}
	if len(tables) != 1 {
		return nil, &Error{
			Shard: s.src.Name, Table: name, What: "it is not published by " + strings.Join(s.src.Publications, ", "),
			Try: "cdcctl remove-table, if it left for good", Err: ErrGone,
		}
	}
	t := tables[0]
	if last != nil && same(last.Relation, t.Relation) {
		t.Relation = last.Relation
	}
	if t.Fault == "" { // else what mends it may be nothing that the stamp shows
		t.stamp = stamp
	}
	s.tables[name] = t
	return t, nil
}

func same(a, b *pipeline.Relation) bool {
	return slices.Equal(a.Raw, b.Raw) && slices.Equal(a.Types, b.Types)
}

// stampSQL gives one row: the places of all rows of the catalog that say what a table is and what is published of it. An
// update of any of them is a new row at another place. Statistics are updated in place, and change nothing here.
func (s *Session) stampSQL(t *Table) string {
	return fmt.Sprintf(`
WITH t AS MATERIALIZED (SELECT c.oid, c.relnamespace, n.xmin::text || n.ctid || c.xmin || c.ctid AS place
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s),
p AS MATERIALIZED (SELECT oid, xmin::text || ctid AS place FROM pg_catalog.pg_publication WHERE pubname = ANY (%s))
SELECT t.oid || ' ' || t.place || pg_catalog.concat_ws(' ',
	(SELECT pg_catalog.string_agg(p.place, ' ' ORDER BY p.oid) FROM p),
	(SELECT pg_catalog.string_agg(r.xmin::text || r.ctid, ' ' ORDER BY r.oid) FROM pg_catalog.pg_publication_rel r
		WHERE r.prpubid IN (SELECT oid FROM p) AND (r.prrelid = t.oid OR r.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(t.oid)))),
	(SELECT pg_catalog.string_agg(r.xmin::text || r.ctid, ' ' ORDER BY r.oid) FROM pg_catalog.pg_publication_namespace r WHERE r.pnpubid IN (SELECT oid FROM p)),
	(SELECT pg_catalog.string_agg(i.xmin::text || i.ctid, ' ' ORDER BY i.indexrelid) FROM pg_catalog.pg_index i WHERE i.indrelid = t.oid),
	(SELECT pg_catalog.md5(pg_catalog.string_agg(a.xmin::text || a.ctid || y.xmin || y.ctid, ' ' ORDER BY a.attnum)) FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_type y ON y.oid = a.atttypid WHERE a.attrelid = t.oid AND a.attnum > 0))
FROM t`, literal(t.Schema), literal(t.Name), names(s.src.Publications))
}

// stampOf reads the result of stampSQL, which is the last one. Empty: there is no such table.
func stampOf(results []*pgconn.Result) string {
	rows := results[len(results)-1].Rows
	if len(rows) == 0 {
		return ""
	}
	return string(rows[0][0])
}

// open begins a transaction that reads a table: it is locked, then the snapshot is taken, then the table described. fn gets
// the table as the snapshot shows it.
func (s *Session) open(ctx context.Context, what string, like *Table, taken Taken, fn func(*Table, fold.Snapshot) error) error {
	plan := "" // an index is used wherever one can be: a plan that sorts the table for each chunk is never what is wanted
	if like.Key != nil {
		plan = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; "
	}
	begin := plan + "LOCK TABLE " + like.from() + " IN ACCESS SHARE MODE; SELECT pg_catalog.pg_current_snapshot(); " + s.stampSQL(like)
	err := s.transaction(ctx, begin, func(results []*pgconn.Result) error {
		snapshot, err := fold.ParseSnapshot(string(results[len(results)-2].Rows[0][0]))
		if err != nil {
			return err
		}
		if taken != nil {
			taken(snapshot)
		}
		t, err := s.describe(ctx, like, stampOf(results))
		if err != nil {
			return err
		}
		if t.Fault != "" {
			return s.refuse(t)
		}
		if like.Key != nil && (!slices.Equal(t.Key, like.Key) || !slices.Equal(t.Order(), like.Order())) { // nil: one that is read whole, whatever key it has
			return s.otherKey(like, t)
		}
		return fn(t, snapshot)
	})
	if code(err) == lockNotAvailable {
		err = errors.Join(err, s.blockers(ctx, like))
	}
	return s.fail(what, like, err)
}

// refuse is a table's fault as an error.
func (s *Session) refuse(t *Table) error {
	what, try, _ := strings.Cut(t.Fault, ". Try: ")
	return &Error{Shard: s.src.Name, Table: t.quoted(), What: what, Try: try}
}

func (s *Session) otherKey(was, is *Table) error {
	return &Error{
		Shard: s.src.Name, Table: was.quoted(), Err: ErrKey,
		What: fmt.Sprintf("its key was %s and is %s", was.keyText(), is.keyText()),
		Try:  "the former key again, or cdcctl remove-table and cdcctl add-table",
	}
}

// keyText is the key for people: columns and their types.
func (t *Table) keyText() string {
	columns := make([]string, len(t.Key))
	for i, name := range t.Key {
		if columns[i] = name; i < len(t.key) {
			columns[i] += " " + t.key[i].cast
		}
	}
	return "(" + strings.Join(columns, ", ") + ")"
}

// blockers names who holds, or waits for, a lock that nobody may read beside.
func (s *Session) blockers(ctx context.Context, t *Table) error {
	results, err := s.query(ctx, fmt.Sprintf(`SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', 'pid', l.pid, a.usename, a.application_name,
	'in a transaction since ' || pg_catalog.date_trunc('second', a.xact_start)), ', ' ORDER BY l.granted DESC, a.xact_start)
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation = (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
	ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s)
AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`, literal(t.Schema), literal(t.Name)))
	if err != nil {
		return err
	}
	if who := results[0].Rows[0][0]; who != nil {
		return fmt.Errorf("it is locked by %s", who)
	}
	return nil // it ended just now
}

// identifier quotes a name.
func identifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// literal quotes a string.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// names is an array of names.
func names(list []string) string {
	quoted := make([]string, len(list))
	for i, n := range list {
		quoted[i] = literal(n)
	}
	return "ARRAY[" + strings.Join(quoted, ", ") + "]::name[]"
}
