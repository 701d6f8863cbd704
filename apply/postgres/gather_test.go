package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
)

// TestGather: many changes of many kinds in one group leave the target as they leave the source. The tables differ in what
// locates a row, what can be cast, and what the source sends.
func TestGather(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TYPE mood AS ENUM ('good', 'bad')")
	w.target.exec(`CREATE FUNCTION always_bad(text) RETURNS mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'bad'::public.mood $$;
		CREATE CAST (text AS mood) WITH FUNCTION always_bad(text)`)
	w.both(`
		CREATE TABLE one (id int PRIMARY KEY, v text);
		CREATE TABLE two (a text, b int, v numeric(8,2), PRIMARY KEY (b, a));
		CREATE TABLE whole (id int PRIMARY KEY, v text); ALTER TABLE whole REPLICA IDENTITY FULL;
		CREATE TABLE without (id int, v text);
		CREATE TABLE any_row (id int, v text); ALTER TABLE any_row REPLICA IDENTITY FULL;
		CREATE TABLE casts (id int PRIMARY KEY, v "char", n name, x varchar(5), c char(3), d date, m mood);
		CREATE TABLE computed (id int PRIMARY KEY, v text, l int GENERATED ALWAYS AS (length(v)) STORED);
		CREATE TABLE counted (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS IDENTITY);
		CREATE TABLE toast (id int PRIMARY KEY, n int, big text, other text); ALTER TABLE toast ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
		CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (50); CREATE TABLE parts2 PARTITION OF parts DEFAULT`)
	tables := []string{"one", "two", "whole", "without", "any_row", "casts", "computed", "counted", "toast", "parts"}
	w.source(`
		INSERT INTO one SELECT g, CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'a\tb\nc\\d\r' ELSE '\N' END FROM generate_series(1, 100) g;
		INSERT INTO two SELECT g % 7, g, g / 3.0 FROM generate_series(1, 100) g;
		INSERT INTO whole SELECT g, g FROM generate_series(1, 100) g;
		INSERT INTO without SELECT g % 3, 'v' FROM generate_series(1, 100) g;
		INSERT INTO any_row SELECT g % 3, 'v' FROM generate_series(1, 50) g;
		INSERT INTO casts SELECT g, chr(97 + g % 26), 'n' || g, 'x', 'c', date '2026-01-01' + g, 'bad' FROM generate_series(1, 100) g;
		INSERT INTO computed (id, v) SELECT g, g FROM generate_series(1, 100) g;
		INSERT INTO counted (id, v) SELECT g, g FROM generate_series(1, 100) g;
		INSERT INTO toast SELECT g, 0, repeat(g::text, 3000), repeat('o', 3000) FROM generate_series(1, 40) g;
		INSERT INTO parts SELECT g, g FROM generate_series(1, 100) g`)
	w.replay()
	w.proves(tables...)
	w.same(tables...)
	w.source(`
		UPDATE one SET v = coalesce(v, 'was null') || '!' WHERE id % 2 = 0; DELETE FROM one WHERE id % 5 = 0; UPDATE one SET v = NULL WHERE id % 3 = 0;
		INSERT INTO one SELECT g, 'again' FROM generate_series(5, 60, 5) g; UPDATE one SET id = id + 1000 WHERE id < 8; UPDATE one SET v = 'moved' WHERE id > 1000;
		UPDATE two SET v = v + 1; DELETE FROM two WHERE b % 2 = 0; UPDATE two SET a = 'new' WHERE b < 20; UPDATE two SET v = NULL WHERE b > 50;
		UPDATE whole SET v = 'x' || v; DELETE FROM whole WHERE id > 70; UPDATE whole SET id = -id WHERE id < 10; INSERT INTO whole SELECT g, 'back' FROM generate_series(80, 95) g;
		INSERT INTO any_row SELECT g, 'more' FROM generate_series(1, 30) g; DELETE FROM any_row WHERE v = 'v' AND id = 1; UPDATE any_row SET v = 'u' WHERE id = 2;
		UPDATE casts SET v = 'z', n = 'm' || id, x = 'y  ', c = 'd', d = d + 1, m = 'good'; DELETE FROM casts WHERE id > 80;
		UPDATE computed SET v = v || v; DELETE FROM computed WHERE id % 2 = 0;
		UPDATE counted SET v = v || v; DELETE FROM counted WHERE id % 2 = 0;
		UPDATE toast SET n = n + 1; UPDATE toast SET big = reverse(big) WHERE id % 2 = 0; UPDATE toast SET n = n + 1; UPDATE toast SET other = 'short', n = 7 WHERE id % 3 = 0;
		UPDATE toast SET n = n + 1; DELETE FROM toast WHERE id = 30; INSERT INTO toast SELECT 30, 0, repeat('new', 2000), 'o'; UPDATE toast SET n = 99 WHERE id = 30;
		UPDATE parts SET v = v || 'p'; UPDATE parts SET id = id + 1000 WHERE id % 10 = 0; DELETE FROM parts WHERE id % 3 = 0`)
	w.replay()
	w.proves(tables...)
	w.same(tables...)
}

