package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// newDDLWorld has a table on every side.
func newDDLWorld(t *testing.T, shards int) *world {
	w := newWorld(t, shards)
	w.cfg.DDL = postgres.DDLCapture
	w.both("CREATE TABLE t (id int PRIMARY KEY, a text)")
	w.capture()
	return w
}

// alter runs a statement on a shard, with the mark that its event triggers would write, and others in the same transaction.
func (w *world) alter(shard int, sql, others string, objects ...mark.DDLObject) {
	w.t.Helper()
	words := strings.Fields(sql)
	d := mark.DDL{
		Subscription: "s", Statement: sql, Tag: strings.ToUpper(words[0] + " " + words[1]), Nth: 1, SearchPath: "public",
		Objects: append(objects, mark.DDLObject{Type: mark.DDLTable, Schema: "public", Name: "t"}),
	}
	w.shards[shard].exec("BEGIN; " + sql + "; SELECT pg_logical_emit_message(true, 'cdc.ddl', $mark$" + string(d.Content()) + "$mark$); " + others + "; COMMIT")
}

func (w *world) columns() string {
	return strings.ReplaceAll(w.target.rows("SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"), "\n", " ")
}

var droppedA = mark.DDLObject{Type: mark.DDLColumn, Schema: "public", Name: "t", Column: "a", Dropped: true}

// What a shard alone dropped stays until all have, over sessions that come and go.
func TestDDLWaitsForAll(t *testing.T) {
	w := newDDLWorld(t, 3)
	w.both("ALTER TABLE t ALTER a SET NOT NULL")
	w.capture()
	for i := range w.shards {
		w.alter(i, "ALTER TABLE t DROP a", "INSERT INTO t VALUES ("+string(rune('1'+i))+")", droppedA)
		want := "id a "
		if i == 2 {
			want = "id "
		} else {
			w.shards[2].exec("INSERT INTO t VALUES (1" + string(rune('0'+i)) + ", 'still')")
		}
		w.replay()
		if got := w.columns(); got != want {
			t.Errorf("after shard %d: columns %s, want %s", i, got, want)
		}
		if got := fmt.Sprint(w.session.Statements()); i == 0 && got != "[{1 ALTER TABLE t DROP a waits until every shard has run it [1 2]}]" || i == 2 && got != "[]" {
			t.Errorf("after shard %d: %s", i, got)
		}
		w.restart()
	}
	if got := w.target.rows("SELECT * FROM t ORDER BY id"); got != "1\n2\n3\n10\n11\n" {
		t.Errorf("rows %s", got)
	}
	if got := w.target.rows("SELECT outcome, complete, array_length(shards, 1) FROM cdc.ddl"); got != "executed|t|3\n" {
		t.Errorf("ledger %s", got)
	}
}

// A statement that fails undoes its transaction, and what came before is there.
func TestDDLFails(t *testing.T) {
	w := newDDLWorld(t, 1)
	w.target.exec("ALTER TABLE t ADD CONSTRAINT never CHECK (id < 100)")
	w.shards[0].exec("INSERT INTO t VALUES (1, 'x')")
	w.alter(0, "ALTER TABLE t ADD b int", "INSERT INTO t VALUES (200, 'x', 1)")
	txs := w.capture()
	if err := w.try(txs[:1]); err != nil {
		t.Fatal(err)
	}
	if err := w.try(txs[1:]); err == nil {
		t.Fatal("the row fits")
	}
	if got := w.columns() + w.target.rows("SELECT count(*) FROM cdc.ddl"); got != "id a 0\n" {
		t.Errorf("left by the attempt: %s", got)
	}
	w.target.exec("ALTER TABLE t DROP CONSTRAINT never")
	if err := w.try(txs[1:]); err != nil {
		t.Fatal(err)
	}
	w.same("t")
}

// A transaction that is left out takes its statement with it: it counts as seen, and is not asked for again.
func TestDDLLeftOut(t *testing.T) {
	w := newDDLWorld(t, 2)
	w.cfg.DDL = postgres.DDLStop
	w.alter(0, "ALTER TABLE t ADD b int", "SELECT 1")
	w.alter(1, "ALTER TABLE t ADD b int", "SELECT 1")
	txs := w.capture()
	var blocked *apply.Blocked
	if err := w.try(txs[:1]); !errors.As(err, &blocked) || blocked.CSN != txs[0].CSN || !strings.Contains(err.Error(), "INSERT INTO cdc.ddl_done VALUES ('s', 1)") {
		t.Fatalf("not stopped: %v", err)
	}
	w.open()
	g := w.group(txs)
	g.Skips = map[pipeline.CSN]apply.Skip{txs[0].CSN: {CSN: txs[0].CSN, Reason: "r", By: "me", At: time.Now()}}
	if err := w.session.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if got := w.target.rows("SELECT outcome, complete FROM cdc.ddl"); got != "left out with its transaction|t\n" {
		t.Errorf("ledger %s", got)
	}
}

