package postgres_test

import (
	"slices"
	"testing"

	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
)

// TestTouches: which two groups may run at the same time.
func TestTouches(t *testing.T) {
	const (
		apart    = "apart"
		together = "together"
		alone    = "alone"
	)
	w := newWorld(t, 1)
	w.both(`CREATE TABLE k (id int PRIMARY KEY, v text);
		CREATE TABLE d (id numeric PRIMARY KEY, v int); CREATE TABLE c (id char(5) PRIMARY KEY, v int);
		CREATE TABLE u (id int PRIMARY KEY, name text UNIQUE, v int);
		CREATE TABLE f (id int PRIMARY KEY, name text UNIQUE, v int); ALTER TABLE f REPLICA IDENTITY FULL;
		CREATE TABLE n (v int); ALTER TABLE n REPLICA IDENTITY FULL;
		CREATE TABLE i (id interval PRIMARY KEY); CREATE TABLE p (a int, b int, v int, PRIMARY KEY (a, b));
		CREATE TABLE r (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r DEFAULT;
		CREATE TABLE s (id int PRIMARY KEY, v int); CREATE TABLE e (id int PRIMARY KEY, v text)`)
	w.source("CREATE TABLE o (id int PRIMARY KEY, v int)")
	w.target.exec(`CREATE TABLE o (id int, v int PRIMARY KEY); CREATE UNIQUE INDEX ON e (lower(v));
		CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER g BEFORE INSERT ON s FOR EACH ROW EXECUTE FUNCTION fires(); ALTER TABLE s ENABLE ALWAYS TRIGGER g`)
	w.source(`INSERT INTO k SELECT g, '' FROM generate_series(1, 3) g; INSERT INTO d VALUES (1), (2.0), (2.01), (200); INSERT INTO c VALUES ('a'), ('b');
		INSERT INTO u VALUES (1, 'a'), (2, 'b'); INSERT INTO f VALUES (1, 'a'), (2, 'b'), (3, NULL), (4, NULL); INSERT INTO n VALUES (1), (2);
		INSERT INTO p VALUES (1, 1), (1, 2), (2, 1); INSERT INTO r VALUES (1), (2); INSERT INTO o VALUES (1, 1), (2, 2); INSERT INTO e VALUES (1, 'a'), (2, 'b')`)
	w.capture()
	w.open()
	for _, tc := range []struct{ a, b, want string }{
		{"UPDATE k SET v = 'x' WHERE id = 1", "UPDATE k SET v = 'y' WHERE id = 1", apart},
		{"UPDATE k SET v = 'x' WHERE id = 1", "UPDATE k SET v = 'y' WHERE id = 2", together},
		{"UPDATE k SET v = 'x' WHERE id = 1", "INSERT INTO k VALUES (4)", together},
		{"UPDATE k SET v = 'x' WHERE id = 1", "UPDATE u SET v = 1 WHERE id = 1", together},
		{"DELETE FROM k WHERE id = 4", "INSERT INTO k VALUES (4)", apart},
		{"DELETE FROM k WHERE id = 4", "DELETE FROM k WHERE id = 3", together},
		{"UPDATE k SET id = 5 WHERE id = 1", "INSERT INTO k VALUES (1)", apart},
		{"UPDATE k SET id = 6 WHERE id = 5", "DELETE FROM k WHERE id = 6", apart},
		{"INSERT INTO k VALUES (6)", "UPDATE k SET id = 7 WHERE id = 1", together},
		{"DELETE FROM d WHERE id = 2", "INSERT INTO d VALUES (2.000)", apart},
		{"UPDATE d SET v = 1 WHERE id = 2", "UPDATE d SET v = 1 WHERE id = 2.01", together},
		{"UPDATE d SET v = 2 WHERE id = 2", "UPDATE d SET v = 2 WHERE id = 200", together},
		{"UPDATE c SET v = 1 WHERE id = 'a'", "UPDATE c SET v = 2 WHERE id = 'a'", apart},
		{"UPDATE c SET v = 1 WHERE id = 'a'", "UPDATE c SET v = 2 WHERE id = 'b'", together},
		{"INSERT INTO u VALUES (3, 'c')", "INSERT INTO u VALUES (4, 'd')", together},
		{"INSERT INTO u VALUES (5, 'e')", "DELETE FROM u WHERE id = 5", apart},
		{"DELETE FROM u WHERE name = 'd'", "INSERT INTO u VALUES (6, 'd')", apart},
		{"UPDATE u SET v = 1 WHERE id = 1", "UPDATE u SET v = 1 WHERE id = 2", apart}, // the old names are not sent
		{"UPDATE f SET v = 1 WHERE id = 1", "UPDATE f SET v = 1 WHERE id = 2", together},
		{"UPDATE f SET name = 'c' WHERE id = 1", "INSERT INTO f VALUES (5, 'a')", apart},
		{"UPDATE f SET name = 'd' WHERE id = 1", "DELETE FROM f WHERE id = 5", together},
		{"DELETE FROM f WHERE name = 'd'", "INSERT INTO f VALUES (5, 'd')", apart},
		{"UPDATE f SET v = 1 WHERE id = 3", "UPDATE f SET v = 1 WHERE id = 4", together},
		{"UPDATE n SET v = 5 WHERE v = 1", "UPDATE n SET v = 6 WHERE v = 2", apart},
		{"INSERT INTO n VALUES (1)", "INSERT INTO k VALUES (11)", together},
		{"INSERT INTO i VALUES ('1 day')", "INSERT INTO i VALUES ('2 days')", apart},
		{"UPDATE p SET v = 1 WHERE (a, b) = (1, 2)", "UPDATE p SET v = 1 WHERE (a, b) = (2, 1)", together},
		{"UPDATE p SET v = 1 WHERE (a, b) = (1, 2)", "UPDATE p SET v = 2 WHERE (a, b) = (1, 2)", apart},
		{"UPDATE r SET v = 1 WHERE id = 1", "UPDATE r SET v = 1 WHERE id = 2", together},
		{"UPDATE r SET v = 1 WHERE id = 1", "UPDATE r SET v = 2 WHERE id = 1", apart},
		{"UPDATE o SET v = 10 WHERE id = 1", "UPDATE o SET v = 20 WHERE id = 2", apart}, // the target's key is another one
		{"INSERT INTO e VALUES (3, 'c')", "INSERT INTO e VALUES (4, 'd')", apart},
		{"INSERT INTO s VALUES (1)", "INSERT INTO k VALUES (12)", alone},
		{"TRUNCATE i", "INSERT INTO k VALUES (13)", alone},
		{"BEGIN; SELECT pg_logical_emit_message(true, 'mine', ''); INSERT INTO k VALUES (14); COMMIT", "INSERT INTO k VALUES (15)", together},
	} {
		got := together
		w.source(tc.a)
		a, one := w.touches(w.capture())
		w.source(tc.b)
		b, two := w.touches(w.capture())
		switch {
		case one || two:
			got = alone
		case exclude(a, b):
			got = apart
		}
		if got != tc.want {
			t.Errorf("%s\n%s\n%s, want %s", tc.a, tc.b, got, tc.want)
		}
	}
}

