package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// TestCopyRandomHistory copies three tables of three shards chunk by chunk while random distributed transactions go on. At
// every moment a row that the target has is as on the source; at the end mark the target is the union of the shards.
func TestCopyRandomHistory(t *testing.T) {
	all := []string{mark.TargetFail, mark.TargetTruncate, mark.TargetMerge}
	for name, way := range map[string]func(t *testing.T, w *world) func([]*pipeline.Transaction) error{
		"memory": func(_ *testing.T, w *world) func([]*pipeline.Transaction) error { return w.try },
		"restarts": func(_ *testing.T, w *world) func([]*pipeline.Transaction) error {
			return func(txs []*pipeline.Transaction) error { w.restart(); return w.try(txs) }
		},
		"careful": func(_ *testing.T, w *world) func([]*pipeline.Transaction) error {
			return func(txs []*pipeline.Transaction) error { w.careful = true; return w.try(txs) }
		},
		"stream": func(t *testing.T, w *world) func([]*pipeline.Transaction) error { return throughStream(t, w, false) },
		"spool":  func(t *testing.T, w *world) func([]*pipeline.Transaction) error { return throughStream(t, w, true) },
	} {
		for i, rows := range all {
			if name != "memory" && (*seed+uint64(len(name)))%3 != uint64(i) {
				continue // another time
			}
			t.Run(name+" "+rows, func(t *testing.T) { copyRandomHistory(t, rows, way) })
		}
	}
}

func copyRandomHistory(t *testing.T, targetRows string, way func(*testing.T, *world) func([]*pipeline.Transaction) error) {
	h := newHistory(t)
	w := h.w
	run := way(t, w)
	replay := func(txs ...*pipeline.Transaction) {
		t.Helper()
		if len(txs) == 0 {
			return
		}
		if err := run(txs); err != nil {
			t.Fatalf("seed %d: %v", *seed, err)
		}
	}
	for step := range 8 {
		h.step(step) // nobody captures yet
	}
	w.csn = 0
	if targetRows != mark.TargetFail {
		w.target.exec("INSERT INTO t SELECT g, 'stale' FROM generate_series(0, 3000, 2) g; INSERT INTO f SELECT g, 'stale' FROM generate_series(0, 39, 2) g")
	}
	tables := append(copied("t", "f"), keyless("n")...)
	replay(w.begin(targetRows, tables...))
	var chunks []func() *pipeline.Transaction
	for shard := range w.shards {
		for _, table := range copied("t", "f") {
			for _, where := range []string{"id < 4", "id >= 4 AND id < 8", "id >= 8 AND id < 1200", "id >= 1200"} {
				chunks = append(chunks, func() *pipeline.Transaction { return w.chunk(shard, table, where) })
			}
		}
		chunks = append(chunks, func() *pipeline.Transaction { return w.chunk(shard, keyless("n")[0], "true") })
	}
	h.r.Shuffle(len(chunks), func(i, k int) { chunks[i], chunks[k] = chunks[k], chunks[i] })
	for step := 8; len(chunks) > 0; step++ {
		var txs []*pipeline.Transaction
		for range h.r.IntN(3) {
			did, _ := h.step(step)
			txs = append(txs, did...)
			step++
		}
		for n := h.r.IntN(3); n > 0 && len(chunks) > 0; n-- {
			txs = append(txs, chunks[0]())
			chunks = chunks[1:]
		}
		replay(txs...)
		for _, table := range []string{"t", "f"} {
			h.right(table)
		}
	}
	var last []*pipeline.Transaction
	for shard, ids := range h.renumbered {
		for _, table := range copied("t", "f") {
			var list []string
			for id := range ids {
				list = append(list, fmt.Sprint(id))
			}
			if len(list) > 0 {
				last = append(last, w.chunk(shard, table, "id IN ("+strings.Join(list, ", ")+")"))
			}
		}
	}
	replay(append(last, w.end(tables...))...)
	for step := 100; step < 110; step++ {
		for _, table := range historyTables {
			got, want := h.target(table), h.source(table)
			if targetRows == mark.TargetMerge {
				got = h.withoutStale(table)
			}
			if got != want {
				t.Fatalf("seed %d, table %s:\ngot\n%swant\n%s", *seed, table, got, want)
			}
		}
		if targetRows == mark.TargetMerge {
			w.target.exec("DELETE FROM t WHERE v = 'stale'; DELETE FROM f WHERE v = 'stale'")
			targetRows = mark.TargetFail
		}
		txs, _ := h.step(step)
		replay(txs...)
	}
	if got, want := w.target.rows("SELECT count(*) FROM cdc.copying"), "0\n"; got != want {
		t.Errorf("%s tables are still being copied", got)
	}
}

func (h *history) withoutStale(table string) string {
	rows := strings.SplitAfter(h.w.target.rows("SELECT id, md5(v) FROM "+table+" WHERE v <> 'stale'"), "\n")
	slices.Sort(rows)
	return strings.Join(rows, "")
}

// right checks that every row of the target is on the source.
func (h *history) right(table string) {
	h.w.t.Helper()
	want := strings.SplitAfter(h.source(table), "\n")
	for _, row := range strings.SplitAfter(h.withoutStale(table), "\n") {
		if !slices.Contains(want, row) {
			h.w.t.Fatalf("seed %d, table %s: the target has %s", *seed, table, row)
		}
	}
}
