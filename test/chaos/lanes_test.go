package chaos

import (
	"fmt"
	"strconv"
	"testing"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// A burst is transactions that touch nothing in common, over all shards, each more than a worker's group has to have: several
// sessions apply them at the same time.
const (
	burst     = 24
	burstRows = 7      // of one of them, on each shard
	burstRow  = 30_000 // bytes
	burstID   = -1_000_000_000
)

// commitBurst removes the burst before, and commits another.
func (s *stage) commitBurst() {
	s.t.Helper()
	for _, dsn := range s.c.ShardDSNs() {
		if s.bursts > 0 {
			execute(s.t, s.c, dsn, "DELETE FROM notes WHERE title = 'burst'")
			s.c.Extra++
		}
	}
	s.bursts++
	for n := range burst {
		gid := fmt.Sprintf("burst_%s_%d_%d", s.c.Sub.Name, s.bursts, n)
		for i, dsn := range s.c.ShardDSNs() {
			execute(s.t, s.c, dsn, "BEGIN", fmt.Sprintf(
				"INSERT INTO notes (id, title, body, at) SELECT %d - 1000 * %d - 100 * %d - g, 'burst', repeat(md5(g::text), %d), now() FROM generate_series(1, %d) AS g",
				burstID-1_000_000*s.bursts, n, i, burstRow/32, burstRows), "PREPARE TRANSACTION '"+gid+"'")
		}
		for _, dsn := range s.c.ShardDSNs() {
			execute(s.t, s.c, dsn, "COMMIT PREPARED '"+gid+"'")
		}
		s.c.Extra++
	}
}

// inOrder checks that the target has the first so many transactions of the burst, each whole.
func (s *stage) inOrder() (text string) {
	s.t.Helper()
	text = s.c.Query(s.c.TargetDSN(), fmt.Sprintf(`SELECT format('%%s rows of %%s transactions', count(*), coalesce(max((%d - id) / 1000) + 1, 0)) FROM notes
		WHERE title = 'burst' AND id < %[1]d`, burstID-1_000_000*s.bursts))
	var rows, transactions int
	if _, err := fmt.Sscanf(text, "%d rows of %d transactions", &rows, &transactions); err != nil {
		s.t.Fatalf("%q: %v", text, err)
	}
	if rows != transactions*burstRows*harness.Shards {
		s.t.Fatalf("the target has %s, of %d rows each: something came before what was committed before it", text, burstRows*harness.Shards)
	}
	return text
}

// lanesMin is how many sessions are in the midst of a transaction, with rows, when something happens to one of them; a burst in
// which that does not come is tried again.
const (
	lanesMin   = 2
	lanesTries = 10
)

// lanes finds, while so many sessions have rows that are not committed: a message that is in the midst of rows, or a COMMIT.
func lanes(commit bool) func(harness.Message) bool {
	all := map[int]*statements{}
	return func(b harness.Message) bool {
		if b.Direction != harness.ToServer {
			return false
		}
		x := all[b.Link]
		if x == nil {
			x = &statements{}
			all[b.Link] = x
		}
		binds, _, _ := x.see(b.Bytes)
		busy := 0
		for _, y := range all {
			if y.open && y.rows > 0 {
				busy++
			}
		}
		return busy >= lanesMin && (commit && binds == "cdc_commit" || !commit && b.Bytes[0] == 'd')
	}
}

// laneActions are what happens to a worker of which several sessions are in the midst of a transaction.
var laneActions = append([]action{
	{"cut all", func(s *stage, trap *harness.Trap, _ *program.Program) {
		s.c.TargetProxy.Reset()
	}},
	{"freeze all", func(s *stage, _ *harness.Trap, _ *program.Program) {
		s.c.TargetProxy.Freeze()
	}},
}, actions...)

// A worker with a backlog, that several of its sessions apply at the same time, is killed, cut off, frozen, and paused beyond
// its lease, with one of them in the midst of rows or at its COMMIT. What is on the target is a beginning of the stream, at that
// moment and behind it, and in the end everything is there once.
func TestLanes(t *testing.T) {
	s := openStage(t, harness.Options{Proxied: true, Limit: 10 * trialTime, Lease: lease}, bank.Config{PerSecond: 150})
	var plan []lanesTrial
	for _, a := range laneActions {
		for _, commit := range []bool{false, true} {
			for _, place := range around {
				plan = append(plan, lanesTrial{a, commit, place})
			}
		}
	}
	s.dice.Shuffle(len(plan), func(i, k int) { plan[i], plan[k] = plan[k], plan[i] })
	for _, x := range plan[:count(3, len(plan))] {
		s.lanes(x)
	}
	s.c.Finish(s.b)
}

// met says whether the trap catches a connection before the whole burst is on the target.
func (s *stage) met(trap *harness.Trap) (caught bool) {
	s.t.Helper()
	harness.Until(s.c.Ctx, s.t, "a session is caught, or the burst is applied", func() (bool, string) {
		select {
		case <-trap.Caught():
			caught = true
			return true, ""
		default:
		}
		text := s.inOrder()
		return text == wholeBurst, text
	})
	if !caught {
		trap.Remove()
	}
	return caught
}

var wholeBurst = fmt.Sprintf("%d rows of %d transactions", burst*burstRows*harness.Shards, burst)

// lanesTrial is one case.
type lanesTrial struct {
	action
	commit bool
	place  harness.Place
}

func (s *stage) lanes(x lanesTrial) {
	s.t.Helper()
	what := fmt.Sprintf("%s %s %s", x.action.name, x.place, map[bool]string{true: "a COMMIT", false: "rows"}[x.commit])
	defer s.c.Limit(trialTime, what)()
	for _, p := range s.workers {
		s.c.Kill(p)
	}
	s.commitBurst()
	s.c.WaitPublished()
	find := lanes(x.commit)
	trap := s.c.TargetProxy.Trap(func(m harness.Message) harness.Place {
		if find(m) {
			return x.place
		}
		return harness.Nowhere
	})
	for i, p := range s.workers {
		s.workers[i] = s.c.Worker(p.Name())
	}
	if !s.met(trap) { // how many sessions are at work at a time, the machine decides
		if s.again++; s.again > lanesTries {
			s.t.Fatalf("%s: never had %d sessions rows at the same time, in %d bursts", what, lanesMin, s.again)
		}
		s.lanes(x)
		return
	}
	owner := s.owner(trap, trap.Wait(s.c, strconv.Quote(what)), what, lanesTries, s.workers...)
	if owner == nil {
		s.lanes(x)
		return
	}
	caught := s.inOrder()
	x.do(s, trap, owner)
	behind := s.inOrder()
	s.b.Progressed()
	s.b.StopTraffic()
	s.c.Verify(s.b)
	if all := s.inOrder(); all != wholeBurst {
		s.t.Fatalf("the target has %s in the end", all)
	}
	s.b.StartTraffic()
	s.t.Logf("%s (%s): %s, then %s", what, owner.Name(), caught, behind)
}
