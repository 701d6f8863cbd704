package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/wire"
)

// feed is a real stream on a real server.
type feed struct {
	t    testing.TB
	js   jetstream.JetStream
	enc  wire.Encoder
	last pipeline.CSN
}

func newFeed(t testing.TB) *feed {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(natstest.Start(t, &natsserver.Options{JetStream: true, DontListen: true})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: wire.StreamName("s"), Subjects: []string{wire.AllSubjects("s")},
	}); err != nil {
		t.Fatal(err)
	}
	return &feed{t: t, js: js}
}

// source reads every unit in parts as it comes.
func (f *feed) source() *apply.Stream {
	src := apply.NewStream(f.js, "s")
	src.MemoryBytes = 0
	return src
}

// publish makes one unit of transactions, in parts of at most limit bytes, but only the first of them if only is not 0.
func (f *feed) publish(limit, only int, txs ...*pipeline.Transaction) {
	f.t.Helper()
	b := &pipeline.Batch{Previous: f.last, Transactions: txs}
	frame, err := f.enc.Frame(b)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &partWriter{feed: f, limit: limit, of: int((frame.Size() + int64(limit) - 1) / int64(limit)), only: only, csn: b.Last()}
	if _, err := frame.WriteTo(p); err != nil && !errors.Is(err, errCut) {
		f.t.Fatal(err)
	}
	if only == 0 {
		p.flush()
		f.last = b.Last()
	}
}

var errCut = errors.New("cut by the test")

// partWriter publishes what is written to it.
type partWriter struct {
	*feed
	buf          bytes.Buffer
	limit, of, k int
	only         int
	csn          pipeline.CSN
}

func (p *partWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if p.buf.Len() == p.limit {
			p.flush()
		}
		if p.only > 0 && p.k == p.only {
			return 0, errCut
		}
		took := min(len(b), p.limit-p.buf.Len())
		p.buf.Write(b[:took])
		b = b[took:]
	}
	return n, nil
}

func (p *partWriter) flush() {
	p.t.Helper()
	p.k++
	m := nats.NewMsg(wire.Subject("s"))
	m.Data = bytes.Clone(p.buf.Bytes())
	p.buf.Reset()
	if p.of > 1 {
		m.Header.Set(wire.HeaderPart, wire.PartHeader(p.k, p.of))
	}
	if p.k == p.of {
		m.Header.Set(wire.HeaderCheckpoint, wire.CheckpointHeader(&pipeline.Checkpoint{}))
	}
	if _, err := p.js.PublishMsg(p.t.Context(), m); err != nil {
		p.t.Fatal(err)
	}
}

// files are SpillFiles in memory; none may be left.
type files struct {
	mu   sync.Mutex
	open int
	made int
}

func (f *files) create() (apply.SpillFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	f.made++
	return &memoryFile{files: f}, nil
}

type memoryFile struct {
	bytes.Buffer
	files *files
}

func (m *memoryFile) Seal() error { return nil }
func (m *memoryFile) Size() int64 { return int64(m.Len()) }
func (m *memoryFile) Open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m.Bytes())), nil
}

func (m *memoryFile) Release() {
	m.files.mu.Lock()
	defer m.files.mu.Unlock()
	m.files.open--
}

// spooling is a target that never takes rows as they come.
type spooling struct{ apply.Target }

func (s spooling) Open(ctx context.Context) (apply.Session, error) {
	session, err := s.Target.Open(ctx)
	return spoolingSession{session}, err
}

type spoolingSession struct{ apply.Session }

func (spoolingSession) Streams(*pipeline.Transaction) bool { return false }

// follower is a worker in the background that replays a feed.
type follower struct {
	t       *testing.T
	worker  *apply.Worker
	applied chan apply.Applied
	states  chan apply.Status
	done    chan error
}

// spooling is the world's target as one that never takes rows as they come.
func (w *world) spooling(t *testing.T) apply.Target {
	t.Helper()
	target, err := postgres.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return spooling{target}
}

// follow starts a worker, which ends with the test.
func (w *world) follow(t *testing.T, f *feed, cfg apply.Config) *follower {
	t.Helper()
	if cfg.Target == nil {
		target, err := postgres.New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Target = target
	}
	fl := &follower{t: t, applied: make(chan apply.Applied, 1000), states: make(chan apply.Status, 10000), done: make(chan error, 1)}
	cfg.Subscription = "s"
	if cfg.Source == nil {
		cfg.Source = f.source()
	}
	cfg.RetryMin, cfg.RetryMax, cfg.RetryBlocked, cfg.RetryLarge = time.Millisecond, time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
	cfg.Observer.OnApplied = func(a apply.Applied) { fl.applied <- a }
	cfg.Observer.OnState = func(s apply.Status) { fl.states <- s }
	fl.worker = apply.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { fl.done <- fl.worker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-fl.done; !errors.Is(err, context.Canceled) {
			t.Errorf("the worker ended: %v", err)
		}
	})
	return fl
}

// until waits for a transaction to be applied.
func (fl *follower) until(csn pipeline.CSN) {
	fl.t.Helper()
	late := time.After(time.Minute)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for fl.worker.Status().Applied.CSN < csn {
		select {
		case <-fl.applied:
		case <-look.C: // a commit whose answer was lost is seen by the next session, and is in the status only
		case err := <-fl.done:
			fl.done <- err
			fl.t.Fatalf("the worker ended: %v", err)
		case <-late:
			fl.t.Fatalf("csn %s is not applied: %+v", csn, fl.worker.Status())
		}
	}
}

// state waits for a state.
func (fl *follower) state(what string, is func(apply.Status) bool) apply.Status {
	fl.t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case s := <-fl.states:
			if is(s) {
				return s
			}
		case <-late:
			fl.t.Fatalf("never %s: %+v", what, fl.worker.Status())
		}
	}
}

func stuck(s apply.Status) bool { return s.State == apply.Stuck }
