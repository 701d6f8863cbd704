package postgres_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage/garbagetest"
)

// elsewhere is a body outside of what the worker may keep.
type elsewhere []byte

func (e elsewhere) Size() int64                  { return int64(len(e)) }
func (e elsewhere) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e)), nil }
func (e elsewhere) Release()                     {}

// A large value is in memory twice: where it was read, and as the connection sends it. A copied one is there once, whatever
// has to be escaped in it.
func TestLargeValue(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE live (id int PRIMARY KEY, v text); CREATE TABLE copied (id int PRIMARY KEY, v text)")
	value := fmt.Sprintf(`repeat(E'\\\n\r\té_', %d)`, garbagetest.Row/7)
	w.source("INSERT INTO live VALUES (0, '')")
	w.replay()
	apply := func(most int, what string, tx *pipeline.Transaction) {
		t.Helper()
		f := tx.Fragments[0]
		f.Content, f.Body = elsewhere(f.Body), nil
		garbagetest.AtMost(t, most, what, func() { w.must(tx) })
		runtime.KeepAlive(tx)
	}
	for _, sql := range []string{"INSERT INTO live VALUES (1, " + value + ")", "UPDATE live SET v = v || 'x' WHERE id = 1", "UPDATE live SET id = 2 WHERE id = 1"} {
		w.source(sql)
		apply(2*garbagetest.Row+4<<20, sql[:6], w.capture()[0])
	}
	w.same("live")
	w.shards[0].exec("INSERT INTO copied VALUES (1, " + value + "), (2, '')")
	w.capture()
	w.must(w.begin("merge", copied("copied")...))
	apply(garbagetest.Row+4<<20, "copy", w.chunk(0, copied("copied")[0], "true"))
	w.must(w.end(copied("copied")...))
	w.same("copied")
}
