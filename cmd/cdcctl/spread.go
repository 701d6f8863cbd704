package main

import (
	"math"
	"time"

	"shardcdc/pipeline"
)

// spread is how times are spread: percentiles within two percent, whatever their number, in some kB.
type spread struct {
	counts  map[int]int // by bucket
	n       int
	below   int // negative: the clocks differ
	longest time.Duration
	csn     pipeline.CSN // of the longest
}

// spreadStep is the ratio of a bucket's border to the one before.
const spreadStep = 1.02

func (s *spread) add(d time.Duration, csn pipeline.CSN) {
	if s.counts == nil {
		s.counts = map[int]int{}
	}
	if s.n == 0 || d > s.longest {
		s.longest, s.csn = d, csn
	}
	s.n++
	if d < 0 {
		s.below++
	}
	s.counts[bucketOf(d)]++
}

// bucketOf: 0 is for less than a microsecond.
func bucketOf(d time.Duration) int {
	if d < time.Microsecond {
		return 0
	}
	return 1 + int(math.Log(float64(d)/float64(time.Microsecond))/math.Log(spreadStep))
}

// percentile is the time that so many of a hundred do not exceed: the upper border of its bucket, and never more than the longest.
func (s *spread) percentile(p float64) time.Duration {
	want, seen := max(1, int(math.Ceil(float64(s.n)*p/100))), 0
	last := bucketOf(s.longest)
	for b := 0; b <= last; b++ {
		if seen += s.counts[b]; seen >= want {
			border := time.Duration(float64(time.Microsecond) * math.Pow(spreadStep, float64(b)))
			return min(border, s.longest)
		}
	}
	return s.longest
}
