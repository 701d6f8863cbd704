package chaos

import (
	"fmt"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/test/harness"
)

// newCluster is a cluster of three NATS servers under load.
func newCluster(t *testing.T) (*harness.Cluster, *harness.Bank) {
	t.Helper()
	c := harness.New(t, harness.Options{NATSServers: 3, Lease: 12 * time.Second, Limit: 5 * time.Minute})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	return c, b
}

// goesOn waits until what is committed from now on arrives, and says how long that took.
func goesOn(t *testing.T, b *harness.Bank, what string) {
	t.Helper()
	began := time.Now()
	b.Progressed()
	t.Logf("%s: goes on after %s", what, time.Since(began).Round(100*time.Millisecond))
}

// The server that leads the stream is killed, comes back, and the next leader is killed.
func TestClusterLeaderKilled(t *testing.T) {
	whole(t)
	c, b := newCluster(t)
	for range 3 {
		leader := c.Leader()
		c.Kill(c.Peer(leader))
		b.Committed(100)
		goesOn(t, b, fmt.Sprintf("leader nats%d killed", leader))
		c.StartNATS(leader)
		b.Committed(100)
		goesOn(t, b, "it is back")
	}
	c.Finish(b)
}

// Each server is killed in turn, and the next one as soon as that one is back, without a pause to recover in.
func TestClusterEachKilled(t *testing.T) {
	whole(t)
	c, b := newCluster(t)
	for i := range 3 {
		c.Kill(c.Peer(i))
		b.Committed(100)
		goesOn(t, b, fmt.Sprintf("nats%d killed", i))
		c.StartNATS(i)
	}
	goesOn(t, b, "all are back")
	c.Finish(b)
}

// Two servers stand still: without a majority nothing is acknowledged and nothing confirmed. They continue.
func TestClusterTwoPaused(t *testing.T) {
	whole(t)
	c, b := newCluster(t)
	for i := range 3 {
		paused := []int{i, (i + 1) % 3}
		for _, k := range paused {
			must(t, c.Peer(k).Pause())
		}
		b.Committed(50) // what was acknowledged before the servers stood still may still be confirmed for a moment
		before := c.Confirmed(0)
		mark := c.Written(0)
		b.Committed(300)
		if at := c.Confirmed(0); at >= mark {
			t.Fatalf("shard a is confirmed up to %s, from %s; %s was written when the servers stood still", at, before, mark)
		}
		for _, k := range paused {
			must(t, c.Peer(k).Resume())
		}
		goesOn(t, b, fmt.Sprintf("nats%d and nats%d continue", paused[0], paused[1]))
	}
	c.Finish(b)
}

// All servers are killed at once and started again.
func TestClusterRestarted(t *testing.T) {
	whole(t)
	c, b := newCluster(t)
	for range 2 {
		for i := range 3 {
			c.Kill(c.Peer(i))
		}
		b.Committed(100)
		for i := range 3 {
			c.StartNATS(i)
		}
		goesOn(t, b, "all restarted")
	}
	c.Finish(b)
}