// TestGatherBlurred: an index that sees more differences than its column. Values find two rows each, and the number of rows
// touched would be right although the values are not.
func TestGatherBlurred(t *testing.T) {
	w := newWorld(t, 1)
	w.both(`CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE t (k text COLLATE nocase NOT NULL, v text); CREATE UNIQUE INDEX i ON t (k COLLATE "C"); ALTER TABLE t REPLICA IDENTITY USING INDEX i`)
	w.source("INSERT INTO t SELECT chr(g), '' FROM generate_series(65, 90) g; INSERT INTO t SELECT chr(g), '' FROM generate_series(97, 122) g")
	w.replay()
	w.same("t")
	w.source("UPDATE t SET v = k")
	if err := w.try(w.capture()); err == nil || !strings.Contains(err.Error(), "2 rows of the target match one") {
		t.Errorf("%v, want Blocked by two rows", err)
	}
}

// TestGatherShards: shards whose tables have other columns share a table of the target.
func TestGatherShards(t *testing.T) {
	w := newWorld(t, 2)
	w.shards[0].exec("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
	w.shards[1].exec("CREATE TABLE t (b text, id int PRIMARY KEY, a text)")
	w.target.exec("CREATE TABLE t (a text, b text, id int PRIMARY KEY)")
	w.shards[0].exec("INSERT INTO t SELECT g, 'a', 'b' FROM generate_series(1, 20) g; UPDATE t SET a = 'aa'")
	w.shards[1].exec("INSERT INTO t (id, a, b) SELECT g, 'a', 'b' FROM generate_series(21, 40) g; UPDATE t SET a = 'aa'")
	w.replay()
	w.source("UPDATE t SET b = 'bb'") // in one group; both versions are known now
	w.replay()
	if got := w.target.rows("SELECT count(*), min(id), max(id), min(a), min(b) FROM t"); got != "40|1|40|aa|bb\n" {
		t.Errorf("got %s", got)
	}
}

// TestGatherOneStatement: what many transactions did to many rows is some statements, and to one row one.
func TestGatherOneStatement(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.source("INSERT INTO t SELECT g, 0 FROM generate_series(1, 1000) g")
	w.replay()
	for range 50 {
		w.source("UPDATE t SET v = v + 1 WHERE id = 7")
	}
	w.source("UPDATE t SET v = v + 1 WHERE id <= 100; DELETE FROM t WHERE id > 900")
	txs := w.capture()
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
	w.same("t")
	w.proves("t")
	if got := w.target.rows("SELECT count(*) FROM (SELECT DISTINCT xmin, cmin FROM t WHERE id <= 100) x"); got != "1\n" {
		t.Errorf("the updates of 100 rows were %s statements, want 1", got)
	}
}

// TestGatherSwap: updates that hand a unique value on meet in one statement, which names nobody; the careful attempt gets them
// through, and from then on such a table's changes go in order at once.
func TestGatherSwap(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE s (id int PRIMARY KEY, u int UNIQUE)")
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.opens = target
	w.source("INSERT INTO s SELECT g, g FROM generate_series(1, 50) g")
	w.replay()
	swap := `DO $$ DECLARE a int; b int; BEGIN FOR g IN 1..49 BY 2 LOOP
		SELECT u INTO a FROM s WHERE id = g; SELECT u INTO b FROM s WHERE id = g + 1;
		UPDATE s SET u = -1 WHERE id = g; UPDATE s SET u = a WHERE id = g + 1; UPDATE s SET u = b WHERE id = g; END LOOP; END $$`
	var failed int
	for range 4 {
		w.source(swap)
		txs := w.capture()
		w.careful = false
		if err := w.try(txs); err != nil {
			failed++
			var blocked *apply.Blocked
			if !errors.As(err, &blocked) || blocked.Row != "" || !strings.Contains(err.Error(), "update of 50 rows") {
				t.Fatalf("%v, want Blocked without a row", err)
			}
			w.careful = true
			if err := w.try(txs); err != nil {
				t.Fatal(err)
			}
		}
		w.same("s")
	}
	if failed != 1 {
		t.Errorf("%d groups failed, want 1: it is known then", failed)
	}
	w.proves("s")
}

// TestGatherNames: a set of rows does not say which one is missing, a careful attempt does.
func TestGatherNames(t *testing.T) {
	for name, c := range map[string]struct{ spoil, change, set, row string }{
		"update": {"DELETE FROM t WHERE id = 33", "UPDATE t SET v = 'x'", "update: 49 rows of the target match 50 of the source", "row (id)=(33): update: the row is not on the target"},
		"delete": {"DELETE FROM t WHERE id = 33", "DELETE FROM t", "delete: 49 rows", "row (id)=(33): delete: the row is not on the target"},
		"insert": {"INSERT INTO t VALUES (133, 'here')", "INSERT INTO t SELECT g, 'x' FROM generate_series(101, 150) g", "insert of 50 rows", "row (id)=(133): constraint"},
		"value":  {"ALTER TABLE t ADD CHECK (v <> 'bad')", "UPDATE t SET v = CASE id WHEN 33 THEN 'bad' END", "update of 50 rows", "row (id)=(33): constraint"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
			w.source("INSERT INTO t SELECT g, g FROM generate_series(1, 50) g")
			w.replay()
			w.target.exec(c.spoil)
			w.source(c.change)
			txs := w.capture()
			if err := w.try(txs); err == nil || !strings.Contains(err.Error(), c.set) || strings.Contains(err.Error(), "row (") {
				t.Errorf("%v, want %s", err, c.set)
			}
			w.careful = true
			if err := w.try(txs); err == nil || !strings.Contains(err.Error(), c.row) {
				t.Errorf("%v, want %s", err, c.row)
			}
		})
	}
}

