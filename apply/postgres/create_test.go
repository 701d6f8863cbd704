package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/schedule"
	"shardcdc/pipeline/mark"
)

const madeColumns = `SELECT attname, pg_catalog.format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'own."Made"'::regclass AND attnum > 0 ORDER BY attnum`

// TestCreateTables: what is missing is made before the first row, with the source's types and key, and later rows find it.
func TestCreateTables(t *testing.T) {
	w := newWorld(t, 2)
	w.cfg.CreateTables = true
	for _, s := range w.shards {
		s.exec(`CREATE SCHEMA own; CREATE TABLE own."Made" (id int, part varchar(3), n numeric(8,-2), a timestamptz(3)[], PRIMARY KEY (id, part));
			CREATE TABLE bare (v json); CREATE TABLE emptied (id int PRIMARY KEY)`)
	}
	w.shards[0].exec(`BEGIN; INSERT INTO own."Made" VALUES (1, 'a', 1234, '{2024-01-01}'), (2, 'b', NULL, NULL); INSERT INTO bare VALUES ('{}'); COMMIT;
		UPDATE own."Made" SET n = 5000 WHERE id = 1; DELETE FROM own."Made" WHERE id = 2; TRUNCATE emptied`)
	w.shards[1].exec(`INSERT INTO own."Made" VALUES (7, 'z', 100, '{}'); TRUNCATE emptied`)
	w.cfg.Truncate = "apply"
	txs := w.capture()
	w.open()
	g := w.group(txs)
	if _, alone := w.session.Touches(t.Context(), &g, []schedule.Key(nil)); !alone {
		t.Error("a group whose tables are missing does not run alone")
	}
	w.must(txs...)
	if got, want := w.target.rows(madeColumns), w.shards[0].rows(madeColumns); got != want {
		t.Errorf("made %s, want %s", got, want)
	}
	if got := w.target.rows(`SELECT id, part, n, a FROM own."Made" ORDER BY id`); got != "1|a|5000|{\"2024-01-01 00:00:00+00\"}\n7|z|100|{}\n" {
		t.Errorf("rows %s", got)
	}
	if got := w.target.rows(`SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'own."Made"'::regclass`); got != "PRIMARY KEY (id, part)\n" {
		t.Errorf("key %s", got)
	}
	w.same("bare", "emptied")
	w.source(`UPDATE own."Made" SET n = 0 WHERE id = 7`)
	w.restart()
	w.replay()
}

// TestCreateTablesRefuses: a table that cannot be made blocks, with what to do, and nothing of the group is there.
func TestCreateTablesRefuses(t *testing.T) {
	w := newWorld(t, 1)
	w.shards[0].exec(`CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE fine (id int PRIMARY KEY); CREATE TABLE moody (id int PRIMARY KEY, m mood)`)
	w.source(`BEGIN; INSERT INTO fine VALUES (1); INSERT INTO moody VALUES (1, 'ok'); COMMIT`)
	txs := w.capture()
	blocked := func(want string) {
		t.Helper()
		err := w.try(txs)
		var b *apply.Blocked
		if !errors.As(err, &b) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want Blocked with %s", err, want)
		}
		if got := w.target.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"); got != "" {
			t.Errorf("made %s", got)
		}
	}
	blocked(`table "public"."fine": is not on the target`)
	w.cfg.CreateTables = true
	blocked(`table "public"."moody": cannot be made on the target: ERROR: type "public.mood" does not exist (SQLSTATE 42704). Try: create the type there as it is on a shard`)
	w.target.exec(`CREATE TYPE mood AS ENUM ('ok')`)
	w.must(txs...)
	w.same("fine", "moody")
}

// TestCreateTablesForCopy: the chunks make the tables, also those without rows.
func TestCreateTablesForCopy(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.CreateTables = true
	w.source(`CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE none (id int PRIMARY KEY); CREATE TABLE nokey (v json);
		INSERT INTO t VALUES (1, 'a'), (2, NULL); INSERT INTO nokey VALUES ('[]'), ('[]')`)
	w.capture()
	w.csn = 0
	keyed, bare := copied("t", "none"), keyless("nokey")
	w.must(w.begin(mark.TargetFail, append(keyed, bare...)...))
	w.source(`UPDATE t SET v = 'b' WHERE id = 2`)
	w.replay() // before its row is here
	w.must(w.chunk(0, keyed[0], "id = 1"))
	w.restart()
	w.must(w.chunk(0, keyed[0], "true"), w.chunk(0, keyed[1], "true"), w.chunk(0, bare[0], "true"), w.end(append(keyed, bare...)...))
	w.same("t", "none", "nokey")
	w.proves("t", "nokey")
}
