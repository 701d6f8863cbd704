package postgres_test

import "testing"

// TestRowsMoveBetweenShards: in one distributed transaction, in both directions at once.
func TestRowsMoveBetweenShards(t *testing.T) {
	w := newWorld(t, 2)
	w.both("CREATE TABLE t (id int PRIMARY KEY, mail text UNIQUE, v int); CREATE TABLE f (id int PRIMARY KEY, v int); ALTER TABLE f REPLICA IDENTITY FULL; CREATE TABLE n (v int); ALTER TABLE n REPLICA IDENTITY FULL")
	w.shards[0].exec("INSERT INTO t VALUES (1, 'a', 0), (3, 'c', 0); INSERT INTO f VALUES (1, 0); INSERT INTO n VALUES (1), (1)")
	w.shards[1].exec("INSERT INTO t VALUES (2, 'b', 0), (4, 'd', 0); INSERT INTO f VALUES (2, 0); INSERT INTO n VALUES (1)")
	w.replay()
	w.shards[0].exec(`BEGIN;
		INSERT INTO t VALUES (2, 'b', 1); UPDATE t SET v = 9 WHERE id = 2; INSERT INTO f VALUES (2, 1);
		UPDATE t SET v = 5 WHERE id = 1; DELETE FROM t WHERE id = 1; DELETE FROM f WHERE id = 1;
		INSERT INTO t VALUES (10, 'd', 1); DELETE FROM n WHERE ctid = (SELECT min(ctid) FROM n); COMMIT`)
	w.shards[1].exec(`BEGIN;
		UPDATE t SET v = 5 WHERE id = 2; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (1, 'a', 1); INSERT INTO t VALUES (7, 'x', 1); DELETE FROM t WHERE id = 7;
		UPDATE f SET v = 8 WHERE id = 2; DELETE FROM f WHERE id = 2; INSERT INTO f VALUES (1, 1); DELETE FROM t WHERE id = 4; COMMIT`)
	if err := w.try(w.together(w.capture())); err != nil {
		t.Fatal(err)
	}
	if got, want := w.target.rows("SELECT * FROM t ORDER BY id"), "1|a|1\n2|b|9\n3|c|0\n10|d|1\n"; got != want {
		t.Errorf("t: got %q, want %q", got, want)
	}
	if got, want := w.target.rows("SELECT * FROM f ORDER BY id")+w.target.rows("SELECT * FROM n"), "1|1\n2|1\n1\n1\n"; got != want {
		t.Errorf("f, n: got %q, want %q", got, want)
	}
}

// TestMoveAndTruncate: what a TRUNCATE took is not there to be deleted.
func TestMoveAndTruncate(t *testing.T) {
	w := newWorld(t, 2)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.shards[0].exec("INSERT INTO t VALUES (1, 0)")
	w.shards[1].exec("INSERT INTO t VALUES (2, 0)")
	w.replay()
	w.shards[0].exec("BEGIN; UPDATE t SET v = 1; TRUNCATE t; INSERT INTO t VALUES (1, 5), (3, 3); DELETE FROM t WHERE id = 1; COMMIT")
	w.shards[1].exec("BEGIN; DELETE FROM t; TRUNCATE t; INSERT INTO t VALUES (1, 7); COMMIT")
	if err := w.try(w.together(w.capture())); err != nil {
		t.Fatal(err)
	}
	if got, want := w.target.rows("SELECT * FROM t ORDER BY id"), "1|7\n3|3\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestMovesOfKeys: a row whose key an update changed and that is deleted in the end makes room, too; and what a shard inserted and deleted
// behind a TRUNCATE meets nothing.
func TestMovesOfKeys(t *testing.T) {
	for _, identity := range []string{"DEFAULT", "FULL"} {
		t.Run(identity, func(t *testing.T) { moveKeys(t, identity) })
	}
}

func moveKeys(t *testing.T, identity string) {
	w := newWorld(t, 2)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY " + identity)
	w.shards[1].exec("INSERT INTO t VALUES (5, 5)")
	w.replay()
	w.shards[0].exec("BEGIN; INSERT INTO t VALUES (9, 0), (5, 0); COMMIT")
	w.shards[1].exec("BEGIN; INSERT INTO t VALUES (6, 6); UPDATE t SET v = 1 WHERE id = 5; UPDATE t SET id = 9 WHERE id = 5; DELETE FROM t WHERE id = 9; COMMIT")
	if err := w.try(w.together(w.capture())); err != nil {
		t.Fatal(err)
	}
	if got, want := w.target.rows("SELECT * FROM t ORDER BY id"), "5|0\n6|6\n9|0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.shards[0].exec("BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 1); COMMIT")
	w.shards[1].exec("BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 2), (3, 3); DELETE FROM t WHERE id = 1; COMMIT")
	if err := w.try(w.together(w.capture())); err != nil {
		t.Fatal(err)
	}
	if got, want := w.target.rows("SELECT * FROM t ORDER BY id"), "1|1\n3|3\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
