package postgres_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random history")

// TestRandomHistory: distributed transactions that insert, update, delete, renumber, replace and move rows over
// three shards; after each one the target is the union of the shards. The rows are in memory, or in parts in a stream,
// and then applied as they come or from files.
func TestRandomHistory(t *testing.T) {
	for name, way := range map[string]func(t *testing.T, w *world) func([]*pipeline.Transaction) error{
		"memory": func(_ *testing.T, w *world) func([]*pipeline.Transaction) error { return w.try },
		"stream": func(t *testing.T, w *world) func([]*pipeline.Transaction) error { return throughStream(t, w, false) },
		"spool":  func(t *testing.T, w *world) func([]*pipeline.Transaction) error { return throughStream(t, w, true) },
	} {
		t.Run(name, func(t *testing.T) { randomHistory(t, way) })
	}
}

// throughStream applies by way of a real stream and a worker. Before each unit stands the beginning of it, from a
// writer that died.
func throughStream(t *testing.T, w *world, spool bool) func([]*pipeline.Transaction) error {
	f, spill := newFeed(t), new(files)
	cfg := apply.Config{Spill: spill.create}
	if spool {
		cfg.Target = w.spooling(t)
	}
	fl := w.follow(t, f, cfg)
	return func(txs []*pipeline.Transaction) error {
		f.publish(200, 4, txs...)
		f.publish(300, 0, txs...)
		fl.until(f.last)
		if spill.open != 0 {
			return fmt.Errorf("%d files are left", spill.open)
		}
		return nil
	}
}

func randomHistory(t *testing.T, way func(*testing.T, *world) func([]*pipeline.Transaction) error) {
	h := newHistory(t)
	replay := way(t, h.w)
	for step := range 40 {
		txs, did := h.step(step)
		if len(txs) > 0 {
			if err := replay(txs); err != nil {
				t.Fatalf("seed %d, step %d: %v\nthe first shard did:\n%s", *seed, step, err, did)
			}
		}
		for _, table := range historyTables {
			if got, want := h.target(table), h.source(table); got != want {
				t.Fatalf("seed %d, step %d, table %s:\ngot\n%swant\n%s", *seed, step, table, got, want)
			}
		}
	}
}

// history is random transactions on three shards, the same in three tables: one with a key, one with a key and REPLICA
// IDENTITY FULL, and one without a key.
type history struct {
	w    *world
	r    *rand.Rand
	rows []map[int]bool // the ids that each shard holds, the same in every table
	// renumbered are the ids before and after updates of the key, on each shard.
	renumbered []map[int]bool
}

var historyTables = []string{"t", "f", "n"}

func newHistory(t *testing.T) *history {
	t.Logf("seed %d (repeat with -seed)", *seed)
	h := &history{w: newWorld(t, 3), r: rand.New(rand.NewPCG(*seed, 0))}
	h.w.both(`CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
		CREATE TABLE f (id int PRIMARY KEY, v text); ALTER TABLE f REPLICA IDENTITY FULL;
		CREATE TABLE n (id int, v text); ALTER TABLE n REPLICA IDENTITY FULL`)
	for range h.w.shards {
		h.rows, h.renumbered = append(h.rows, map[int]bool{}), append(h.renumbered, map[int]bool{})
	}
	return h
}

func (h *history) holder(id int) int {
	return slices.IndexFunc(h.rows, func(m map[int]bool) bool { return m[id] })
}

// target is a table's rows, sorted; source is those of all shards.
func (h *history) target(table string) string { return h.sorted(table, h.w.target) }
func (h *history) source(table string) string { return h.sorted(table, h.w.shards...) }

func (h *history) sorted(table string, databases ...*database) string {
	var rows []string
	for _, d := range databases {
		rows = append(rows, strings.SplitAfter(d.rows("SELECT id, md5(v) FROM "+table), "\n")...)
	}
	slices.Sort(rows)
	return strings.Join(rows, "")
}

// step does one distributed transaction.
func (h *history) step(step int) (txs []*pipeline.Transaction, firstShard string) {
	sql := make([]strings.Builder, len(h.rows))
	say := func(shard int, format string, args ...any) {
		for _, table := range historyTables {
			fmt.Fprintf(&sql[shard], strings.ReplaceAll(format, "TABLE", table)+";\n", args...)
		}
	}
	r, rows := h.r, h.rows
	// A row goes to another shard at most once in a transaction: its locks would forbid more.
	moved := map[int]bool{}
	for range 1 + r.IntN(12) {
		id := r.IntN(12)
		if r.IntN(3) == 0 {
			id = 12 + r.IntN(28) // less busy ones
		}
		from, to := h.holder(id), r.IntN(len(rows))
		if moved[id] {
			continue
		}
		switch op := r.IntN(6); {
		case from < 0:
			// An id that was somebody else's in this transaction stays there, as a sharding key does.
			moved[id] = true
			say(to, "INSERT INTO TABLE VALUES (%d, repeat('%d ', %d))", id, step, r.IntN(1500))
			rows[to][id] = true
		case op == 0:
			say(from, "DELETE FROM TABLE WHERE id = %d", id)
			delete(rows[from], id)
			moved[id] = true
		case op == 1:
			say(from, "UPDATE TABLE SET v = v WHERE id = %d", id)
		case op == 2:
			say(from, "DELETE FROM TABLE WHERE id = %[1]d; INSERT INTO TABLE VALUES (%[1]d, 'again')", id)
		case op == 3:
			free := 100 + step*100 + id // never used before
			say(from, "UPDATE TABLE SET id = %d WHERE id = %d", free, id)
			delete(rows[from], id)
			h.renumbered[from][id], h.renumbered[from][free] = true, true
			moved[id] = true
		case op == 4 && to != from:
			say(from, "UPDATE TABLE SET v = 'leaves' WHERE id = %d", id)
			say(from, "DELETE FROM TABLE WHERE id = %d", id)
			say(to, "INSERT INTO TABLE VALUES (%d, 'moved')", id)
			if r.IntN(2) == 0 {
				say(to, "UPDATE TABLE SET v = 'moved %d' WHERE id = %d", step, id)
			}
			delete(rows[from], id)
			rows[to][id] = true
			moved[id] = true
		default:
			say(from, "UPDATE TABLE SET v = 'step %d' WHERE id = %d", step, id)
		}
	}
	for i, s := range h.w.shards {
		s.exec("BEGIN;" + sql[i].String() + "COMMIT")
	}
	if txs = h.w.capture(); len(txs) > 0 {
		txs = h.w.together(txs)
	}
	return txs, sql[0].String()
}
