package schedule

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random groups")

// oracle knows the rules, and nothing of how they are kept.
type oracle struct {
	t      *testing.T
	groups []*group // that are not done, in order
}

type group struct {
	id      ID
	keys    []Key
	running bool
}

func conflict(a, b *group) bool {
	for _, x := range a.keys {
		for _, y := range b.keys {
			if x.Hash == y.Hash && (x.Exclusive || y.Exclusive) {
				return true
			}
		}
	}
	return false
}

// may says that no earlier group that is not done is in the way of the n-th.
func (o *oracle) may(n int) bool {
	return !slices.ContainsFunc(o.groups[:n], func(g *group) bool { return conflict(g, o.groups[n]) })
}

// started takes what Next gave, until it gives nothing, and compares: exactly those start that may, in order.
func (o *oracle) started(s *Schedule) (overlap bool) {
	for n, g := range o.groups {
		if g.running || !o.may(n) {
			continue
		}
		id, ok := s.Next()
		if !ok || id != g.id {
			o.t.Fatalf("Next gave %d, %v; group %d may start\n%s", id, ok, g.id, o)
		}
		g.running = true
		overlap = overlap || n > 0
	}
	if id, ok := s.Next(); ok {
		o.t.Fatalf("Next gave %d, which must not start\n%s", id, o)
	}
	return overlap
}

func (o *oracle) String() (text string) {
	for _, g := range o.groups {
		text += fmt.Sprintf("%d running=%v %v\n", g.id, g.running, g.keys)
	}
	return text
}

// TestRandomSchedules: groups of few keys that many share, in random order of arrival and end.
func TestRandomSchedules(t *testing.T) {
	t.Logf("seed %d (repeat with -seed)", *seed)
	for world := range uint64(300) {
		r := rand.New(rand.NewPCG(*seed, world))
		limit, keys := 1+r.IntN(9), 1+r.IntN(40)
		if r.IntN(10) == 0 {
			limit = GroupsMax
		}
		// Hashes that meet in the table, as well.
		step := []uint64{1, 1 << 40, 0x9E3779B97F4A7C15}[r.IntN(3)]
		s, o, overlaps := New(limit), &oracle{t: t}, false
		for range 300 {
			if s.Len() != len(o.groups) || s.Full() != (len(o.groups) == limit) {
				t.Fatalf("world %d: %d groups, full %v; want %d of %d", world, s.Len(), s.Full(), len(o.groups), limit)
			}
			if !s.Full() && r.IntN(2) == 0 {
				g := &group{}
				for range r.IntN(6) {
					g.keys = append(g.keys, Key{step * uint64(r.IntN(keys)), r.IntN(3) > 0})
				}
				g.id = s.Add(g.keys)
				o.groups = append(o.groups, g)
			} else if running := slices.DeleteFunc(slices.Clone(o.groups), func(g *group) bool { return !g.running }); len(running) > 0 {
				g := running[r.IntN(len(running))]
				o.groups = slices.DeleteFunc(o.groups, func(x *group) bool { return x == g })
				s.Done(g.id)
			}
			overlaps = o.started(s) || overlaps
		}
		for len(o.groups) > 0 { // nothing stalls
			s.Done(o.groups[0].id)
			o.groups = o.groups[1:]
			o.started(s)
		}
		if limit > 2 && keys > 10 && !overlaps {
			t.Fatalf("world %d: nothing ever ran together", world)
		}
		if s.held.taken != 0 || slices.ContainsFunc(s.held.entries, func(h holders) bool { return !h.free() }) {
			t.Fatalf("world %d: %d keys are left", world, s.held.taken)
		}
	}
}

// TestManyKeys: the table grows while keys are held, and keeps them.
func TestManyKeys(t *testing.T) {
	s := New(3)
	var many []Key
	for i := range uint64(10_000) {
		many = append(many, Key{i, true})
	}
	first := s.Add(many[:600])
	second := s.Add(many[600:])
	third := s.Add(many[599:601])
	for _, want := range []ID{first, second} {
		if id, ok := s.Next(); !ok || id != want {
			t.Fatalf("got %d, %v, want %d", id, ok, want)
		}
	}
	s.Done(second)
	if id, ok := s.Next(); ok {
		t.Fatalf("%d starts although the first group holds a key of it", id)
	}
	s.Done(first)
	if id, ok := s.Next(); !ok || id != third {
		t.Fatalf("got %d, %v, want %d", id, ok, third)
	}
}

// TestSteadyStateAllocatesNothing: groups come and go in the memory of those before.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	s, keys, n := New(4), make([]Key, 1000), uint64(0)
	round := func() {
		for i := range keys {
			n++
			keys[i] = Key{n * 0x9E3779B97F4A7C15, i > 0}
		}
		s.Add(keys)
		id, _ := s.Next()
		s.Done(id)
	}
	round()
	if got := testing.AllocsPerRun(100, round); got > 0 {
		t.Errorf("%v allocations for a group", got)
	}
}

// BenchmarkGroups: 1,000 keys per group, four groups at a time, nothing in common but the table.
func BenchmarkGroups(b *testing.B) {
	const perGroup = 1000
	s, keys, n := New(4), make([]Key, perGroup), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		for i := range keys {
			n++
			keys[i] = Key{n * 0xD6E8FEB86659FD93, i > 0}
		}
		keys[0].Hash = 1
		if s.Full() {
			s.Done(ID(n/perGroup) - 5)
		}
		s.Add(keys)
		s.Next()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/perGroup, "ns/key")
}
