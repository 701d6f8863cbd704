package feed

import (
	"slices"
	"testing"

	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// Statements of the idempotent form may be run again from any transaction on: a history is fed whole, and then again and again from
// somewhere to its end.
func TestAgain(t *testing.T) {
	r := seeded(t)
	w := newWorld(t, 2)
	const table = "CREATE TABLE k (id int PRIMARY KEY, v text)"
	w.source(table)
	target := newDatabase(t, "again_t")
	target.exec(table)
	db := newMariaDB(t, "again")
	feeds(t, mysqlClient(t, "again", table))
	p := spread{r: r, rows: map[string]map[int]int{"k": {}}, only: "k", again: true}
	var history []*pipeline.Transaction
	for range 60 {
		for shard, statements := range p.change() {
			w.shards[shard].exec(slices.Concat([]string{"BEGIN"}, statements, []string{"COMMIT"})...)
		}
		if txs := w.capture(); len(txs) > 0 {
			history = append(history, together(txs)...)
		}
	}
	const rows = "SELECT id, v FROM k"
	want := slices.Concat(w.shards[0].rows(rows), w.shards[1].rows(rows))
	for _, dialect := range []string{format.PostgreSQL, format.MySQL} {
		for from := 0; from < len(history); from += 1 + r.IntN(len(history)/4) {
			w.written = 0
			file := w.encode(sql.New(sql.Config{Shards: w.names(), Options: format.SQLOptions{Dialect: dialect, Idempotent: true}}), dialect, history[from:])
			var got [][][]byte
			if dialect == format.PostgreSQL {
				feeds(t, psql(t, target.name, file))
				got = target.rows(rows)
			} else {
				feeds(t, mysqlClient(t, "again", file))
				got = query(t, db, "SELECT id, v FROM again.k")
			}
			if !sameRows(got, want) {
				t.Fatalf("%s, from the %dth on: got %q\nwant %q", dialect, from, got, want)
			}
		}
	}
}

func sameRows(a, b [][][]byte) bool {
	byText := func(a, b [][]byte) int { return slices.CompareFunc(a, b, slices.Compare) }
	slices.SortFunc(a, byText)
	slices.SortFunc(b, byText)
	return slices.EqualFunc(a, b, func(a, b [][]byte) bool { return byText(a, b) == 0 })
}
