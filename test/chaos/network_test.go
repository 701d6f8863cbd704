package chaos

import (
	"math/rand/v2"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
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