// TestTouchesMany: a group with very many rows takes its tables.
func TestTouchesMany(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.open()
	w.source("INSERT INTO t SELECT generate_series(1, 100001)")
	keys, alone := w.touches(w.capture())
	w.source("INSERT INTO t VALUES (0)")
	other, _ := w.touches(w.capture())
	if alone || len(keys) != 2 || !exclude(keys, other) {
		t.Errorf("%d keys, alone %v", len(keys), alone)
	}
}

func (w *world) touches(txs []*pipeline.Transaction) ([]schedule.Key, bool) {
	w.t.Helper()
	if len(txs) == 0 {
		w.t.Fatal("nothing happened")
	}
	g := w.group(txs)
	return w.session.Touches(w.t.Context(), &g, nil)
}

func exclude(a, b []schedule.Key) bool {
	return slices.ContainsFunc(a, func(x schedule.Key) bool {
		return slices.ContainsFunc(b, func(y schedule.Key) bool { return x.Hash == y.Hash && (x.Exclusive || y.Exclusive) })
	})
}

// BenchmarkTouches: one-row transactions, as many as fill a group.
func BenchmarkTouches(b *testing.B) {
	w := newWorld(b, 1)
	w.both("CREATE TABLE t (id bigint PRIMARY KEY, a int, b timestamptz, c text)")
	w.open()
	const rows = 1000
	for i := range rows {
		w.source("INSERT INTO t VALUES (" + string(rune('1'+i%9)) + "000000 + (SELECT count(*) FROM t), 1, now(), 'some text')")
	}
	g := w.group(w.capture())
	var keys []schedule.Key
	b.ReportAllocs()
	for b.Loop() {
		keys, _ = w.session.Touches(b.Context(), &g, keys[:0])
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
