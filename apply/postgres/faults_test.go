package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/wire"
)

// memory is a Source that holds units.
type memory struct {
	id    string
	units []apply.Unit
}

func newMemory(id string, txs ...*pipeline.Transaction) *memory {
	m := &memory{id: id}
	var last pipeline.CSN
	for i, tx := range txs {
		m.units = append(m.units, apply.Unit{
			Unit: &wire.Unit{Previous: last, First: tx.CSN, Last: tx.CSN, Transactions: []*pipeline.Transaction{tx}},
			End:  apply.End{Seq: pipeline.Seq(i + 1), Pending: uint64(len(txs) - i - 1)}, Bytes: int(tx.Bytes()),
		})
		last = tx.CSN
	}
	return m
}

func (m *memory) Describe(context.Context) (apply.StreamInfo, error) {
	return apply.StreamInfo{ID: m.id, First: 1, Last: pipeline.Seq(len(m.units))}, nil
}

func (m *memory) Stamp(context.Context, pipeline.Seq) (int64, error) { return 0, nil }

func (m *memory) Open(_ context.Context, after pipeline.Seq) (apply.Reader, error) {
	return &memoryReader{m.units[after:]}, nil
}

type memoryReader struct{ rest []apply.Unit }

func (r *memoryReader) Close() {}

func (r *memoryReader) Next(ctx context.Context) (apply.Unit, error) {
	if len(r.rest) == 0 {
		<-ctx.Done()
		return apply.Unit{}, ctx.Err()
	}
	u := r.rest[0]
	r.rest = r.rest[1:]
	return u, nil
}

// runWorker runs a worker until ready says so, or until it stops by itself; it returns Run's error.
func runWorker(t *testing.T, cfg apply.Config, ready func(apply.Status) bool) (apply.Status, error) {
	t.Helper()
	return runWorkerFor(t, 30*time.Second, cfg, ready)
}

func runWorkerFor(t *testing.T, patience time.Duration, cfg apply.Config, ready func(apply.Status) bool) (apply.Status, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg.Subscription = "s"
	cfg.RetryMin, cfg.RetryMax, cfg.RetryBlocked = time.Millisecond, time.Millisecond, 10*time.Millisecond
	outer := cfg.Observer.OnState
	cfg.Observer.OnState = func(s apply.Status) {
		if outer != nil {
			outer(s)
		}
		if ready(s) {
			cancel()
		}
	}
	w := apply.New(cfg)
	err := w.Run(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the worker did not get there: %+v", w.Status())
	}
	return w.Status(), err
}

func caughtUp(s apply.Status) bool { return s.State == apply.CaughtUp }

// breaker cuts one connection at one write.
type breaker struct {
	at       int  // which write, counted over all connections; it happens once
	happened bool // the server gets the bytes and answers, but the answer is lost

	mu    sync.Mutex
	count int
	fired bool
}

func (b *breaker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &brokenConn{c, b}, err
}

type brokenConn struct {
	net.Conn
	b *breaker
}

func (c *brokenConn) Write(p []byte) (int, error) {
	c.b.mu.Lock()
	c.b.count++
	fire := c.b.count == c.b.at
	c.b.fired = c.b.fired || fire
	c.b.mu.Unlock()
	if !fire {
		return c.Conn.Write(p)
	}
	if c.b.happened {
		_, _ = c.Conn.Write(p)
		// Whatever these bytes made the server do is done when it answers; the last bytes of a session have no
		// answer, only an end.
		_ = c.Conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, _ = c.Conn.Read(make([]byte, 1))
	}
	_ = c.Conn.Close()
	return 0, errors.New("cut by the test")
}

// TestEveryStepBreaks cuts the connection at every write of a run, before it reached the server and after the
// server had done it, and compares the data each time. The changes are such that a repetition or a loss shows.
func TestEveryStepBreaks(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE k (id int PRIMARY KEY, v int); CREATE TABLE d (v int)")
	w.source("BEGIN; INSERT INTO k VALUES (1, 0), (2, 0); INSERT INTO d VALUES (1); COMMIT")
	w.source("BEGIN; UPDATE k SET id = id + 10; INSERT INTO d VALUES (1), (2); COMMIT")
	w.source("BEGIN; DELETE FROM k WHERE id = 11; INSERT INTO d VALUES (3); INSERT INTO k VALUES (1, 1); COMMIT")
	txs := w.capture()
	f := newFeed(t)
	f.publish(100, 5, txs...) // its writer dies
	f.publish(150, 0, txs...)
	t.Run("memory", func(t *testing.T) { everyStepBreaks(t, w, newMemory("stream", txs...), nil, 1) })
	t.Run("stream", func(t *testing.T) { everyStepBreaks(t, w, f.source(), new(files), 15) }) // connecting is the same
}

