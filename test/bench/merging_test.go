package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/pipeline"
)

// A distributed transaction counts from its first second phase, whichever shard it is read on; others from their commit.
func TestStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStages(func(gid string) string { g, _, _ := strings.Cut(gid, "_"); return g })
		pass := func(d time.Duration) { <-time.After(d) }
		one := &pipeline.Fragment{Shard: 0, End: 10}
		two := []*pipeline.Fragment{{Shard: 0, End: 20}, {Shard: 1, End: 20}}

		s.offered(0, []pipeline.Record{{Kind: pipeline.Commit, End: 10, Fragment: one}}, time.Now())
		s.offered(1, []pipeline.Record{{Kind: pipeline.Prepare, End: 20, GID: "g_1", Fragment: two[1]}}, time.Now())
		pass(time.Second)
		s.offered(1, []pipeline.Record{{Kind: pipeline.CommitPrepared, End: 30, GID: "g_1"}}, time.Now())
		s.asked(0, 7)
		pass(2 * time.Millisecond)
		s.answered(0, 7, time.Now())
		s.answered(0, 8, time.Now()) // nobody asked
		s.offered(0, []pipeline.Record{{Kind: pipeline.CommitPrepared, End: 30, GID: "g_0"}}, time.Now())
		pass(3 * time.Millisecond)
		s.left([]*pipeline.Transaction{{Fragments: []*pipeline.Fragment{one}}, {GID: "g", Fragments: two}})

		want := Merging{Transactions: 2, AddedP50: 5, AddedP99: 1005, Probes: 1, ProbeP50: 2, ProbeP99: 2}
		if got := s.take(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if got := s.take(); got != (Merging{}) {
			t.Errorf("again: %+v", got)
		}
	})
}