// Rows that one shard deletes and another inserts, in a transaction with DDL; and TRUNCATE, which is not followed there.
func TestDDLAndTransactionsThatAreKnownWhole(t *testing.T) {
	w := newDDLWorld(t, 2)
	for i, s := range w.shards {
		s.exec("INSERT INTO t VALUES (" + string(rune('1'+i)) + ", 'x')")
	}
	w.replay()
	w.alter(0, "ALTER TABLE t ADD b int", "DELETE FROM t; INSERT INTO t VALUES (3, 'y', 1)")
	w.alter(1, "ALTER TABLE t ADD b int", "INSERT INTO t VALUES (4, 'y', 2)")
	if err := w.try(w.together(w.capture())); err != nil {
		t.Fatal(err)
	}
	if got := w.target.rows("SELECT * FROM t ORDER BY id"); got != "2|x|∅\n3|y|1\n4|y|2\n" {
		t.Errorf("rows %s", got)
	}
	w.alter(0, "ALTER TABLE t ADD c int", "TRUNCATE t")
	var blocked *apply.Blocked
	if err := w.try(w.capture()); !errors.As(err, &blocked) || !strings.Contains(err.Error(), "has DDL and a TRUNCATE") {
		t.Errorf("%v", err)
	}
}

// A table that a shard drops, and that was never captured, is none of a target's table of the same name; partitions are, and
// what the shards' statements made.
func TestDDLDropsOnlyWhatIsTheirs(t *testing.T) {
	w := newDDLWorld(t, 1)
	own := func(name string, published bool) mark.DDLObject {
		return mark.DDLObject{Type: mark.DDLTable, Schema: "public", Name: name, Dropped: true, Published: published}
	}
	w.target.exec("CREATE TABLE theirs (a int); CREATE TABLE root (a int) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF root DEFAULT; CREATE TABLE known (a int)")
	w.alter(0, "CREATE TABLE made (a int)", "SELECT 1", mark.DDLObject{Type: mark.DDLTable, Schema: "public", Name: "made"})
	w.source("CREATE TABLE theirs (a int); CREATE TABLE part (a int); CREATE TABLE known (a int)")
	w.alter(0, "DROP TABLE theirs, part, made, known", "SELECT 1", own("theirs", false), own("part", false), own("made", false), own("known", true))
	w.replay()
	if got := w.target.rows("SELECT relname FROM pg_class WHERE relname IN ('theirs', 'part', 'made', 'known')"); got != "theirs\n" {
		t.Errorf("left: %s", got)
	}
	w.source("CREATE TABLE theirs (a int)")
	w.alter(0, "DROP TABLE theirs", "SELECT 1", own("theirs", false))
	w.replay()
	if got := w.target.rows("SELECT outcome, (SELECT count(*) FROM theirs) FROM cdc.ddl ORDER BY id DESC LIMIT 1"); !strings.HasPrefix(got, "left to the target") {
		t.Errorf("%s", got)
	}
}

// Tables that have other names on the target: no statement fits there.
func TestDDLWithOtherNames(t *testing.T) {
	w := newDDLWorld(t, 1)
	w.cfg.Map = func(schema, table string) (string, string) { return schema, table }
	w.alter(0, "ALTER TABLE t ADD b int", "SELECT 1")
	if err := w.try(w.capture()); err == nil || !strings.Contains(err.Error(), "tables have other names here") {
		t.Error(err)
	}
}