func everyStepBreaks(t *testing.T, w *world, src apply.Source, spill *files, first int) {
	info, err := src.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var create func() (apply.SpillFile, error)
	if spill != nil {
		create = spill.create
	}
	for _, happened := range []bool{false, true} {
		for at := first; ; at++ {
			w.target.exec("TRUNCATE k, d; DROP SCHEMA IF EXISTS cdc CASCADE")
			b := &breaker{at: at, happened: happened}
			cfg := w.cfg
			cfg.Dial = b.dial
			target, err := postgres.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			got, err := runWorker(t, apply.Config{Target: target, Source: src, GroupUnits: 1, Spill: create}, caughtUp)
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("write %d, happened %v: %v", at, happened, err)
			}
			if got.Applied.Seq != info.Last || got.Applied.CSN != 3 {
				t.Errorf("write %d, happened %v: applied %s", at, happened, got.Applied)
			}
			w.same("k", "d")
			if t.Failed() {
				t.Fatalf("write %d, happened %v", at, happened)
			}
			if !b.fired {
				if at < first+14 {
					t.Fatalf("only %d writes: the test breaks nothing", at)
				}
				break
			}
		}
	}
}

// TestTwoWorkers: the worker whose progress was overtaken changes nothing and stops.
func TestTwoWorkers(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (v int)")
	w.source("INSERT INTO t VALUES (1)")
	first := w.capture()
	w.source("INSERT INTO t VALUES (2)")
	second := w.capture()
	w.open()
	late := w.session
	from := w.at
	w.session = nil
	if err := w.try(first); err != nil {
		t.Fatal(err)
	}
	at := w.at
	w.at = from
	err := late.Apply(t.Context(), w.group(second))
	var fatal *apply.Fatal
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "another worker is ahead") {
		t.Fatalf("got %v", err)
	}
	if got := w.target.rows("SELECT v FROM t"); got != "1\n" {
		t.Errorf("got %q", got)
	}
	if got := w.progress(); got != at {
		t.Errorf("progress %v, want %v", got, at)
	}
}

// TestTwoWorkersAtOnce: both try the same transaction at the same time; one wins, and the data is there once.
func TestTwoWorkersAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	txs := w.capture()
	var sessions []apply.Session
	for range 2 {
		w.open()
		sessions = append(sessions, w.session)
	}
	w.seq = 0
	g := w.group(txs)
	errs := make(chan error, 2)
	for _, s := range sessions {
		go func() { errs <- s.Apply(context.Background(), g) }()
	}
	a, b := <-errs, <-errs
	var fatal *apply.Fatal
	if (a == nil) == (b == nil) || !errors.As(errors.Join(a, b), &fatal) {
		t.Fatalf("got %v and %v, want one nil and one Fatal", a, b)
	}
}

// TestProgressWaitsForOlderSession: a session that has sent everything but COMMIT holds the row; a new one does
// not read the progress before that is decided.
func TestProgressWaitsForOlderSession(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.LockTimeout = 50 * time.Millisecond
	w.open()
	late := w.session
	w.target.exec("BEGIN; UPDATE cdc.progress SET stream_seq = 7 WHERE subscription = 's'")
	if got, err := late.Progress(t.Context()); err == nil || !strings.Contains(err.Error(), "55P03") {
		t.Fatalf("got %s, %v, want a lock timeout", got, err)
	}
	w.target.exec("COMMIT")
	if got := w.progress(); got.Seq != 7 {
		t.Errorf("got %s", got)
	}
}

