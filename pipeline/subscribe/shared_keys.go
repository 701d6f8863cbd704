package subscribe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/format"
	"shardcdc/pipeline/textform"
)

// A key has to be unique over all shards: on a target the rows of all of them are in one table, and a copied row takes the
// place of the one with its key. Rows of two shards with one key would become one without a word, so a copy is refused where
// a few keys of each shard, the lowest and the highest, are on another shard, too. That is a sample, no proof: it finds
// serial columns that begin anew on each shard, and tables with the same rows everywhere.
const (
	sharedKeysTime     = 20 * time.Second // for all tables; the others are said to be not looked at
	sharedKeysTimeEach = "2s"             // for a query: an index that cannot be used must not become a scan
	sharedKeysEnd      = 50               // keys from each end of a table
)

// keyed is a shard whose keys are looked at.
type keyed struct {
	name, dsn    string
	publications []string // whose row filters decide which rows count
	tables       []table
}

// keyTable is a table of a shard as the queries for its keys need it.
type keyTable struct {
	table
	from    string      // as SQL
	filter  string      // as SQL: rows that do not pass are not sent
	columns []keyColumn // in the order of the index
}

type keyColumn struct {
	Name      string `json:"name"`
	Type      string `json:"type"`      // as SQL
	Collation string `json:"collation"` // of the index, as SQL; empty: the column's
	Operator  string `json:"operator"`  // equality as the index knows it, as SQL
}

// sharedKey is a key that two shards have.
type sharedKey struct {
	table       table
	values      []string
	first, also string // shards
}

func (s sharedKey) String() string {
	names := sortedKey(s.table.key)
	return fmt.Sprintf("%s, (%s) = (%s) on shards %s and %s", s.table.plain(), strings.Join(names, ", "), strings.Join(s.values, ", "), s.first, s.also)
}

func sortedKey(key []string) []string { return slices.Sorted(slices.Values(key)) }

// keysLook is a look at the keys of some shards.
type keysLook struct {
	shards  []keyed
	conns   []*database // nil: not reached, which is told of elsewhere
	tables  []map[string]keyTable
	samples []map[string][][]string // per shard and table; values in the order of the columns' names

	mu     sync.Mutex
	shared map[string]sharedKey
	other  map[string]table // have keys of other columns on some shard
	unseen map[string]table // not looked at
	failed error            // why, the first of the reasons
}

// sharedKeys finds keys that are on several shards. remedy is what mends it for a table with the same rows everywhere.
func sharedKeys(ctx context.Context, shards []keyed, severity Severity, remedy func(table) string) []Finding {
	ctx, cancel := context.WithTimeout(ctx, sharedKeysTime)
	defer cancel()
	l := &keysLook{
		shards: shards, conns: make([]*database, len(shards)), tables: make([]map[string]keyTable, len(shards)), samples: make([]map[string][][]string, len(shards)),
		shared: map[string]sharedKey{}, other: map[string]table{}, unseen: map[string]table{},
	}
	l.choose()
	defer l.hangUp()
	for _, step := range []func(context.Context, int){l.sample, l.find} {
		var wait sync.WaitGroup
		for i := range shards {
			wait.Go(func() { step(ctx, i) })
		}
		wait.Wait()
	}
	return l.findings(severity, remedy)
}

// choose leaves the tables that have a key and are on several shards.
func (l *keysLook) choose() {
	keys := map[string][]string{}
	count := map[string]int{}
	for _, s := range l.shards {
		for _, t := range s.tables {
			if len(t.key) == 0 {
				continue
			}
			key := sortedKey(t.key)
			if count[t.quoted()]++; keys[t.quoted()] == nil {
				keys[t.quoted()] = key
			} else if !slices.Equal(keys[t.quoted()], key) {
				l.other[t.quoted()] = t
			}
		}
	}
	for i := range l.shards {
		l.shards[i].tables = slices.DeleteFunc(slices.Clone(l.shards[i].tables), func(t table) bool {
			_, other := l.other[t.quoted()]
			return len(t.key) == 0 || count[t.quoted()] < 2 || other
		})
	}
}

func (l *keysLook) hangUp() {
	for _, db := range l.conns {
		if db != nil {
			db.hangUp()
		}
	}
}

