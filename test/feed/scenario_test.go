package feed

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mark"
	"shardcdc/test/harness/matrix"
)

// spread is a model of two shards: which of them has a row.
type spread struct {
	r    *rand.Rand
	rows map[string]map[int]int // of a table: id to shard
	only string                 // the table that is changed; empty: all
	next int
	// again: rows come back under ids that were there before.
	again bool
}

// free is an id that no row has.
func (p *spread) free(rows map[int]int) int {
	for id := 1; p.again; id++ {
		if _, there := rows[id]; !there {
			return id
		}
	}
	return p.next
}

// change makes some changes of both shards, as one distributed transaction does.
func (p *spread) change() (shards [2][]string) {
	add := func(shard int, format string, args ...any) {
		shards[shard] = append(shards[shard], fmt.Sprintf(format, args...))
	}
	for range 1 + p.r.IntN(8) {
		table := []string{"k", "f"}[p.r.IntN(2)]
		if p.only != "" {
			table = p.only
		}
		rows := p.rows[table]
		shard := p.r.IntN(2)
		id, from := -1, 0
		for i, s := range rows { // some row
			id, from = i, s
			break
		}
		p.next++
		switch what := p.r.IntN(12); {
		case what < 3 || id < 0:
			to := p.free(rows)
			add(shard, "INSERT INTO %s VALUES (%d, 'new %d')", table, to, p.next)
			rows[to] = shard
		case what < 5:
			add(from, "UPDATE %s SET v = v || '.' WHERE id = %d", table, id)
		case what < 6:
			add(from, "DELETE FROM %s WHERE id = %d", table, id)
			delete(rows, id)
		case what < 7:
			to := p.free(rows)
			add(from, "UPDATE %s SET id = %d WHERE id = %d", table, to, id)
			delete(rows, id)
			rows[to] = from
		case what < 11: // it moves, changed or not
			if p.r.IntN(2) == 0 {
				add(from, "UPDATE %s SET v = 'on its way' WHERE id = %d", table, id)
			}
			add(from, "DELETE FROM %s WHERE id = %d", table, id)
			add(1-from, "INSERT INTO %s VALUES (%d, 'moved')", table, id)
			rows[id] = 1 - from
		case p.r.IntN(3) == 0:
			add(0, "TRUNCATE %s", table)
			add(1, "TRUNCATE %s", table)
			clear(rows)
		}
	}
	return shards
}

// Rows that come, go, move between shards, get other keys and are wiped: after every transaction both servers have what the shards have.
func TestRandom(t *testing.T) {
	r := seeded(t)
	w := newWorld(t, 2)
	const tables = "CREATE TABLE k (id int PRIMARY KEY, v text); CREATE TABLE f (id int PRIMARY KEY, v text);"
	w.source(tables + "ALTER TABLE f REPLICA IDENTITY FULL")
	target := newDatabase(t, "random_t")
	target.exec(strings.Split(tables, ";")[1]) // the other one is made by the statements
	db := newMariaDB(t, "random")
	feeds(t, mysqlClient(t, "random", tables))
	postgres := sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: format.PostgreSQL, CreateTables: true}})
	again := r.IntN(2) == 0 // every transaction is fed twice
	t.Logf("again: %t", again)
	maria := sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: format.MySQL, Idempotent: again}})
	p := spread{r: r, rows: map[string]map[int]int{"k": {0: 0}, "f": {}}}
	if again {
		p.only = "k" // of f the stream does not say the key
	}
	w.shards[0].exec("INSERT INTO k VALUES (0, '')")
	for n := range 40 {
		if n > 0 { // first come both tables
			for shard, statements := range p.change() {
				w.shards[shard].exec(slices.Concat([]string{"BEGIN"}, statements, []string{"COMMIT"})...)
			}
		}
		txs := w.capture()
		if len(txs) == 0 {
			continue
		}
		txs = together(txs)
		before := w.written
		feeds(t, psql(t, target.name, w.encode(postgres, format.PostgreSQL, txs)))
		w.written = before
		file := w.encode(maria, format.MySQL, txs)
		feeds(t, mysqlClient(t, "random", file))
		if again {
			feeds(t, mysqlClient(t, "random", file))
		}
		d, err := matrix.Compare(t.Context(), []string{"public.k", "public.f"}, w.dsns(), server.DSNFor(target.name))
		if err != nil || d.Count != 0 {
			t.Fatalf("%+v, %v\n%s", d, err, file)
		}
		for table, rows := range p.rows {
			if got := query(t, db, "SELECT id FROM random."+table); len(got) != len(rows) {
				t.Fatalf("%s: %d rows, want %d\n%s", table, len(got), len(rows), file)
			}
			want := w.shards[0].text("SELECT id, v FROM "+table+" ORDER BY 1") + w.shards[1].text("SELECT id, v FROM "+table+" ORDER BY 1")
			for _, row := range query(t, db, "SELECT id, v FROM random."+table) {
				if !strings.Contains("\n"+want, fmt.Sprintf("\n%s|%s\n", row[0], row[1])) {
					t.Fatalf("%s: %s|%s is not on the shards:\n%s\n%s", table, row[0], row[1], want, file)
				}
			}
		}
	}
}