// TestProgressEvictsFrozenSession: a worker that stands still in the middle of its transaction does not hold up the one that
// took over.
func TestProgressEvictsFrozenSession(t *testing.T) {
	w := newWorld(t, 1)
	w.open()
	late := w.session
	frozen, err := pgconn.Connect(t.Context(), w.cfg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close(t.Context())
	if _, err := frozen.Exec(t.Context(), "SET application_name = 'cdc apply s'; BEGIN; UPDATE cdc.progress SET stream_seq = 7 WHERE subscription = 's'").ReadAll(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got, err := late.Progress(t.Context())
	if err != nil || got.Seq == 7 {
		t.Errorf("got %s, %v", got, err)
	}
	t.Logf("after %s", time.Since(began))
	if _, err := frozen.Exec(t.Context(), "COMMIT").ReadAll(); err == nil {
		t.Error("the frozen session could commit")
	}
}

// TestTargetCrashes: the server is killed while transactions are on their way, several times; the worker goes on
// by itself, and every row is there once.
func TestTargetCrashes(t *testing.T) {
	own, err := throwaway.Start(t.Context(), throwaway.Options{Name: "crash"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Close(); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, 1)
	w.source("CREATE TABLE d (v int)")
	const rounds, each = 3, 200
	for i := range rounds * each {
		w.source(fmt.Sprintf("INSERT INTO d VALUES (%d)", i))
	}
	src := newMemory("stream", w.capture()...)
	exec := func(sql string) string {
		c, err := pgconn.Connect(t.Context(), own.DSN())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		r, err := c.Exec(t.Context(), sql).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if len(r[len(r)-1].Rows) == 0 {
			return ""
		}
		return string(r[len(r)-1].Rows[0][0])
	}
	exec("CREATE TABLE d (v int)")
	w.cfg.DSN = own.DSN()
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	crashes := 0
	_, err = runWorker(t, apply.Config{
		Target: target, Source: src, GroupUnits: 1,
		Observer: apply.Observer{OnApplied: func(a apply.Applied) {
			if int(a.Progress.Seq) < (crashes+1)*each || crashes == rounds-1 {
				return
			}
			crashes++
			// From here on the worker's next transaction meets the crash at whatever step it is.
			if err := own.Stop(t.Context(), throwaway.Kill); err != nil {
				t.Error(err)
			}
			if err := own.Start(t.Context()); err != nil {
				t.Error(err)
			}
		}},
	}, caughtUp)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := exec("SELECT count(*) || ' ' || count(DISTINCT v) FROM d"); got != fmt.Sprintf("%[1]d %[1]d", rounds*each) || crashes != rounds-1 {
		t.Errorf("after %d crashes: %s rows", crashes, got)
	}
}

// TestWorkerHeals: a missing table and then a missing column block, show it, and heal without a restart; what
// came before in the stream is applied meanwhile.
func TestWorkerHeals(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE before (id int PRIMARY KEY)")
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO before VALUES (1)")
	w.source("INSERT INTO t VALUES (1, 'x')")
	src := newMemory("stream", w.capture()...)
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	_, err = runWorker(t, apply.Config{Target: target, Source: src, Observer: apply.Observer{OnState: func(s apply.Status) {
		if s.State != apply.Stuck {
			return
		}
		texts = append(texts, s.Err)
		switch len(texts) {
		case 1: // seen before the transaction in front of it came through
			w.target.exec("CREATE TABLE t (id int PRIMARY KEY)")
		case 2:
			if got := w.target.rows("SELECT id FROM before"); got != "1\n" {
				t.Errorf("the transaction in front is not applied: %q", got)
			}
			w.target.exec("ALTER TABLE t ADD COLUMN v text")
		}
	}}}, caughtUp)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	w.same("t", "before")
	if len(texts) < 2 || !strings.HasPrefix(texts[0], `apply s: csn 2: table "public"."t": is not on the target`) || !strings.Contains(texts[1], `column "v"`) {
		t.Errorf("errors seen: %q", texts)
	}
}

// TestSameHistoryInEveryPacking: chunks of one byte and one prepared statement, or everything at once: the result
// is the same.
func TestSameHistoryInEveryPacking(t *testing.T) {
	w := newWorld(t, 2)
	w.both("CREATE TABLE t (id int PRIMARY KEY, a text, b text); CREATE TABLE f (a int, b text); ALTER TABLE f REPLICA IDENTITY FULL")
	for i := range 20 {
		w.source(fmt.Sprintf(`BEGIN; INSERT INTO f SELECT g, repeat('x', g * 100) FROM generate_series(1, 10) g; UPDATE f SET b = 'u' WHERE a = %[1]d %% 10; DELETE FROM f WHERE a = 3; COMMIT`, i))
		w.shards[0].exec(fmt.Sprintf("INSERT INTO t VALUES (%[1]d, NULL, ''); UPDATE t SET a = b || '%[1]d' WHERE id %% 2 = 0", 2*i))
		w.shards[1].exec(fmt.Sprintf("INSERT INTO t VALUES (%[1]d, NULL, ''); UPDATE t SET id = id + 1000 WHERE id = %[1]d", 2*i+1))
	}
	src := newMemory("stream", w.capture()...)
	sum := "SELECT count(*), md5(string_agg(x, ',' ORDER BY x)) FROM (SELECT t::text FROM t UNION ALL SELECT f::text FROM f) y(x)"
	want := ""
	for _, tc := range []struct{ chunk, statements, units, queue int }{{1 << 20, 1000, 1000, 1 << 20}, {1, 1, 1, 1}, {100, 2, 3, 1000}, {1000, 3, 1000, 1 << 20}} {
		w.target.exec("TRUNCATE t, f; DROP SCHEMA IF EXISTS cdc CASCADE")
		cfg := w.cfg
		cfg.ChunkBytes, cfg.Statements = tc.chunk, tc.statements
		target, err := postgres.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := runWorker(t, apply.Config{Target: target, Source: src, GroupUnits: tc.units, QueueBytes: tc.queue}, caughtUp); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		got := w.target.rows(sum)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%+v: got %s, want %s", tc, got, want)
		}
	}
	// The two shards' rows are all there.
	if got, want := w.target.rows("SELECT count(*) FROM t")+w.target.rows("SELECT count(*) FROM f"), "40\n360\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