// sample notes a few keys of each table of a shard.
func (l *keysLook) sample(ctx context.Context, i int) {
	s := l.shards[i]
	l.samples[i] = map[string][][]string{}
	if len(s.tables) == 0 {
		return
	}
	db, err := openForKeys(ctx, s.dsn)
	if err != nil {
		l.skip(err, s, s.tables...)
		return
	}
	l.conns[i] = db
	if l.tables[i], err = readKeyTables(ctx, db, s); err == nil {
		err = db.hurry(ctx)
	}
	if err != nil {
		l.skip(err, s, s.tables...)
		return
	}
	for _, t := range s.tables {
		kt, there := l.tables[i][t.quoted()]
		if !there {
			l.skip(errors.New("its key has no index that can be used"), s, t)
			continue
		}
		values, err := db.values(ctx, kt.sampleSQL())
		if err != nil {
			l.skip(err, s, t)
			continue
		}
		l.samples[i][t.quoted()] = values
	}
}

// find looks for the other shards' keys on a shard.
func (l *keysLook) find(ctx context.Context, i int) {
	db, s := l.conns[i], l.shards[i]
	for _, t := range s.tables {
		kt, there := l.tables[i][t.quoted()]
		if db == nil || !there {
			continue
		}
		for j := range l.shards {
			if j == i || l.found(t) {
				continue
			}
			hit, err := db.have(ctx, kt, l.samples[j][t.quoted()])
			if err != nil {
				l.skip(err, s, t)
				break
			}
			if hit != nil && l.still(ctx, j, t, hit) {
				l.note(sharedKey{table: t, values: hit, first: l.shards[j].name, also: s.name})
			}
		}
	}
}

// still says that the row is there still: it has not moved from one shard to the other since it was seen. The connection of the
// shard is at work, so this takes one of its own.
func (l *keysLook) still(ctx context.Context, j int, t table, key []string) bool {
	db, err := openForKeys(ctx, l.shards[j].dsn)
	if err != nil {
		l.skip(err, l.shards[j], t)
		return false
	}
	defer db.hangUp()
	if err := db.hurry(ctx); err != nil {
		l.skip(err, l.shards[j], t)
		return false
	}
	hit, err := db.have(ctx, l.tables[j][t.quoted()], [][]string{key})
	if err != nil {
		l.skip(err, l.shards[j], t)
	}
	return hit != nil
}

func (l *keysLook) found(t table) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, found := l.shared[t.quoted()]
	return found
}

func (l *keysLook) note(s sharedKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, found := l.shared[s.table.quoted()]; !found {
		l.shared[s.table.quoted()] = s
	}
}

// insufficientPrivilege is told of elsewhere, as a fault.
const insufficientPrivilege = "42501"

func (l *keysLook) skip(err error, s keyed, tables ...table) {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == insufficientPrivilege {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = fmt.Errorf("shard %s: %w", s.name, err)
		if errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
			l.failed = fmt.Errorf("shard %s: there was no time for all of them (%s)", s.name, sharedKeysTime)
		}
	}
	for _, t := range tables {
		l.unseen[t.quoted()] = t
	}
}

func (l *keysLook) findings(severity Severity, remedy func(table) string) (findings []Finding) {
	var shared []sharedKey
	for _, name := range slices.Sorted(maps.Keys(l.shared)) {
		shared = append(shared, l.shared[name])
		delete(l.unseen, name)
	}
	if len(shared) > 0 {
		texts := make([]string, min(len(shared), namesMax))
		for i := range texts {
			texts[i] = shared[i].String()
		}
		what := "keys are on more than one shard, and their rows would become one on a target: " + strings.Join(texts, "; ")
		if more := len(shared) - len(texts); more > 0 {
			what += fmt.Sprintf("; and %d more tables", more)
		}
		findings = append(findings, Finding{
			Severity: severity, About: "copy", What: what,
			Try: "keys that are unique across the shards (a serial column: ALTER SEQUENCE … INCREMENT BY " + fmt.Sprint(max(2, len(l.shards))) +
				", with another start on each shard, and other numbers for the rows that are there); or, where a table has the same rows on every shard, " + remedy(shared[0].table),
		})
	}
	const notLooked = "; cdcctl verify shows it after the copy"
	if len(l.other) > 0 {
		findings = append(findings, Finding{
			Severity: Warning, About: "copy", Try: "the same primary key on every shard",
			What: "tables have keys of other columns on other shards, so nobody looked whether rows of two shards have the same: " + list(sortedTables(l.other), table.plain) + notLooked,
		})
	}
	if len(l.unseen) > 0 {
		why, try, _ := strings.Cut(l.failed.Error(), ". Try: ")
		findings = append(findings, Finding{
			Severity: Warning, About: "copy", Try: try,
			What: "it was not looked at whether rows of two shards have the same key: " + list(sortedTables(l.unseen), table.plain) + " (" + why + ")" + notLooked,
		})
	}
	return findings
}

