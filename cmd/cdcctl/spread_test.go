package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
)

// A percentile is never below the true one, and at most two percent above.
func TestSpread(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var s spread
		var all []time.Duration
		for range 1 + dice.IntN(1000) {
			d := time.Duration(dice.ExpFloat64() * float64(time.Duration(1+dice.IntN(1e6))*time.Microsecond))
			if dice.IntN(20) == 0 {
				d = -d
			}
			all = append(all, d)
			s.add(d, pipeline.CSN(len(all)))
		}
		sorted := slices.Sorted(slices.Values(all))
		for _, p := range []float64{1, 50, 99, 100} {
			at := max(0, int(float64(len(all))*p/100+0.999999)-1)
			want, got := sorted[min(at, len(all)-1)], s.percentile(p)
			if got < want || want >= time.Microsecond && float64(got) > float64(want)*spreadStep*1.0001 || got > time.Microsecond && got > s.longest {
				t.Fatalf("p%v of %d: %s, want %s", p, len(all), got, want)
			}
		}
		if s.longest != sorted[len(all)-1] || all[s.csn-1] != s.longest || s.n != len(all) {
			t.Fatalf("longest %s of csn %s, want %s", s.longest, s.csn, sorted[len(all)-1])
		}
	}
}

// The slowest are kept, the longest first.
func TestSlowest(t *testing.T) {
	d := newDelays("s", nil)
	for n := range 50 {
		seconds := float64(n * 37 % 50)
		tx := &reading.Transaction{Head: reading.Head{CSN: pipeline.CSN(n), CommitTime: "2026-01-01T00:00:00Z"}}
		tx.Stored = time.Date(2026, 1, 1, 0, 0, int(seconds), 0, time.UTC)
		if err := d.add(tx); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range d.Slowest {
		if s.Seconds != float64(49-i) || float64(s.CSN*37%50) != s.Seconds {
			t.Errorf("place %d: %+v", i, s)
		}
	}
	if len(d.Slowest) != slowestMax || d.Transactions != 50 {
		t.Errorf("%d slowest of %d", len(d.Slowest), d.Transactions)
	}
}
