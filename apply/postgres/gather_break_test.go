package postgres_test

import (
	"errors"
	"slices"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
)

// TestGatherShardsMeet: a key that two shards have at the same time, since the row was brought to one before it was taken from
// the other, in two transactions. The target holds each key once: the second row is refused, and not folded with the first.
func TestGatherShardsMeet(t *testing.T) {
	w := newWorld(t, 2)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.shards[0].exec("INSERT INTO t SELECT g, 'old' FROM generate_series(1, 30) g")
	w.replay()
	w.shards[0].exec("DELETE FROM t WHERE id = 5")
	w.shards[1].exec("INSERT INTO t VALUES (5, 'new')")
	txs := w.capture()
	slices.Reverse(txs)
	txs[0].CSN, txs[1].CSN = txs[1].CSN, txs[0].CSN
	var blocked *apply.Blocked
	if err := w.try(txs); !errors.As(err, &blocked) {
		t.Errorf("%v, want Blocked; the target has %s", err, w.target.rows("SELECT * FROM t WHERE id = 5"))
	}
}

// TestGatherSmallSwap: what TestGatherSwap is, with so few rows that they go one by one, though not in order.
func TestGatherSmallSwap(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE s (id int PRIMARY KEY, u int UNIQUE)")
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.opens = target
	w.source("INSERT INTO s VALUES (1, 1), (2, 2)")
	w.replay()
	failed := 0
	for range 3 {
		w.source("DO $$ BEGIN UPDATE s SET u = -u WHERE id = 1; UPDATE s SET u = 3 - u WHERE id = 2; UPDATE s SET u = 3 + u WHERE id = 1; END $$")
		txs := w.capture()
		w.careful = false
		if err := w.try(txs); err != nil {
			failed++
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
}

// TestGatherTree: changes that name a partition, and changes that name its root, are of the same rows and stay in order.
func TestGatherTree(t *testing.T) {
	w := newWorld(t, 1)
	w.both(`CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (50); CREATE TABLE p2 PARTITION OF p DEFAULT`)
	w.source("INSERT INTO p SELECT g, 'v' FROM generate_series(1, 100) g")
	w.replay()
	root := func(is string) { w.source("ALTER PUBLICATION p SET (publish_via_partition_root = " + is + ")") }
	for _, small := range []string{"id = 7", "id < 40"} {
		root("true")
		w.source("UPDATE p SET v = 'first' WHERE " + small)
		root("false")
		w.source("UPDATE p SET v = 'second' WHERE " + small)
		root("true")
		w.source("UPDATE p SET v = 'third' WHERE " + small)
		root("false")
		w.source("UPDATE p SET v = 'fourth' WHERE " + small)
		root("true")
		w.source("UPDATE p SET v = 'last' WHERE " + small)
		w.replay()
		w.same("p")
	}
}
