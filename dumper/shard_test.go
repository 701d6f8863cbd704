package dumper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"shardcdc/dumper"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
)

// server is shared by the tests of this package, which run one after the other; each has a database of its own.
var server *throwaway.Server

func TestMain(m *testing.M) { os.Exit(throwawaytest.Main(m, "dumper", &server)) }

// patience is how long a condition may take on a busy machine.
const patience = 30 * time.Second

// shard is a database with table t, publication p and slot.
type shard struct {
	t    *testing.T
	conn *pgx.Conn
	src  dumper.Source
}

var databases atomic.Int64

func newShard(t *testing.T) *shard {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	postmaster := goleak.IgnoreAnyFunction("shardcdc/pipeline/throwaway/child.Start.func1") // a restarted server's
	t.Cleanup(func() { goleak.VerifyNone(t, leaks, postmaster) })
	name := fmt.Sprintf("d%d", databases.Add(1))
	admin := connect(t, server.DSN())
	exec(t, admin, "CREATE DATABASE "+name)
	s := &shard{t: t, conn: connect(t, server.DSNFor(name))}
	exec(t, s.conn, "CREATE TABLE t (id bigint PRIMARY KEY, v text)")
	exec(t, s.conn, "CREATE PUBLICATION p FOR TABLE t")
	var start string
	slot := "slot_" + name
	row(t, s.conn, "SELECT lsn::text FROM pg_create_logical_replication_slot('"+slot+"', 'pgoutput', false, true)", &start)
	t.Cleanup(func() {
		c := connect(t, server.DSN())
		await(t, "the slot is dropped", func() bool {
			_, err := c.Exec(context.Background(), "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
			return err == nil
		})
	})
	s.src = dumper.Source{
		Shard: 4, Name: "a", DSN: server.DSNFor(name), Slot: slot, Publications: []string{"p"}, Start: lsn(t, start),
	}
	var timeline int32
	row(t, s.conn, "SELECT system_identifier::text FROM pg_control_system()", &s.src.SystemID)
	row(t, s.conn, "SELECT timeline_id FROM pg_control_checkpoint()", &timeline)
	s.src.Timeline = timeline
	return s
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func row(t *testing.T, conn *pgx.Conn, sql string, into ...any) {
	t.Helper()
	if err := conn.QueryRow(context.Background(), sql, pgx.QueryExecModeSimpleProtocol).Scan(into...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func lsn(t *testing.T, s string) pipeline.LSN {
	t.Helper()
	l, err := pipeline.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// await polls for what no signal tells (the server's state).
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	pausetest.Within(patience, t, what, cond)
}

type answer struct {
	id      uint64
	clock   pipeline.Timestamp
	flushed pipeline.LSN
}

// sink keeps what it gets and checks the contract of Sink.
type sink struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and renewed at each change
	records  []pipeline.Record
	received pipeline.LSN
	answers  []answer
	faults   []string
	room     chan struct{} // Offer takes one; nil: there is always room
	refuse   error
}

func newSink() *sink { return &sink{changed: make(chan struct{})} }

func (s *sink) Offer(ctx context.Context, shard pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error {
	if s.room != nil {
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	last := s.received
	for _, rec := range records {
		if rec.End <= last {
			s.faults = append(s.faults, fmt.Sprintf("%v ends at %s, after %s", rec.Kind, rec.End, last))
		}
		last = rec.End
	}
	if received < last || shard != 4 {
		s.faults = append(s.faults, fmt.Sprintf("shard %d received %s, after %s", shard, received, last))
	}
	s.records, s.received = append(s.records, records...), received
	s.tell()
	return nil
}

func (s *sink) Probed(_ pipeline.ShardID, id uint64, clock pipeline.Timestamp, flushed pipeline.LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answer{id, clock, flushed})
	s.tell()
	return nil
}

// position is how far the stream has come.
func (s *sink) position() pipeline.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

func (s *sink) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait blocks until cond holds; cond runs under the lock.
func (s *sink) wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		ok, changed := cond(), s.changed
		if ok && len(s.faults) > 0 {
			t.Error(strings.Join(s.faults, "\n"))
		}
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %s for %s; got %s", patience, what, s.story())
		}
	}
}

// story is what came, one word for each record and change.
func (s *sink) story() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var words []string
	for _, rec := range s.records {
		word := strings.ReplaceAll(rec.Kind.String(), " ", "-")
		if rec.GID != "" {
			word += ":" + rec.GID
		}
		words = append(words, word)
		if rec.Fragment != nil {
			err := rec.Fragment.Walk(func(c *pipeline.Change) error {
				words = append(words, changeWord(c))
				return nil
			})
			if err != nil {
				words = append(words, err.Error())
			}
		}
	}
	return strings.Join(words, " ")
}

func changeWord(c *pipeline.Change) string {
	switch {
	case c.Op == pipeline.Message:
		return "message(" + c.Prefix + ")"
	case c.New != nil:
		v := c.New.Values(nil)
		if len(v[0].Data) > 20 {
			return c.Op.String() + "(long)"
		}
		return c.Op.String() + "(" + string(v[0].Data) + ")"
	}
	return c.Op.String()
}

// ids lists the ids of all inserts in committed order of the stream.
func (s *sink) ids() (ids []string) {
	for _, word := range strings.Fields(s.story()) {
		if id, ok := strings.CutPrefix(word, "insert("); ok {
			ids = append(ids, strings.TrimSuffix(id, ")"))
		}
	}
	return ids
}

// running is a Dumper whose Run goes on in a goroutine.
type running struct {
	*dumper.Dumper
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, src dumper.Source, s dumper.Sink, opts dumper.Options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Dumper: dumper.New(src, s, opts), t: t, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(r.stop)
	return r
}

// stop ends Run and expects that nothing else did.
func (r *running) stop() {
	r.t.Helper()
	if r.done == nil {
		return
	}
	r.cancel()
	if err := <-r.done; !errors.Is(err, context.Canceled) {
		r.t.Errorf("Run returned %v", err)
	}
	r.done = nil
}

// failed waits for Run to end by itself.
func (r *running) failed() error {
	r.t.Helper()
	defer r.cancel()
	select {
	case err := <-r.done:
		r.done = nil
		return err
	case <-time.After(patience):
		r.t.Fatalf("Run goes on: %+v", r.Status())
		return nil
	}
}
