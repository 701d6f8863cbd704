package chaos

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway"
	"shardcdc/test/harness"
)

// Shards are restarted in random order, in good order and at once, each in the middle of the traffic.
func TestShardsRestart(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 50, InDoubt: time.Second})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	modes := []throwaway.Mode{throwaway.Fast, throwaway.Immediate}
	for _, i := range dice.Perm(2 * len(c.Servers))[:count(2, 6)] {
		shard, mode := i/2, modes[i%2]
		began := time.Now()
		restart(t, c, c.Servers[shard], mode)
		t.Logf("shard %d: %s restart took %s", shard, mode, time.Since(began).Round(time.Millisecond))
		b.Committed(dice.Int64N(100))
		b.Progressed()
	}
	c.Finish(b)
}

// count is how often, in the selection and in all.
func count(selection, all int) int {
	if everything() {
		return all
	}
	return selection
}

// The target is restarted again and again while transactions commit on it.
func TestTargetRestarts(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	modes := []throwaway.Mode{throwaway.Fast, throwaway.Immediate, throwaway.Kill}
	for range count(3, 12) {
		restart(t, c, c.Target, modes[dice.IntN(len(modes))])
		if dice.IntN(2) == 0 {
			b.Committed(dice.Int64N(100))
		} else {
			b.Progressed()
		}
	}
	c.Finish(b)
}

// A shard is down when a node starts: status says which, nothing of the others is lost, and it goes on when the shard is
// back. So is the target for a worker.
func TestDownAtStart(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node, worker := c.Node("node"), c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	c.Kill(node)
	c.Kill(worker)
	must(t, c.Servers[1].Stop(c.Ctx, throwaway.Immediate))
	must(t, c.Target.Stop(c.Ctx, throwaway.Immediate))
	c.Node("node")
	c.Apply()
	b.Committed(100)
	c.Says("shard b:", "connection refused", "waits for")
	c.Says("target "+harness.TargetName+":", "connect to the target", "connection refused")
	if c.Confirmed(0) > 0 && c.Confirmed(2) > 0 {
		st, _ := c.Capture()
		if st.State != "running" {
			t.Fatalf("the capture is %s: %s", st.State, st.Error)
		}
	}
	must(t, c.Servers[1].Start(c.Ctx))
	must(t, c.Target.Start(c.Ctx))
	b.Progressed()
	c.Finish(b)
}

// A walsender ends exactly when it is to send a second phase, as far as chance allows: every few milliseconds.
func TestWalsendersEndedOften(t *testing.T) {
	whole(t)
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	for range 60 {
		b.Committed(1 + dice.Int64N(20))
		shard := dice.IntN(len(c.Servers))
		c.Query(c.ShardDSN(shard), fmt.Sprintf("SELECT coalesce(bool_or(pg_terminate_backend(active_pid)), false)::text FROM pg_replication_slots WHERE slot_name = '%s'", c.Sub.Shards[shard].Slot))
	}
	b.Progressed()
	c.Finish(b)
}
