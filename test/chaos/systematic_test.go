package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

var onlyCases = flag.String("case", "", "regular expression: only these cases of TestSystematic, all of them")

// A stage is a cluster with two nodes and two workers under load, on which cases run one after the other.
type stage struct {
	t    *testing.T
	c    *harness.Cluster
	b    *harness.Bank
	dice *rand.Rand

	nodes, workers []*program.Program
	larges         int // large transactions so far
	present        int // rows on each shard of the last one
	bursts         int // see commitBurst
	spared         int // so many nodes and workers live for ever

	// Of the present case.
	large bool
	place harness.Place
	shard int
	began time.Time
	again int // times that the connection had ended when its owner was looked for
}

// lease is the shortest that there is.
const lease = time.Second

func newStage(t *testing.T) *stage {
	return openStage(t, harness.Options{Proxied: true, Limit: time.Hour, Lease: lease}, bank.Config{PerSecond: 150})
}

// openStage starts everything. Changes come before the commit, from small transactions as well.
func openStage(t *testing.T, o harness.Options, traffic bank.Config) *stage {
	o.Settings = map[string]string{"logical_decoding_work_mem": "64kB"}
	return openStageAsIs(t, o, traffic)
}

// openStageAsIs leaves the servers' settings as they are.
func openStageAsIs(t *testing.T, o harness.Options, traffic bank.Config) *stage {
	c := harness.New(t, o)
	s := &stage{t: t, c: c, dice: rand.New(rand.NewPCG(c.Seed, 0))}
	for i := range 2 {
		s.nodes = append(s.nodes, c.Node(fmt.Sprintf("node%d", i)))
		s.workers = append(s.workers, c.Worker(fmt.Sprintf("apply%d", i)))
	}
	s.b = c.OpenBank(traffic)
	s.b.Progressed()
	return s
}

// kill kills a node or worker and starts another of its name.
func (s *stage) kill(p *program.Program) {
	s.t.Helper()
	s.c.Kill(p)
	for i := range s.nodes {
		if s.nodes[i] == p {
			s.nodes[i] = s.c.Node(p.Name())
		}
		if s.workers[i] == p {
			s.workers[i] = s.c.Worker(p.Name())
		}
	}
}

func (s *stage) named(all []*program.Program, name string) *program.Program {
	s.t.Helper()
	for _, p := range all {
		if p.Name() == name {
			return p
		}
	}
	s.t.Fatalf("no process is called %q", name)
	return nil
}

// moveCapture makes another node take the subscription.
func (s *stage) moveCapture() {
	s.t.Helper()
	s.kill(s.named(s.nodes, s.c.Running()))
}

// moveApply makes another worker take the target.
func (s *stage) moveApply() {
	s.t.Helper()
	var active string
	harness.Until(s.c.Ctx, s.t, "a worker answers", func() (bool, string) {
		st, ok := s.c.ApplyStatus()
		active = st.Node
		return ok, "nobody does"
	})
	s.kill(s.named(s.workers, active))
}

// largeRows are rows of a large transaction on each shard, of largeRow bytes: more than one batch of the publisher takes.
const (
	largeRows = 1300
	largeRow  = 3200
)

// commitLarge removes the rows of the large transaction before, and commits another, over all shards.
func (s *stage) commitLarge(rows int) {
	s.t.Helper()
	first := func(shard int) int { return -10_000_000*(s.larges+1) + shard*1_000_000 }
	for i, dsn := range s.c.ShardDSNs() {
		if s.present > 0 {
			execute(s.t, s.c, dsn, fmt.Sprintf("DELETE FROM notes WHERE id BETWEEN %d AND %d", first(i), first(i)+s.present-1))
			s.c.Extra++
		}
	}
	s.larges++
	s.present = rows
	gid := fmt.Sprintf("large_%s_%d", s.c.Sub.Name, s.larges)
	for i, dsn := range s.c.ShardDSNs() {
		execute(s.t, s.c, dsn, "BEGIN", fmt.Sprintf(
			"INSERT INTO notes (id, title, body, at) SELECT %d + g, 'large', repeat(md5(g::text), %d), now() FROM generate_series(0, %d) AS g",
			first(i), largeRow/32, rows-1), "PREPARE TRANSACTION '"+gid+"'")
	}
	for _, i := range s.dice.Perm(len(s.c.Servers)) {
		execute(s.t, s.c, s.c.ShardDSN(i), "COMMIT PREPARED '"+gid+"'")
	}
	s.c.Extra++
}

// An action is what is done when a connection stands at a point.
type action struct {
	name string
	do   func(*stage, *harness.Trap, *program.Program)
}

