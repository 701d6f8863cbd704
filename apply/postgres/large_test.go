package postgres_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
)

// TestLargeBlocks: a transaction whose rows arrive is stuck at a row in the middle as any other, which is named; nothing
// of it is visible; it passes when that is mended, read from a file then.
func TestLargeBlocks(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.target.exec("INSERT INTO t VALUES (900, 'in the way')")
	// Enough for the bytes of the row to be gone when its result comes.
	w.source("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g")
	f, spill := newFeed(t), new(files)
	f.publish(100_000, 0, w.capture()...)
	fl := w.follow(t, f, apply.Config{Spill: spill.create})
	s := fl.state("stuck", stuck)
	if s.Blocked != (apply.BlockedAt{CSN: 1, Table: `"public"."t"`, Row: "(id)=(900)"}) || s.Applied.CSN != 0 {
		t.Errorf("status %+v", s)
	}
	if got := w.target.rows("SELECT count(*) FROM t"); got != "1\n" {
		t.Errorf("%s rows are visible", got)
	}
	w.target.exec("DELETE FROM t")
	fl.until(1)
	w.same("t")
	if spill.made == 0 || spill.open != 0 {
		t.Errorf("%d files made, %d left", spill.made, spill.open)
	}
}

// TestLargeShowsHowFar: the status tells how many rows of a large transaction were sent.
func TestLargeShowsHowFar(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.source("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 2000) g")
	w.target.exec("CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 1900 THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN NEW; END$$")
	w.target.exec("CREATE TRIGGER w BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait(); ALTER TABLE t ENABLE ALWAYS TRIGGER w")
	w.target.exec("SELECT pg_advisory_lock(1)")
	f := newFeed(t)
	w.cfg.ChunkBytes = 2000
	txs := w.capture()
	f.publish(5000, 0, txs...)
	fl := w.follow(t, f, apply.Config{})
	late := time.After(time.Minute)
	for {
		l := fl.worker.Status().Large
		if l.Rows > 1850 && l.Rows < 2000 && l.Bytes > 1850*200 {
			if l.CSN != 1 || l.RowsTotal != 2000 || l.BytesTotal != txs[0].Bytes() || l.Spooling {
				t.Errorf("%+v", l)
			}
			break
		}
		select {
		case <-late:
			t.Fatalf("never there: %+v", l)
		case <-time.After(time.Millisecond):
		}
	}
	if got := w.target.rows("SELECT count(*) FROM t"); got != "0\n" {
		t.Errorf("%s rows are visible before the commit", got)
	}
	w.target.exec("SELECT pg_advisory_unlock(1)")
	fl.until(1)
	if l := fl.worker.Status().Large; l != (apply.Large{}) {
		t.Errorf("after it: %+v", l)
	}
	if got, want := w.progress(), fl.worker.Status().Applied; got != want || got.CSN != 1 || got.Stamp == 0 {
		t.Errorf("progress %+v, want %+v", got, want)
	}
}

// TestMovesMax: a transaction that would take too much memory is refused with the way out; fragments that only delete,
// or never delete, take none.
func TestMovesMax(t *testing.T) {
	w := newWorld(t, 3)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.shards[1].exec("INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g")
	w.replay()
	w.cfg.MovesMax = 9
	w.session.Close(t.Context())
	w.session = nil
	w.shards[1].exec("DELETE FROM t")
	w.shards[0].exec("INSERT INTO t SELECT g, 1 FROM generate_series(1, 100) g")
	w.shards[2].exec("BEGIN; INSERT INTO t SELECT g, 1 FROM generate_series(201, 209) g; DELETE FROM t WHERE id = 205; COMMIT")
	txs := w.together(w.capture())
	var blocked *apply.Blocked
	if err := w.try(txs); !errors.As(err, &blocked) || blocked.CSN != txs[0].CSN || !strings.Contains(err.Error(), "--moves-max 10") {
		t.Fatalf("got %v", err)
	}
	w.cfg.MovesMax = 10
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
	if got := w.target.rows("SELECT count(*), sum(v) FROM t"); got != "108|108\n" {
		t.Errorf("got %s", got)
	}
}

// generated is a body that is made while it is read: inserts of (id, v) with ids from first on.
type generated struct {
	relation uint32
	first, n int
	value    []byte
}

