package chaos

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

// fault of a network link, that Heal ends.
type fault struct {
	name  string
	begin func(*harness.Proxy)
}

var faults = []fault{
	{"cut", (*harness.Proxy).Cut},
	{"reset", (*harness.Proxy).Reset},
	{"stall", func(p *harness.Proxy) { p.Stall() }},
	{"stall to the server", func(p *harness.Proxy) { p.Stall(harness.ToServer) }},
	{"stall to the client", func(p *harness.Proxy) { p.Stall(harness.ToClient) }},
	{"slow", func(p *harness.Proxy) { p.Slow(50 * time.Millisecond) }},
}

type link struct {
	name  string
	proxy *harness.Proxy
}

func links(c *harness.Cluster) (all []link) {
	for i, p := range c.ShardProxies {
		all = append(all, link{"node and shard " + harness.ShardName(i), p})
	}
	return append(all, link{"node and NATS", c.NodeNATS}, link{"worker and NATS", c.ApplyNATS}, link{"worker and target", c.TargetProxy})
}

// Every link breaks in every way, in random order, under load; sometimes two links at a time. The selection takes some.
func TestLinks(t *testing.T) {
	c := harness.New(t, harness.Options{Proxied: true, Limit: 4 * time.Minute})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	type breach struct {
		link
		fault
	}
	var plan []breach
	for _, l := range links(c) {
		for _, f := range faults {
			plan = append(plan, breach{l, f})
		}
	}
	dice.Shuffle(len(plan), func(i, k int) { plan[i], plan[k] = plan[k], plan[i] })
	if !everything() {
		plan = plan[:6]
	}
	for i, x := range plan {
		t.Logf("%s between %s", x.fault.name, x.link.name)
		x.begin(x.proxy)
		b.Committed(20 + dice.Int64N(150))
		if i+1 < len(plan) && dice.IntN(3) == 0 {
			also := plan[i+1]
			t.Logf("  and %s between %s", also.fault.name, also.link.name)
			also.begin(also.proxy)
			b.Committed(20 + dice.Int64N(50))
			also.proxy.Heal()
		}
		x.proxy.Heal()
		b.Progressed()
	}
	c.Finish(b)
}

// Connections die without a word to this side: they are given up, without hands.
func TestFrozenLinks(t *testing.T) {
	whole(t)
	for _, which := range []string{"node and shard b", "node and NATS", "worker and NATS", "worker and target"} {
		t.Run(which, func(t *testing.T) {
			if which == "worker and target" {
				known(t, "the worker waits without a limit for the answer of a target that is gone without a word")
			}
			c := harness.New(t, harness.Options{Proxied: true, Limit: 4 * time.Minute})
			c.Node("node")
			c.Apply()
			b := c.OpenBank(bank.Config{PerSecond: 100})
			b.Progressed()
			for _, l := range links(c) {
				if l.name == which {
					l.proxy.Freeze()
				}
			}
			began := time.Now()
			b.Progressed()
			t.Logf("went on after %s", time.Since(began).Round(time.Second))
			c.Finish(b)
		})
	}
}

// strike is a tap that cuts the connection at an exact place, once each time that it is armed.
type strike struct {
	direction harness.Direction
	marks     [][]byte // the chunk has to hold all of them
	at        func(chunk []byte, mark int) int
	armed     atomic.Bool
}

func (s *strike) tap(d harness.Direction, chunk []byte) (int, bool) {
	if d != s.direction || !s.armed.Load() {
		return 0, false
	}
	at := -1
	for _, m := range s.marks {
		if at = bytes.Index(chunk, m); at < 0 {
			return 0, false
		}
	}
	if !s.armed.CompareAndSwap(true, false) {
		return 0, false
	}
	return s.at(chunk, at), true
}

// Where a chunk with a mark is cut.
var (
	before = func(_ []byte, mark int) int { return mark }
	inside = func(chunk []byte, mark int) int { return mark + (len(chunk)-mark+1)/2 }
	behind = func(chunk []byte, _ int) int { return len(chunk) }
)

// exactly cuts a link at an exact place again and again; between two cuts something new arrives.
func exactly(t *testing.T, b *harness.Bank, c *harness.Cluster, p *harness.Proxy, rounds int, name string, s *strike) {
	t.Helper()
	t.Logf("%d times %s", rounds, name)
	p.Tap(s.tap)
	defer p.Tap(nil)
	for range rounds {
		s.armed.Store(true)
		harness.Until(c.Ctx, t, "the connection is cut "+name, func() (bool, string) { return !s.armed.Load(), "the place did not come" })
		b.Progressed()
	}
}

// The node's connection to NATS ends around a publish and its acknowledgement.
func TestCutAtTheAcknowledgement(t *testing.T) {
	c := harness.New(t, harness.Options{Proxied: true, Limit: 6 * time.Minute})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	publish := [][]byte{[]byte("HPUB " + wire.Subject(c.Sub.Name))}
	ack := [][]byte{[]byte(fmt.Sprintf(`"stream":%q`, wire.StreamName(c.Sub.Name)))}
	cases := []struct {
		name string
		s    *strike
	}{
		{"before an acknowledgement", &strike{direction: harness.ToClient, marks: ack, at: func([]byte, int) int { return 0 }}},
		{"inside a publish", &strike{direction: harness.ToServer, marks: publish, at: inside}},
		{"before a publish", &strike{direction: harness.ToServer, marks: publish, at: before}},
		{"behind a publish", &strike{direction: harness.ToServer, marks: publish, at: behind}},
		{"inside an acknowledgement", &strike{direction: harness.ToClient, marks: ack, at: before}},
		{"behind an acknowledgement", &strike{direction: harness.ToClient, marks: ack, at: behind}},
	}
	// The publisher waits ten seconds for an answer, whatever becomes of the connection.
	for _, x := range cases[:count(1, len(cases))] {
		exactly(t, b, c, c.NodeNATS, count(1, 3), x.name, x.s)
	}
	c.Finish(b)
}

// The worker's connection to the target ends around a commit.
func TestCutAtTheCommit(t *testing.T) {
	c := harness.New(t, harness.Options{Proxied: true, Limit: 4 * time.Minute})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	commit, done := [][]byte{[]byte("cdc_commit")}, [][]byte{[]byte("COMMIT\x00")}
	for _, x := range []struct {
		name string
		s    *strike
	}{
		{"before the commit is asked for", &strike{direction: harness.ToServer, marks: commit, at: before}},
		{"inside the request", &strike{direction: harness.ToServer, marks: commit, at: inside}},
		{"behind the request", &strike{direction: harness.ToServer, marks: commit, at: behind}},
		{"before the answer", &strike{direction: harness.ToClient, marks: done, at: func([]byte, int) int { return 0 }}},
		{"inside the answer", &strike{direction: harness.ToClient, marks: done, at: before}},
		{"behind the answer", &strike{direction: harness.ToClient, marks: done, at: behind}},
	} {
		exactly(t, b, c, c.TargetProxy, count(2, 15), x.name, x.s)
	}
	c.Finish(b)
}