var actions = []action{
	{"kill", func(s *stage, trap *harness.Trap, p *program.Program) {
		s.kill(p)
		trap.Cut()
	}},
	{"cut", func(_ *stage, trap *harness.Trap, _ *program.Program) { trap.Cut() }},
	{"pause", func(s *stage, trap *harness.Trap, p *program.Program) {
		must(s.t, p.Pause())
		s.b.Progressed() // another one has taken over
		must(s.t, p.Resume())
		trap.Go() // what was held comes late
	}},
}

// a trial is one case.
type trial struct {
	point
	place harness.Place
	action
	large bool
}

func (x *trial) String() string {
	size := "small"
	if x.large {
		size = "large"
	}
	return fmt.Sprintf("%s %s %s, %s", x.action.name, x.place, x.point.name, size)
}

// trials are all cases of the points.
func trials(points []point) (all []trial) {
	for _, p := range points {
		for _, place := range p.places {
			for _, a := range actions {
				if p.shape != large {
					all = append(all, trial{p, place, a, false})
				}
				if p.shape != small {
					all = append(all, trial{p, place, a, true})
				}
			}
		}
	}
	return all
}

const (
	trialTime = 2 * time.Minute
	againMax  = 3
)

// owner finds the program whose connection was caught. nil: it was given up just then, and the case is to be run again.
func (s *stage) owner(trap *harness.Trap, ends harness.Ends, what string, tries int, programs ...*program.Program) *program.Program {
	s.t.Helper()
	if p := s.c.Owner(ends, programs...); p != nil {
		s.again = 0
		return p
	}
	if s.again++; s.again > tries {
		s.t.Fatalf("%s: nobody has the connection from port %d", what, ends.Client)
	}
	trap.Go()
	s.b.Progressed()
	return nil
}

// run runs one case and verifies everything.
func (s *stage) run(x trial) {
	s.t.Helper()
	began := time.Now()
	s.began = began
	defer s.c.Limit(trialTime, x.String())()
	s.large, s.place, s.shard = x.large, x.place, s.dice.IntN(harness.Shards)
	nth := 1
	if !x.large && x.provoke == nil {
		nth += s.dice.IntN(3)
	}
	find, seen := x.find(s), 0
	trap := x.proxy(s).Trap(func(m harness.Message) harness.Place {
		if !find(m) {
			return harness.Nowhere
		}
		if seen++; seen < nth {
			return harness.Nowhere
		}
		return x.place
	})
	if x.large {
		s.commitLarge(largeRows)
	}
	if x.provoke != nil {
		x.provoke(s)
	}
	ends := trap.Wait(s.c, fmt.Sprintf("%s %q", x.place, x.point.name))
	owner := s.owner(trap, ends, x.String(), againMax, append(s.nodes, s.workers...)...)
	if owner == nil {
		s.run(x)
		return
	}
	caught := time.Now()
	x.do(s, trap, owner)
	s.b.Progressed()
	went := time.Now()
	s.b.StopTraffic()
	s.c.Verify(s.b)
	s.b.StartTraffic()
	s.t.Logf("%s (%s, occurrence %d): caught after %s, went on after %s, verified in %s", &x, owner.Name(), nth,
		caught.Sub(began).Round(time.Millisecond), went.Sub(caught).Round(time.Millisecond), time.Since(went).Round(time.Millisecond))
}

// Every process is killed, cut off, and paused beyond its lease, at every step that something durable depends on: before
// the step happened and behind it, with small transactions and with one in parts. After each case everything is verified,
// while the processes run on. The selection takes some cases of each kind.
func TestSystematic(t *testing.T) {
	only := regexp.MustCompile(*onlyCases)
	for _, group := range []struct {
		name   string
		points []point
	}{
		{"node and NATS", nodePoints()},
		{"node and shard", shardPoints()},
		{"worker and target", targetPoints()},
		{"worker and NATS", workerPoints()},
	} {
		t.Run(group.name, func(t *testing.T) {
			var plan []trial
			for _, x := range trials(group.points) {
				if only.MatchString(x.String()) {
					plan = append(plan, x)
				}
			}
			if len(plan) == 0 {
				t.Skip("no case is wanted")
			}
			s := newStage(t)
			s.dice.Shuffle(len(plan), func(i, k int) { plan[i], plan[k] = plan[k], plan[i] })
			if *onlyCases == "" {
				plan = plan[:count(2, len(plan))]
			}
			for _, x := range plan {
				s.run(x)
			}
			s.c.Finish(s.b)
		})
	}
}