// TestGatherStrict: triggers that fire on the target see every change, in the source's order over all tables.
func TestGatherStrict(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int)")
	w.target.exec(`CREATE TABLE seen (n serial, what text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.seen (what) SELECT concat(TG_TABLE_NAME, TG_OP, coalesce(NEW.id, OLD.id), '=', NEW.v, ' ', (SELECT count(*) FROM public.b)); RETURN NULL; END $$;
		CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION see(); ALTER TABLE a ENABLE ALWAYS TRIGGER t`)
	w.source(`INSERT INTO a SELECT g, 0 FROM generate_series(1, 2) g; INSERT INTO b SELECT g, 0 FROM generate_series(1, 20) g;
		UPDATE a SET v = 1; UPDATE a SET v = 2; DELETE FROM b WHERE id < 5; DELETE FROM a WHERE id = 1`)
	w.replay()
	want := "aINSERT1=0 0\naINSERT2=0 0\naUPDATE1=1 20\naUPDATE2=1 20\naUPDATE1=2 20\naUPDATE2=2 20\naDELETE1= 16\n"
	if got := w.target.rows("SELECT what FROM seen ORDER BY n"); got != want {
		t.Errorf("the trigger saw\n%swant\n%s", got, want)
	}
	w.same("a", "b")
}