func (g *generated) row(dst []byte, i int) []byte {
	id := fmt.Appendf(nil, "%010d", g.first+i)
	msg := len(id) + len(g.value) + 1 + 4 + 1 + 2 + 2*5
	dst = binary.BigEndian.AppendUint32(dst, uint32(msg))
	dst = binary.BigEndian.AppendUint32(append(dst, 'I'), g.relation)
	dst = append(dst, 'N', 0, 2, 't')
	dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(id))), id...)
	dst = append(dst, 't')
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(g.value))), g.value...)
}

func (g *generated) Size() int64 { return int64(len(g.row(nil, 0))) * int64(g.n) }
func (g *generated) Release()    {}
func (g *generated) Open() (io.ReadCloser, error) {
	return io.NopCloser(&generator{generated: g}), nil
}

type generator struct {
	*generated
	i    int
	rest []byte
	row0 []byte
}

func (g *generator) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if g.i == g.n {
			return 0, io.EOF
		}
		g.row0 = g.row(g.row0[:0], g.i)
		g.rest = g.row0
		g.i++
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// diskFile is a SpillFile on disk.
type diskFile struct {
	*os.File
	path string
	n    int64
}

func (d *diskFile) Write(p []byte) (int, error) {
	n, err := d.File.Write(p)
	d.n += int64(n)
	return n, err
}
func (d *diskFile) Seal() error                  { return d.Close() }
func (d *diskFile) Size() int64                  { return d.n }
func (d *diskFile) Open() (io.ReadCloser, error) { return os.Open(d.path) }
func (d *diskFile) Release()                     { _ = os.Remove(d.path) }

// TestMemory: a unit of 200 MB takes little memory, in this process that holds the NATS server as well.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("200 MB through a real server")
	}
	const rows, bytesMax = 100_000, 100 << 20        // rows per shard
	defer debug.SetGCPercent(debug.SetGCPercent(30)) // what is needed counts, not what is yet to be collected
	w := newWorld(t, 2)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.source("INSERT INTO t VALUES (0, '')")
	tx := &pipeline.Transaction{CSN: 1}
	for shard, seen := range w.capture() {
		g := &generated{relation: seen.Fragments[0].Relations[0].Relation.ID, first: 1 + shard*rows, n: rows, value: bytes.Repeat([]byte{'v'}, 1000)}
		tx.Fragments = append(tx.Fragments, &pipeline.Fragment{
			Shard: pipeline.ShardID(shard), Content: g, Changes: rows, Ops: pipeline.OpsOf(pipeline.Insert),
			Relations: seen.Fragments[0].Relations,
		})
	}
	f := newFeed(t)
	f.publish(512<<10, 0, tx)
	for _, way := range []string{"as it comes", "files"} {
		w.target.exec("TRUNCATE t; DROP SCHEMA IF EXISTS cdc CASCADE")
		target, err := postgres.New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		cfg := apply.Config{Target: target, Source: apply.NewStream(f.js, "s")}
		if way == "files" {
			dir, n := t.TempDir(), 0
			cfg.Target = spooling{target}
			cfg.Spill = func() (apply.SpillFile, error) {
				n++
				path := filepath.Join(dir, fmt.Sprint(n))
				file, err := os.Create(path)
				return &diskFile{File: file, path: path}, err
			}
		}
		runtime.GC()
		stop, peak := watchHeap()
		began := time.Now()
		if _, err := runWorkerFor(t, 3*time.Minute, cfg, caughtUp); !strings.Contains(fmt.Sprint(err), "canceled") {
			t.Fatal(err)
		}
		stop()
		t.Logf("%s: %s, peak of the heap %d MB", way, time.Since(began).Round(time.Millisecond), peak.Load()>>20)
		if peak.Load() > bytesMax {
			t.Errorf("%s: the heap reached %d MB", way, peak.Load()>>20)
		}
		if got, want := w.target.rows("SELECT count(*), min(id), max(id), sum(length(v)) FROM t"), fmt.Sprintf("%d|1|%d|%d\n", 2*rows, 2*rows, 2*rows*1000); got != want {
			t.Errorf("%s: got %s, want %s", way, got, want)
		}
	}
}

// watchHeap notes the heap's peak until stop.
func watchHeap() (stop func(), peak *atomic.Uint64) {
	peak = new(atomic.Uint64)
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapAlloc))
		}
	}()
	return func() { close(end); <-done }, peak
}