func sortedTables(all map[string]table) (tables []table) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		tables = append(tables, all[name])
	}
	return tables
}

// openForKeys opens a connection for keys as text.
func openForKeys(ctx context.Context, dsn string) (*database, error) {
	db, err := open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	set := "SET enable_seqscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0; SET jit = off"
	for _, s := range textform.Settings() {
		set += "; SET " + s[0] + " = '" + s[1] + "'"
	}
	if _, err := db.Exec(ctx, set, pgx.QueryExecModeSimpleProtocol); err != nil {
		db.hangUp()
		return nil, fmt.Errorf("look at keys: %w", err)
	}
	return db, nil
}

// keyTablesSQL: of an index over the columns of a key the types that its values are read as (of domains the base types), and
// its own equality, which is what makes it usable. $2: publications; only given ones have filters.
const keyTablesSQL = `
WITH f AS MATERIALIZED (
  SELECT p.schemaname, p.tablename, CASE WHEN bool_or(to_jsonb(p) ->> 'rowfilter' IS NULL) THEN '' ELSE string_agg(to_jsonb(p) ->> 'rowfilter', ' OR ') END AS condition
  FROM pg_catalog.pg_publication_tables p WHERE p.pubname = ANY ($2) GROUP BY 1, 2)
SELECT w.schema, w.name, c.relkind = 'p', coalesce(f.condition, ''),
  (SELECT x.columns FROM (
    SELECT i.indisprimary, i.indexrelid, jsonb_agg(a.attname ORDER BY k.n) AS names, jsonb_agg(jsonb_build_object('name', a.attname,
      'type', (WITH RECURSIVE up(oid) AS (SELECT a.atttypid UNION ALL SELECT t.typbasetype FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype = 'd')
        SELECT pg_catalog.format_type(up.oid, -1) FROM up JOIN pg_catalog.pg_type t ON t.oid = up.oid WHERE t.typtype <> 'd'),
      'collation', coalesce((SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(co.collname) FROM pg_catalog.pg_collation co
        JOIN pg_catalog.pg_namespace n ON n.oid = co.collnamespace WHERE co.oid = i.indcollation[k.n] AND co.oid <> a.attcollation), ''),
      'operator', (SELECT 'OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || o.oprname || ')' FROM pg_catalog.pg_amop ao JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
        JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
        WHERE ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype AND ao.amoppurpose = 's' AND ao.amopstrategy = 3)) ORDER BY k.n) AS columns
    FROM pg_catalog.pg_index i CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) k(n)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n] JOIN pg_catalog.pg_opclass oc ON oc.oid = i.indclass[k.n]
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL GROUP BY i.indexrelid, i.indisprimary) x
  WHERE x.names = w.key ORDER BY x.indisprimary DESC, x.indexrelid LIMIT 1)
FROM jsonb_to_recordset($1) AS w(schema text, name text, key jsonb)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
LEFT JOIN f ON f.schemaname = w.schema AND f.tablename = w.name`