// A worker that dies in the middle of it leaves nothing, and the next one does it.
func TestDDLKilled(t *testing.T) {
	w := newDDLWorld(t, 1)
	w.open()
	w.target.exec("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
	w.alter(0, "ALTER TABLE t RENAME a TO b", "INSERT INTO t VALUES (1, 'x')", mark.DDLObject{Type: mark.DDLColumn, Schema: "public", Name: "t", Column: "b"})
	txs := w.capture()
	killed := make(chan error, 1)
	go func() {
		admin, err := pgconn.Connect(t.Context(), server.DSNFor("postgres"))
		for done := false; err == nil && !done; {
			r := admin.ExecParams(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc apply s' AND datname = $1 AND wait_event_type = 'Lock'",
				[][]byte{[]byte(w.target.name)}, nil, nil, nil).Read()
			err, done = r.Err, len(r.Rows) > 0
		}
		if admin != nil {
			_ = admin.Close(t.Context())
		}
		killed <- err
	}()
	if err := w.try(txs); err == nil {
		t.Fatal("the statement did not wait")
	}
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	w.target.exec("COMMIT")
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
	w.same("t")
	w.proves("t")
}

// Rows that are there get other values when the target makes them itself.
func TestDDLVolatileUsing(t *testing.T) {
	w := newDDLWorld(t, 1)
	w.shards[0].exec("INSERT INTO t VALUES (1, 'x')")
	w.alter(0, "ALTER TABLE t ALTER a TYPE varchar(9) USING upper(a)", "SELECT 1")
	w.replay()
	w.same("t")
	w.alter(0, "ALTER TABLE t ALTER a TYPE uuid USING pg_catalog.gen_random_uuid()", "SELECT 1")
	err := w.try(w.capture())
	if err == nil || !strings.Contains(err.Error(), "column \"a\" gets what the volatile function gen_random_uuid returns") || !strings.Contains(err.Error(), "cdcctl resync s --table public.t") {
		t.Error(err)
	}
}

// While DDL is ignored nobody notices that the other shards run it, so it waits no longer.
func TestDDLForgotten(t *testing.T) {
	w := newDDLWorld(t, 2)
	w.alter(0, "ALTER TABLE t DROP a", "SELECT 1", droppedA)
	w.replay()
	w.cfg.DDL = postgres.DDLIgnore
	w.restart()
	w.open()
	w.cfg.DDL = postgres.DDLCapture
	w.restart()
	w.open()
	if got := w.session.Statements(); got != nil {
		t.Error(got)
	}
	if got := w.target.rows("SELECT executed, complete, outcome FROM cdc.ddl"); got != "f|t|waits until every shard has run it; DDL was ignored before every shard had run it\n" {
		t.Error(got)
	}
}

// Rows come in the old form from shards that run it later, and no place is right for a statement that makes other values.
func TestDDLOtherValuesBetweenShards(t *testing.T) {
	for name, sql := range map[string]string{"using": "ALTER TABLE t ALTER a TYPE text USING a || a", "cast": "ALTER TABLE t ALTER b TYPE text"} {
		t.Run(name, func(t *testing.T) {
			w := newDDLWorld(t, 2)
			w.both("ALTER TABLE t ADD b boolean")
			w.shards[0].exec("INSERT INTO t VALUES (1, 'x', true)")
			w.shards[1].exec("INSERT INTO t VALUES (2, 'y', true)")
			w.replay()
			w.alter(0, sql, "SELECT 1")
			w.shards[1].exec("UPDATE t SET id = 3")
			w.alter(1, sql, "SELECT 1")
			err := w.try(w.capture())
			if err == nil || !strings.Contains(err.Error(), "because shards run it one after the other, and column") || !strings.Contains(err.Error(), "When every shard has run it: cdcctl resync s --table public.t") {
				t.Error(err)
			}
		})
	}
	t.Run("fits", func(t *testing.T) {
		w := newDDLWorld(t, 2)
		for i := range w.shards {
			w.alter(i, "ALTER TABLE t ALTER a TYPE varchar USING a::varchar", "INSERT INTO t VALUES ("+string(rune('1'+i))+", 'x')")
		}
		w.replay()
		if got := w.target.rows("SELECT outcome, complete FROM cdc.ddl"); got != "executed|t\n" {
			t.Error(got)
		}
	})
}

// Rows of shards that have not got a new column get its default, whatever the others changed it to since (Django adds a
// column with a default, and drops the default at once).
func TestDDLDefaultDropped(t *testing.T) {
	w := newDDLWorld(t, 2)
	steps := []string{
		"ALTER TABLE t ADD b text DEFAULT 'new'", "ALTER TABLE t ALTER b DROP DEFAULT",
		"ALTER TABLE t ALTER a SET DEFAULT 'first'", "ALTER TABLE t ALTER a SET DEFAULT 'then'",
	}
	for _, sql := range steps {
		w.alter(0, sql, "SELECT 1")
	}
	w.shards[0].exec("INSERT INTO t VALUES (1, 'x')")
	w.shards[1].exec("INSERT INTO t VALUES (2, 'y')")
	for _, sql := range steps {
		w.alter(1, sql, "SELECT 1")
	}
	w.shards[1].exec("INSERT INTO t VALUES (3, 'y')")
	w.replay()
	if got := w.target.rows("SELECT id, coalesce(b, 'NULL') FROM t ORDER BY id"); got != "1|NULL\n2|new\n3|NULL\n" {
		t.Error(got)
	}
	if got := w.target.rows("SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 't'::regclass"); got != "'then'::text\n" {
		t.Error("defaults: ", got)
	}
}

// What is made after a table is made after what the shard has, not after what waits for others.
func TestDDLLike(t *testing.T) {
	w := newDDLWorld(t, 2)
	w.alter(0, "ALTER TABLE t DROP a", "SELECT 1", droppedA)
	w.alter(0, "CREATE TABLE u (LIKE t)", "SELECT 1", mark.DDLObject{Type: mark.DDLTable, Schema: "public", Name: "u"})
	w.shards[1].exec("INSERT INTO t VALUES (2, 'y')")
	w.replay()
	if got := w.target.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'u'::regclass AND attnum > 0"); got != "id\n" {
		t.Error(got)
	}
}