func ddl(statement string) string {
	d := mark.DDL{Subscription: "s", Statement: statement, Tag: "ALTER TABLE", Nth: 1, SearchPath: `"$user", public`, Settings: map[string]string{"TimeZone": "Asia/Tokyo", "DateStyle": "SQL, DMY"}}
	return "SELECT pg_logical_emit_message(true, 'cdc.ddl', '" + strings.ReplaceAll(string(d.Content()), "'", "''") + "')"
}

// Statements that changed tables are run under the settings of their session, and what follows under those of the file.
func TestDDL(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
	target := newDatabase(t, "ddl_t")
	target.exec("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
	alter := "ALTER TABLE t ADD born timestamptz DEFAULT '03/04/2026 12:00' -- it's\n;"
	w.source("INSERT INTO t VALUES (0)", "BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'; SET LOCAL DateStyle = 'SQL, DMY'; INSERT INTO t VALUES (1, now());"+alter+ddl(alter)+"; INSERT INTO t VALUES (2, '05/04/2026 12:00'); COMMIT", "INSERT INTO t VALUES (3, now())")
	e := sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: format.PostgreSQL}})
	feeds(t, psql(t, target.name, w.encode(e, format.PostgreSQL, w.capture())))
	const rows = "SELECT id, at AT TIME ZONE 'UTC', born AT TIME ZONE 'UTC' FROM t ORDER BY id"
	if got, want := target.text(rows), w.shards[0].text(rows); got != want || !strings.Contains(got, "2026-04-03 03:00:00") {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// What may be wrong stops the client, and nothing of its transaction is there.
func TestStops(t *testing.T) {
	w := newWorld(t, 2)
	const table = "CREATE TABLE t (id int PRIMARY KEY, at timestamp)"
	w.source(table)
	target := newDatabase(t, "stops_t")
	target.exec(table)
	db := newMariaDB(t, "stops")
	feeds(t, mysqlClient(t, "stops", "CREATE TABLE t (id int PRIMARY KEY, at datetime(6))"))
	w.shards[0].exec("INSERT INTO t VALUES (1, '2026-11-20 12:00')", "BEGIN; INSERT INTO t VALUES (2); TRUNCATE t; INSERT INTO t VALUES (3); COMMIT")
	txs := w.capture()
	for _, dialect := range []string{format.PostgreSQL, format.MySQL} {
		w.written = 0
		file := w.encode(sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: dialect}}), dialect, txs)
		said := ""
		if dialect == format.PostgreSQL {
			said = psql(t, target.name, file)
		} else {
			said = mysqlClient(t, "stops", file)
		}
		if !strings.Contains(said, "TRUNCATE of public.t ran on 1 of 2 shards") {
			t.Errorf("%s: %s", dialect, said)
		}
	}
	if got := target.text("SELECT id FROM t"); got != "1\n" {
		t.Error(got)
	}
	if got := query(t, db, "SELECT id FROM stops.t"); len(got) != 1 || string(got[0][0]) != "1" {
		t.Errorf("%q", got)
	}
}

