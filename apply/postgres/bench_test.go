package postgres_test

import (
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// BenchmarkApply replays 20,000 inserts and then 20,000 updates of a table of ten columns, each in one target
// transaction.
func BenchmarkApply(b *testing.B) {
	w := newWorld(b, 1)
	w.both("CREATE TABLE t (id bigint PRIMARY KEY, i int, ts timestamptz, n numeric(12,2), b bool, u uuid, v varchar(20), x text, f float8, j jsonb)")
	w.source("INSERT INTO t SELECT g, g, now(), 1.5, true, gen_random_uuid(), 'v', repeat('x', 100), 0.1, '{\"a\": 1}' FROM generate_series(1, 20000) g")
	inserts := w.capture()
	w.source("UPDATE t SET i = i + 1")
	updates := w.capture()
	w.open()
	for _, shape := range []struct {
		name string
		txs  []*pipeline.Transaction
	}{{"insert", inserts}, {"update", updates}} {
		b.Run(shape.name, func(b *testing.B) {
			for b.Loop() {
				if shape.name == "insert" {
					b.StopTimer()
					w.target.exec("TRUNCATE t")
					b.StartTimer()
				}
				if err := w.try(shape.txs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(20000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkSmall replays 5,000 transactions of one insert in one target transaction.
func BenchmarkSmall(b *testing.B) {
	w := newWorld(b, 1)
	w.both("CREATE TABLE t (id bigint PRIMARY KEY, i int, ts timestamptz, n numeric(12,2), b bool, u uuid, v varchar(20), x text, f float8, j jsonb)")
	w.source("DO $$ BEGIN FOR g IN 1..5000 LOOP INSERT INTO t VALUES (g, g, now(), 1.5, true, gen_random_uuid(), 'v', repeat('x', 100), 0.1, '{\"a\": 1}'); COMMIT; END LOOP; END $$")
	txs := w.capture()
	w.open()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w.target.exec("TRUNCATE t")
		b.StartTimer()
		if err := w.try(txs); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCopy loads 20,000 rows of the same table: as changes, as rows of a chunk, and as rows of a chunk that are all
// there already; these also one by one, as a careful attempt does.
func BenchmarkCopy(b *testing.B) {
	w := newWorld(b, 1)
	w.both("CREATE TABLE t (id bigint PRIMARY KEY, i int, ts timestamptz, n numeric(12,2), b bool, u uuid, v varchar(20), x text, f float8, j jsonb)")
	w.source("INSERT INTO t SELECT g, g, now(), 1.5, true, gen_random_uuid(), 'v', repeat('x', 100), 0.1, '{\"a\": 1}' FROM generate_series(1, 20000) g")
	inserts := w.capture()
	table := copied("t")[0]
	chunk := []*pipeline.Transaction{w.chunk(0, table, "true")}
	w.must(w.begin(mark.TargetTruncate, table))
	for _, shape := range []struct {
		name          string
		txs           []*pipeline.Transaction
		full, careful bool
	}{{"changes", inserts, false, false}, {"rows", chunk, false, false}, {"rows there already", chunk, true, false}, {"one by one", chunk, true, true}} {
		b.Run(shape.name, func(b *testing.B) {
			w.restart()
			w.careful = shape.careful
			for b.Loop() {
				if !shape.full {
					b.StopTimer()
					w.target.exec("TRUNCATE t")
					b.StartTimer()
				}
				w.must(shape.txs...)
			}
			b.ReportMetric(20000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
