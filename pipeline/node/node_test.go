package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"shardcdc/pipeline"
	"shardcdc/pipeline/await"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a small cluster with everything in this process.
type rig struct {
	t      *testing.T
	ctx    context.Context
	bus    *control.Bus
	shards []*pgx.Conn
	target *pgx.Conn
	sub    *control.Subscription
	log    *slog.Logger
}

func newRig(t *testing.T, shards int, options ...func(*subscribe.Spec)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, bus: natstest.Bus(t), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	servers, err := throwaway.StartMany(ctx, make([]throwaway.Options, shards+1)...)
	r.must(err)
	spec := subscribe.Spec{Name: "bank"}
	for i, s := range servers {
		t.Cleanup(func() { _ = s.Close() })
		c, err := pgx.Connect(ctx, s.DSN())
		r.must(err)
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		r.exec(c, "CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance bigint)")
		if i == shards {
			r.target = c
			spec.Targets = []control.Target{{Name: "t", DSN: s.DSN()}}
			continue
		}
		r.shards = append(r.shards, c)
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: string(rune('a' + i)), DSN: s.DSN()})
	}
	for _, option := range options {
		option(&spec)
	}
	r.sub, _, err = subscribe.Create(ctx, r.bus, spec)
	r.must(err)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) exec(c *pgx.Conn, sql string) {
	r.t.Helper()
	for _, stmt := range strings.Split(sql, ";") {
		if _, err := c.Exec(r.ctx, stmt); err != nil {
			r.t.Fatalf("%s: %v", stmt, err)
		}
	}
}

// start runs a node and a worker; the returned function stops them and waits.
func (r *rig) start(name string) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	n, err := New(ctx, r.bus, Config{Name: name, Durability: DurableAcks, LeaseTTL: time.Second, Heartbeat: 100 * time.Millisecond, TrimEvery: 20 * time.Millisecond, SpillDir: r.t.TempDir(), Log: r.log.With("node", name)})
	r.must(err)
	w, err := NewWorker(ctx, r.bus, WorkerConfig{Name: name, LeaseTTL: time.Second, SpillDir: r.t.TempDir(), Log: r.log.With("node", name)})
	r.must(err)
	var both sync.WaitGroup
	both.Go(func() { _ = n.Run(ctx) })
	both.Go(func() { _ = w.Run(ctx) })
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); both.Wait() }) }
	r.t.Cleanup(stop)
	return stop
}

// captured waits until everything committed so far is in the stream.
func (r *rig) captured() {
	r.t.Helper()
	marks, err := await.Marks(r.ctx, r.sub)
	r.must(err)
	_, err = await.Published(r.ctx, r.bus, r.sub, marks)
	r.must(err)
}

// applied waits until everything committed so far is on the target.
func (r *rig) applied() {
	r.t.Helper()
	marks, err := await.Marks(r.ctx, r.sub)
	r.must(err)
	seq, err := await.Published(r.ctx, r.bus, r.sub, marks)
	r.must(err)
	r.must(await.Applied(r.ctx, r.bus, r.sub, "t", seq))
}

func (r *rig) want(rows ...string) {
	r.t.Helper()
	got, err := r.target.Query(r.ctx, "SELECT id || ' ' || owner || ' ' || balance FROM accounts ORDER BY id")
	r.must(err)
	have, err := pgx.CollectRows(got, pgx.RowTo[string])
	r.must(err)
	if fmt.Sprint(have) != fmt.Sprint(rows) {
		r.t.Fatalf("the target holds %q, want %q", have, rows)
	}
}

