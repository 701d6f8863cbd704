package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// Twenty rounds: the node, the apply worker, or both, killed at a random moment under load.
func TestKilled(t *testing.T) {
	c := harness.New(t, harness.Options{Limit: 3 * time.Minute})
	node, worker := c.Node("node"), c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	for range 20 {
		b.Committed(1 + dice.Int64N(150))
		which := dice.IntN(5)
		if which <= 2 {
			c.Kill(node)
			node = c.Node("node")
		}
		if which >= 2 {
			c.Kill(worker)
			worker = c.Apply()
		}
		if dice.IntN(4) > 0 { // else the next kill hits a process that starts
			b.Progressed()
		}
	}
	b.Progressed()
	c.Finish(b)
}

// A coordinator dies between the phases. Its transaction holds up nobody, is remembered by the slots for as long as it is
// in doubt, also over a crash of the node, and appears whole once it is decided on one shard.
func TestCoordinatorDies(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()

	type doubt struct {
		*bank.InDoubt
		prepared []pipeline.LSN // per shard: behind the PREPARE
	}
	abandon := func() doubt {
		d, err := b.Abandon(c.Ctx, 0, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		out := doubt{InDoubt: d}
		for i := range c.Servers {
			out.prepared = append(out.prepared, c.Written(i))
		}
		return out
	}
	decide := func(d doubt, commit bool, shards ...int) {
		if err := d.Decide(c.Ctx, commit, shards...); err != nil {
			t.Fatal(err)
		}
	}
	held := func(d doubt) {
		for i, at := range d.prepared {
			if confirmed := c.Confirmed(i); confirmed >= at {
				t.Fatalf("shard %d is confirmed up to %s, behind the PREPARE (before %s) of %s, which is in doubt", i, confirmed, at, d.GID())
			}
		}
	}
	sides := func() string {
		return c.Query(c.TargetDSN(), "SELECT count(*)::text FROM history WHERE account >= $1", b.ReservedFrom())
	}
	half, whole, undone := abandon(), abandon(), abandon()
	b.Committed(200)
	b.Progressed()
	held(half)
	held(whole)
	held(undone)
	if n := sides(); n != "0" {
		t.Fatalf("%s rows of transactions in doubt are on the target", n)
	}

	decide(half, true, 1)
	harness.Until(c.Ctx, t, "the transaction that was committed on one shard is whole on the target", func() (bool, string) {
		n := sides()
		if n != "0" && n != "3" {
			t.Fatalf("%s of 3 sides are on the target", n)
		}
		return n == "3", n + " sides"
	})
	c.Kill(node)
	c.Node("node")
	b.Progressed()
	held(whole)
	held(undone)

	decide(whole, true)
	decide(undone, false)
	b.Committed(100)
	b.Progressed()
	decide(half, true, 0, 2)
	c.Finish(b)
	if n := sides(); n != "6" {
		t.Fatalf("%s sides of transactions that were in doubt are on the target, want 6", n)
	}
	for i := range c.Servers {
		harness.Until(c.Ctx, t, "the slot moves on once nothing is in doubt", func() (bool, string) {
			at := c.Confirmed(i)
			return at >= undone.prepared[i], at.String()
		})
	}
}

// NATS stands still while commits go on: none of them is confirmed to a shard, however often the node reports to it.
func TestNATSStopped(t *testing.T) {
	c := harness.New(t, harness.Options{Lease: time.Minute}) // the node does not give up meanwhile
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	b.StopTraffic() // nothing is on its way when NATS stops, so the first commit behind that is not durable, nor any other
	c.WaitApplied()
	if err := c.NATS.Pause(); err != nil {
		t.Fatal(err)
	}
	limits := make([]pipeline.LSN, len(c.Servers)) // behind the first commit
	for i := range c.Servers {
		limits[i] = insertMany(t, c, i, 100)
	}
	check := func() {
		for i, limit := range limits {
			if confirmed := c.Confirmed(i); confirmed >= limit {
				t.Fatalf("shard %d is confirmed up to %s; the first commit, before %s, cannot be durable: NATS stands still", i, confirmed, limit)
			}
		}
	}
	began := c.Query(c.ShardDSN(0), "SELECT clock_timestamp()::text")
	for i := range c.Servers {
		harness.Until(c.Ctx, t, "the node has sent three status updates more", func() (bool, string) {
			check()
			said := c.Query(c.ShardDSN(i), "SELECT coalesce(bool_and(reply_time > $1::timestamptz + interval '3 s'), false)::text"+
				" FROM pg_stat_replication WHERE application_name = 'cdc "+c.Sub.Shards[i].Slot+"'", began)
			return said == "true", said
		})
	}
	check()
	if err := c.NATS.Resume(); err != nil {
		t.Fatal(err)
	}
	c.WaitApplied()
	c.Equal()
	if a := c.Audit(); a.Transactions != b.Stats().Transactions+300 {
		t.Errorf("the stream holds %d transactions, want %d", a.Transactions, b.Stats().Transactions+300)
	}
}

// insertMany commits n transactions on a shard and returns its WAL position behind the first one.
func insertMany(t *testing.T, c *harness.Cluster, shard, n int) (first pipeline.LSN) {
	t.Helper()
	conn, err := pgx.Connect(c.Ctx, c.ShardDSN(shard))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for i := range n {
		if _, err := conn.Exec(c.Ctx, "INSERT INTO journal VALUES ($1, 'inserted', now())", -1-n*shard-i); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = c.Written(shard)
		}
	}
	return first
}