// read makes a copied row of an insert.
func read(txs []*pipeline.Transaction) {
	for _, tx := range txs {
		f := tx.Fragments[0]
		f.Ops = pipeline.OpsOf(pipeline.Read) | pipeline.OpsOf(pipeline.Message)
		for at := 0; at < len(f.Body); {
			n := int(f.Body[at])<<24 | int(f.Body[at+1])<<16 | int(f.Body[at+2])<<8 | int(f.Body[at+3])
			if f.Body[at+4] == 'I' {
				f.Body[at+4] = 'C'
			}
			at += 4 + n
		}
	}
}

// Copied rows may be there already: with a key, with one that only the whole row tells, and with a deferrable one.
func TestCopiedRows(t *testing.T) {
	w := newWorld(t, 1)
	const tables = `CREATE TABLE k (id int PRIMARY KEY, v text); CREATE TABLE f (id int PRIMARY KEY DEFERRABLE, v text, n numeric, j json);
		CREATE TABLE d (v text);`
	w.source(tables + "ALTER TABLE f REPLICA IDENTITY FULL; ALTER TABLE d REPLICA IDENTITY FULL")
	target := newDatabase(t, "copied_t")
	target.exec(tables, "INSERT INTO k VALUES (1, 'older')", `INSERT INTO f VALUES (1, NULL, 1.0, '{"a": 1}')`)
	db := newMariaDB(t, "copied")
	feeds(t, mysqlClient(t, "copied", "CREATE TABLE k (id int PRIMARY KEY, v text); CREATE TABLE f (id int PRIMARY KEY, v text, n text, j text); CREATE TABLE d (v text); INSERT INTO k VALUES (1, 'older'); INSERT INTO f VALUES (1, NULL, '1.0', '{\"a\": 1}')"))
	rows := func(table string, keyed bool) string {
		m := mark.Copy{Kind: mark.Rows, Job: "j", Tables: []mark.Table{{Schema: "public", Name: table, Keyed: keyed}}}
		return "SELECT pg_logical_emit_message(true, 'cdc.copy', '" + string(m.Content()) + "');"
	}
	w.source("BEGIN;"+rows("k", true)+"INSERT INTO k VALUES (1, 'a'), (2, 'b'); COMMIT",
		"BEGIN;"+rows("f", true)+`INSERT INTO f VALUES (1, NULL, 1.0, '{"a": 1}'), (2, '', 'NaN', 'null'); COMMIT`,
		"BEGIN;"+rows("d", false)+"INSERT INTO d VALUES ('x'), ('x'), (NULL); COMMIT")
	txs := w.capture()
	read(txs)
	feeds(t, psql(t, target.name, w.encode(sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: format.PostgreSQL}}), format.PostgreSQL, txs)))
	w.written = 0
	feeds(t, mysqlClient(t, "copied", w.encode(sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: format.MySQL}}), format.MySQL, txs)))
	d, err := matrix.Compare(t.Context(), []string{"public.k", "public.f", "public.d"}, w.dsns(), server.DSNFor(target.name))
	if err != nil || d.Count != 0 || d.Rows != 7 {
		t.Errorf("%+v, %v", d, err)
	}
	got := fmt.Sprintf("%q %q %q", query(t, db, "SELECT * FROM copied.k ORDER BY id"), query(t, db, "SELECT * FROM copied.f ORDER BY id"), query(t, db, "SELECT * FROM copied.d ORDER BY v"))
	if want := `[["1" "a"] ["2" "b"]] [["1" "" "1.0" "{\"a\": 1}"] ["2" "" "NaN" "null"]] [[""] ["x"] ["x"]]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
