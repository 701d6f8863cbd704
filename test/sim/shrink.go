package sim

import (
	"slices"
)

// Shrink looks for smaller options that still fail, by leaving out features and transactions. Each candidate
// is tried with a few observers, since another world needs other readers. It stops after limit runs.
func Shrink(o Options, fails func(Options) bool, limit int) Options {
	s := shrinker{best: o, fails: fails, left: limit}
	for again := true; again && s.left > 0; {
		again = s.features()
		again = s.transactions() || again
	}
	return s.best
}

type shrinker struct {
	best  Options
	fails func(Options) bool
	left  int
}

// keep takes o as the best if it fails with some observer.
func (s *shrinker) keep(o Options) bool {
	for range 6 {
		if s.left--; s.left < 0 {
			return false
		}
		if s.fails(o) {
			s.best = o
			return true
		}
		o.Observer = o.Observer*0x9e3779b97f4a7c15 + 1
	}
	return false
}

// features sets options to their plainest values, one at a time.
func (s *shrinker) features() bool {
	some := false
	for _, f := range []struct {
		field func(*Options) *int
		plain int
	}{
		{func(o *Options) *int { return &o.Crashes }, 0},
		{func(o *Options) *int { return &o.Crashes }, 1},
		{func(o *Options) *int { return &o.BytesMax }, 0},
		{func(o *Options) *int { return &o.InFlight }, 1},
		{func(o *Options) *int { return &o.Origin }, 0},
		{func(o *Options) *int { return &o.Empty }, 0},
		{func(o *Options) *int { return &o.Reader }, 0},
		{func(o *Options) *int { return &o.Reuse }, 0},
		{func(o *Options) *int { return &o.AtOnce }, 0},
		{func(o *Options) *int { return &o.WrongClocks }, 0},
		{func(o *Options) *int { return &o.Citus }, 0},
		{func(o *Options) *int { return &o.Orphan }, 0},
		{func(o *Options) *int { return &o.HalfWay }, 0},
		{func(o *Options) *int { return &o.Rollback }, 0},
		{func(o *Options) *int { return &o.Suffix }, 0},
		{func(o *Options) *int { return &o.Cut }, 100},
		{func(o *Options) *int { return &o.TakeBytes }, 1 << 20},
		{func(o *Options) *int { return &o.Batch }, 1000},
		{func(o *Options) *int { return &o.Shards }, 2},
		{func(o *Options) *int { return &o.Shards }, 3},
	} {
		o := s.best
		v := f.field(&o)
		if *v == f.plain || f.field(&o) == &o.Shards && *v < f.plain {
			continue
		}
		*v = f.plain
		some = s.keep(o) || some
	}
	if o := s.best; o.Lag > 0 {
		o.Lag = 0
		some = s.keep(o) || some
	}
	if o := s.best; o.Skew > 0 {
		o.Skew = 0
		some = s.keep(o) || some
	}
	return some
}

// transactions leaves out halves, quarters ... down to single ones.
func (s *shrinker) transactions() bool {
	some := false
	for n := s.best.Txns / 2; n > 0; n /= 2 {
		for from := 0; from < s.best.Txns; from += n {
			o := s.best
			o.Skip = slices.Clone(o.Skip)
			for id := from; id < min(from+n, o.Txns); id++ {
				o.Skip = append(o.Skip, id)
			}
			slices.Sort(o.Skip)
			o.Skip = slices.Compact(o.Skip)
			if len(o.Skip) > len(s.best.Skip) {
				some = s.keep(o) || some
			}
		}
	}
	return some
}
