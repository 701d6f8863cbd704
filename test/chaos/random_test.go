package chaos

import (
	"fmt"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// A mischief happens to a process, for as long as it says, and everything runs again when it returns.
type mischief struct {
	name string
	do   func(*stage, time.Duration)
}

// mischiefs are what can happen to every process that there is.
var mischiefs = []mischief{
	{"node killed", func(s *stage, _ time.Duration) { s.kill(s.mortal(s.nodes)) }},
	{"worker killed", func(s *stage, _ time.Duration) { s.kill(s.mortal(s.workers)) }},
	{"node restarted in order", func(s *stage, _ time.Duration) { s.stop(s.mortal(s.nodes)) }},
	{"worker restarted in order", func(s *stage, _ time.Duration) { s.stop(s.mortal(s.workers)) }},
	{"node paused", func(s *stage, d time.Duration) { s.pause(pick(s, s.nodes), d) }},
	{"worker paused", func(s *stage, d time.Duration) { s.pause(pick(s, s.workers), d) }},
	{"NATS killed", func(s *stage, d time.Duration) {
		i := s.dice.IntN(s.c.NATSServers())
		s.c.Kill(s.c.Peer(i))
		s.wait(d)
		s.c.StartNATS(i)
	}},
	{"NATS paused", func(s *stage, d time.Duration) { s.pause(s.c.Peer(s.dice.IntN(s.c.NATSServers())), d) }},
	{"shard killed", func(s *stage, _ time.Duration) { restart(s.t, s.c, pick(s, s.c.Servers), throwaway.Kill) }},
	{"shard restarted", func(s *stage, _ time.Duration) { restart(s.t, s.c, pick(s, s.c.Servers), throwaway.Fast) }},
	{"shard paused", func(s *stage, d time.Duration) { s.freeze(pick(s, s.c.Servers), d) }},
	{"target killed", func(s *stage, _ time.Duration) { restart(s.t, s.c, s.c.Target, throwaway.Kill) }},
	{"target restarted", func(s *stage, _ time.Duration) { restart(s.t, s.c, s.c.Target, throwaway.Immediate) }},
	{"target paused", func(s *stage, d time.Duration) { s.freeze(s.c.Target, d) }},
	{"walsender ended", func(s *stage, _ time.Duration) {
		i := s.dice.IntN(len(s.c.Servers))
		s.c.Query(s.c.ShardDSN(i), "SELECT coalesce(bool_or(pg_terminate_backend(active_pid)), false)::text FROM pg_replication_slots WHERE slot_name = $1", s.c.Sub.Shards[i].Slot)
	}},
	{"apply's session ended", func(s *stage, _ time.Duration) {
		s.c.Query(s.c.TargetDSN(), "SELECT coalesce(bool_or(pg_terminate_backend(pid)), false)::text FROM pg_stat_activity WHERE application_name LIKE 'cdc apply%'")
	}},
}

func pick[T any](s *stage, from []T) T { return from[s.dice.IntN(len(from))] }

// mortal picks one of the processes that may be killed.
func (s *stage) mortal(all []*program.Program) *program.Program { return pick(s, all[s.spared:]) }

// stop ends a process in order and starts another of its name.
func (s *stage) stop(p *program.Program) {
	s.t.Helper()
	must(s.t, program.StopAll(p))
	s.kill(p)
}

// wait waits for a time that is part of a fault.
func (s *stage) wait(d time.Duration) {
	s.t.Helper()
	if pause.For(s.c.Ctx, d) != nil {
		s.t.Fatal("the time is over")
	}
}

func (s *stage) pause(p *program.Program, d time.Duration) {
	s.t.Helper()
	must(s.t, p.Pause())
	s.wait(d)
	must(s.t, p.Resume())
}

func (s *stage) freeze(server *throwaway.Server, d time.Duration) {
	s.t.Helper()
	must(s.t, server.Pause())
	s.wait(d)
	must(s.t, server.Resume())
}

// duration of a fault: mostly short, and sometimes beyond the lease.
func (s *stage) duration() time.Duration {
	most := 500 * time.Millisecond
	if s.dice.IntN(3) == 0 {
		most = 4 * time.Second
	}
	return time.Duration(s.dice.Int64N(int64(most)))
}

// misbehave does one of the mischiefs, and returns its name.
func (s *stage) misbehave() string {
	s.t.Helper()
	x, d := pick(s, mischiefs), s.duration()
	defer s.c.Limit(trialTime, x.name)()
	x.do(s, d)
	return x.name
}

// Every process is killed, paused and restarted, in random order at random moments; now and then everything is verified.
func TestRandom(t *testing.T) {
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d NATS servers", servers), func(t *testing.T) {
			o := harness.Options{NATSServers: servers, Limit: time.Hour, Lease: lease}
			if servers > 1 {
				whole(t)
				o.Lease = 12 * time.Second // elections block renewals
			}
			s := openStage(t, o, bank.Config{PerSecond: 150, AbandonEvery: 100, InDoubt: time.Second})
			for round := range count(2, 20) {
				var done []string
				for range 6 {
					done = append(done, s.misbehave())
					s.b.Committed(s.dice.Int64N(50))
				}
				if s.dice.IntN(3) == 0 {
					s.commitLarge(largeRows)
				}
				began := time.Now()
				end := s.c.Limit(2*trialTime, fmt.Sprintf("coming back after %q", done))
				s.b.Progressed()
				s.b.StopTraffic()
				s.c.Verify(s.b)
				end()
				s.b.StartTraffic()
				t.Logf("round %d: %q: verified after %s", round, done, time.Since(began).Round(time.Millisecond))
			}
			s.c.Finish(s.b)
		})
	}
}