func TestThreeShardsToOneTarget(t *testing.T) {
	r := newRig(t, 3)
	stop := r.start("n1")
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (1, 'ann', 100)")
	r.exec(r.shards[1], "INSERT INTO accounts VALUES (2, 'bob', 100)")
	for i, delta := range []string{"- 30", "+ 30"} {
		r.exec(r.shards[i], fmt.Sprintf("BEGIN; UPDATE accounts SET balance = balance %s; PREPARE TRANSACTION 'move1'", delta))
	}
	r.exec(r.shards[0], "COMMIT PREPARED 'move1'")
	// Decided by one second phase: the other half is published although it is still in doubt on its shard.
	marks, err := await.Marks(r.ctx, r.sub)
	r.must(err)
	_, err = await.Published(r.ctx, r.bus, r.sub, marks)
	r.must(err)
	r.applied()
	r.want("1 ann 70", "2 bob 130")
	// The node stops and another one goes on, while the second phase is still missing.
	stop()
	r.exec(r.shards[2], "INSERT INTO accounts VALUES (3, 'cid', 5)")
	stop = r.start("n2")
	r.applied()
	r.exec(r.shards[1], "COMMIT PREPARED 'move1'; UPDATE accounts SET owner = 'bea'")
	r.exec(r.shards[0], "DELETE FROM accounts WHERE id = 1")
	r.applied()
	r.want("2 bea 130", "3 cid 5")

	st, err := control.AskCapture(r.ctx, r.bus.NC, "bank")
	r.must(err)
	if st.State != "running" || st.Node != "n2" || len(st.Shards) != 3 || st.Undecided != 0 || st.BytesHeld != 0 {
		t.Fatalf("status %+v", st)
	}
	// With nothing in flight, heartbeats let every slot move to its shard's end.
	for i, c := range r.shards {
		r.exec(c, "CREATE TABLE unpublished AS SELECT generate_series(1, 1000)")
		var end string
		r.must(c.QueryRow(r.ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&end))
		want, err := pipeline.ParseLSN(end)
		r.must(err)
		for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
			var at string
			r.must(c.QueryRow(r.ctx, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots").Scan(&at))
			if l, err := pipeline.ParseLSN(at); err == nil && l >= want {
				break
			}
			if r.ctx.Err() != nil {
				t.Fatalf("shard %d: the slot stands at %s, before %s", i, at, end)
			}
		}
	}
	stop()
	dropped, err := subscribe.Drop(r.ctx, r.bus, "bank", subscribe.Options{})
	r.must(err)
	t.Log(dropped)
	for _, c := range r.shards {
		var left int
		r.must(c.QueryRow(r.ctx, "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)").Scan(&left))
		if left != 0 {
			t.Fatalf("%d slots and publications are left", left)
		}
	}
}

// What is old enough and applied leaves the stream; the subscription goes on, also after a restart.
func TestRetention(t *testing.T) {
	r := newRig(t, 1)
	catalog, err := control.OpenCatalog(r.ctx, r.bus.JS, 1)
	r.must(err)
	e, err := catalog.Get(r.ctx, "bank")
	r.must(err)
	e.Retain = control.Duration(time.Millisecond)
	r.must(catalog.Put(r.ctx, e))
	first := func() uint64 {
		s, err := r.bus.JS.Stream(r.ctx, wire.StreamName("bank"))
		r.must(err)
		return s.CachedInfo().State.FirstSeq
	}
	var rows []string
	insert := func(id int) {
		r.exec(r.shards[0], fmt.Sprintf("INSERT INTO accounts VALUES (%d, 'ann', 1)", id))
		rows = append(rows, fmt.Sprintf("%d ann 1", id))
		r.applied()
	}
	stop := r.start("n1")
	insert(1)
	for id := 2; first() < 3; id++ {
		insert(id)
	}
	stop()
	r.start("n2")
	insert(0)
	rows = append(rows[len(rows)-1:], rows[:len(rows)-1]...)
	r.want(rows...)
}

// One worker works for a target, the other one stands by and goes on when the first ends.
func TestWorkersTakeTurns(t *testing.T) {
	r := newRig(t, 1)
	stop := r.start("n1")
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (1, 'ann', 1)")
	r.applied()
	r.start("n2")
	runs := func() string {
		st, err := control.AskApply(r.ctx, r.bus.NC, "bank", "t")
		if errors.Is(err, control.ErrNobody) {
			return ""
		}
		r.must(err)
		return st.Node
	}
	for range 20 {
		if who := runs(); who != "n1" {
			t.Fatalf("%q works for the target", who)
		}
	}
	stop()
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (2, 'bob', 1)")
	r.applied()
	if who := runs(); who != "n2" {
		t.Fatalf("%q works for the target", who)
	}
	r.want("1 ann 1", "2 bob 1")
}