// NATS is killed and started again on the same store.
func TestNATSKilled(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	for range 2 {
		b.Committed(50)
		c.RestartNATS()
		b.Progressed()
	}
	c.Finish(b)
}

// Servers crash: the target, then each shard, with transactions prepared and not decided.
func TestServersCrash(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 20, InDoubt: 2 * time.Second})
	b.Progressed()
	crash := func(s *throwaway.Server, mode throwaway.Mode) {
		if err := s.Stop(c.Ctx, mode); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(c.Ctx); err != nil {
			t.Fatal(err)
		}
		b.Progressed()
	}
	for _, mode := range []throwaway.Mode{throwaway.Fast, throwaway.Immediate, throwaway.Kill} {
		t.Logf("target: %s", mode)
		crash(c.Target, mode)
	}
	for i, mode := range []throwaway.Mode{throwaway.Immediate, throwaway.Kill, throwaway.Immediate} {
		t.Logf("shard %d: %s", i, mode)
		crash(c.Servers[i], mode)
	}
	c.Finish(b)
}

// The walsenders are ended every 200 ms.
func TestWalsendersEnded(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	ctx, cancel := context.WithCancel(c.Ctx)
	ended := make(chan error, 1)
	go func() { ended <- endWalsenders(ctx, c) }()
	b.Committed(1500)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	b.Progressed()
	c.Finish(b)
}

func endWalsenders(ctx context.Context, c *harness.Cluster) error {
	var conns []*pgx.Conn
	for i := range c.Servers {
		conn, err := pgx.Connect(ctx, c.ShardDSN(i))
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		conns = append(conns, conn)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		_, err := conns[i%len(conns)].Exec(ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()")
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// A node stands still for longer than its lease, another one takes over, and the first one goes on: it changes nothing. Then
// they change places.
func TestZombie(t *testing.T) {
	c := harness.New(t, harness.Options{})
	zombie, other := c.Node("first"), (*program.Program)(nil)
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	other = c.Node("second")
	for range 4 {
		if got := c.Running(); got != zombie.Name() {
			t.Fatalf("%s captures, want %s", got, zombie.Name())
		}
		began := len(lost(zombie))
		if err := zombie.Pause(); err != nil {
			t.Fatal(err)
		}
		harness.Until(c.Ctx, t, "the other node captures", func() (bool, string) {
			st, ok := c.Capture()
			return ok && st.Node == other.Name() && st.State == "running", fmt.Sprintf("%s %s %s", st.Node, st.State, st.Error)
		})
		b.Progressed()
		if err := zombie.Resume(); err != nil {
			t.Fatal(err)
		}
		harness.Until(c.Ctx, t, "the node that stood still sees that it is not the one any more", func() (bool, string) {
			return len(lost(zombie)) > began, zombie.Tail(20)
		})
		b.Committed(50)
		b.Progressed()
		zombie, other = other, zombie
	}
	c.Finish(b)
}

// lost are the lines of a node's log that say that it has ended a capture.
func lost(p *program.Program) (lines []string) {
	for line := range strings.Lines(p.Tail(1000)) {
		if strings.Contains(line, "capture ended") || strings.Contains(line, "has taken the stream over") {
			lines = append(lines, line)
		}
	}
	return lines
}

// A node that is stopped in order hands over at once, whatever the lease's time.
func TestHandOver(t *testing.T) {
	const lease = 40 * time.Second
	c := harness.New(t, harness.Options{Lease: lease})
	first := c.Node("first")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	if got := c.Running(); got != "first" {
		t.Fatalf("%s captures", got)
	}
	c.Node("second")
	b.Committed(50)
	began := time.Now()
	if err := first.Stop(c.Ctx); err != nil {
		t.Fatal(err)
	}
	b.Progressed()
	took := time.Since(began)
	t.Logf("handed over in %s", took)
	if took > lease/2 {
		t.Errorf("the hand-over took %s: it waited for the lease", took)
	}
	if got := c.Running(); got != "second" {
		t.Errorf("%s captures", got)
	}
	c.Finish(b)
}

// Shards that nobody writes to do not hold up the one that somebody does.
func TestIdleShards(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	c.Running()
	conn, err := pgx.Connect(c.Ctx, c.ShardDSN(0))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	target, err := pgx.Connect(c.Ctx, c.TargetDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close(context.Background())
	const within = 5 * time.Second // a heartbeat comes every 10 s: waiting for one would be too late
	var longest time.Duration
	for i := range 30 {
		if _, err := conn.Exec(c.Ctx, "INSERT INTO journal VALUES ($1, 'alone', now())", i); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeoutCause(c.Ctx, within, fmt.Errorf("%s are over", within))
		harness.Until(ctx, t, fmt.Sprintf("row %d is visible", i), func() (ok bool, reason string) {
			if err := target.QueryRow(c.Ctx, "SELECT EXISTS (SELECT FROM journal WHERE entry = $1)", i).Scan(&ok); err != nil {
				t.Fatal(err)
			}
			st, _ := c.Capture()
			return ok, fmt.Sprintf("it is not; the node is %s, waits for %v", st.State, st.WaitsFor)
		})
		cancel()
		longest = max(longest, time.Since(began))
	}
	t.Logf("30 transactions on one shard, the others idle: visible within %s", longest)
	c.WaitApplied()
	c.Equal()
}