func readKeyTables(ctx context.Context, db *database, s keyed) (map[string]keyTable, error) {
	type wish struct {
		Schema string   `json:"schema"`
		Name   string   `json:"name"`
		Key    []string `json:"key"`
	}
	wishes := make([]wish, len(s.tables))
	for i, t := range s.tables {
		wishes[i] = wish{t.schema, t.name, t.key}
	}
	rows, err := db.Query(ctx, keyTablesSQL, wishes, slices.Concat([]string{}, s.publications))
	if err != nil {
		return nil, fmt.Errorf("look at the keys' indexes: %w", err)
	}
	all := map[string]keyTable{}
	var (
		k           keyTable
		partitioned bool
		columns     *[]keyColumn
	)
	_, err = pgx.ForEachRow(rows, []any{&k.schema, &k.name, &partitioned, &k.filter, &columns}, func() error {
		if columns == nil {
			return nil
		}
		one := k
		one.columns, one.from = *columns, "ONLY "+k.quoted()
		if partitioned {
			one.from = k.quoted()
		}
		all[k.quoted()] = one
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at the keys' indexes: %w", err)
	}
	return all, nil
}

// sorted are the columns in the order of their names, in which values are given.
func (k *keyTable) sorted() []keyColumn {
	return slices.SortedFunc(slices.Values(k.columns), func(a, b keyColumn) int { return strings.Compare(a.Name, b.Name) })
}

func (k *keyTable) where(and string) string {
	if k.filter == "" {
		return ""
	}
	return " " + and + " (" + k.filter + ")"
}

// sampleSQL reads keys from both ends of the index, however few of them pass the filter.
func (k *keyTable) sampleSQL() string {
	var texts, up, down []string
	for _, c := range k.sorted() {
		texts = append(texts, pgx.Identifier{c.Name}.Sanitize()+"::text")
	}
	for _, c := range k.columns {
		by := pgx.Identifier{c.Name}.Sanitize()
		if c.Collation != "" {
			by += " COLLATE " + c.Collation
		}
		up, down = append(up, by), append(down, by+" DESC")
	}
	end := func(by []string) string {
		return fmt.Sprintf("(SELECT ARRAY[%s] FROM (SELECT * FROM %s ORDER BY %s LIMIT %d) s%s)", strings.Join(texts, ", "), k.from, strings.Join(by, ", "), sharedKeysEnd, k.where("WHERE"))
	}
	return end(up) + " UNION " + end(down)
}

// haveSQL looks for keys one by one in the index.
func (k *keyTable) haveSQL() string {
	var arrays, names, values, equal []string
	for i, c := range k.sorted() {
		column := "w." + pgx.Identifier{fmt.Sprint(i)}.Sanitize()
		arrays, names, values = append(arrays, fmt.Sprintf("$%d::text[]", i+1)), append(names, pgx.Identifier{fmt.Sprint(i)}.Sanitize()), append(values, column)
		left := "t." + pgx.Identifier{c.Name}.Sanitize()
		if c.Collation != "" {
			left += " COLLATE " + c.Collation
		}
		equal = append(equal, left+" "+c.Operator+" "+column+"::"+c.Type)
	}
	return fmt.Sprintf("SELECT ARRAY[%s] FROM unnest(%s) AS w(%s) CROSS JOIN LATERAL (SELECT FROM %s AS t WHERE %s%s LIMIT 1) AS found LIMIT 1",
		strings.Join(values, ", "), strings.Join(arrays, ", "), strings.Join(names, ", "), k.from, strings.Join(equal, " AND "), k.where("AND"))
}

// hurry bounds each query that follows.
func (d *database) hurry(ctx context.Context) error {
	_, err := d.Exec(ctx, "SET statement_timeout = '"+sharedKeysTimeEach+"'")
	return err
}

func (d *database) values(ctx context.Context, sql string, args ...any) ([][]string, error) {
	rows, err := d.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[[]string])
}

// dataException is the class of errors about values that a type does not have: such a key is not there.
const dataException = "22"

// have returns one of the keys that a table has; nil: it has none of them.
func (d *database) have(ctx context.Context, k keyTable, keys [][]string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	args := make([]any, len(k.columns))
	for c := range args {
		column := make([]string, len(keys))
		for i, values := range keys {
			column[i] = values[c]
		}
		args[c] = column
	}
	found, err := d.values(ctx, k.haveSQL(), args...)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && strings.HasPrefix(pg.Code, dataException):
		if len(keys) == 1 {
			return nil, nil
		}
		for _, half := range [][][]string{keys[:len(keys)/2], keys[len(keys)/2:]} {
			if hit, err := d.have(ctx, k, half); hit != nil || err != nil {
				return hit, err
			}
		}
		return nil, nil
	case err != nil || len(found) == 0:
		return nil, err
	}
	return found[0], nil
}

// sharedKeysSeverity: targets put the rows of all shards into one table. A feed without targets says of each row which shard
// has it, and its readers may keep them apart.
func sharedKeysSeverity(name string, targets int) Severity {
	if name == format.JSON && targets == 0 {
		return Warning
	}
	return Error
}
