package sim

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"shardcdc/joiner/merge"
)

var (
	seedsFlag = flag.Int("sim.seeds", 0, "worlds that TestWorlds runs (default: CDC_SIM_SEEDS, or as many as fit into ordinary tests)")
	firstFlag = flag.Uint64("sim.first", 1, "seed of the first world")
)

// merger adapts joiner/merge: only the type of a probe differs.
type merger struct{ *merge.Merger }

func (m merger) Probes(dst []Probe) []Probe {
	for _, p := range m.Merger.Probes(nil) {
		dst = append(dst, Probe{Shard: p.Shard, ID: p.ID})
	}
	return dst
}

func startMerger(_ *World, c Config) (Merger, error) {
	m, err := merge.New(merge.Config{
		Shards: c.Shards, MaxClockSkew: c.MaxClockSkew, GlobalID: c.GlobalID, Start: c.Start, BytesMax: c.BytesMax,
		DatesBehind: c.DatesBehind, Watermarks: c.Watermarks,
	})
	if err != nil {
		return nil, err
	}
	return merger{m}, nil
}

// TestWorlds runs joiner/merge through many small random worlds. A failing one is shrunk and told in words.
//
//	CDC_SIM_SEED=n       runs world n alone
//	CDC_SIM_SEEDS=n      runs n worlds (also -sim.seeds; -sim.first is the first)
//	CDC_SIM_NOSHRINK=1   tells of a failure as it was found
func TestWorlds(t *testing.T) {
	if s := os.Getenv("CDC_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			t.Fatalf("CDC_SIM_SEED=%s: %v", s, err)
		}
		runWorld(t, OptionsOf(seed))
		return
	}
	n := number(t)
	var all Stats
	began := time.Now()
	for seed := *firstFlag; seed < *firstFlag+uint64(n); seed++ {
		all.add(runWorld(t, OptionsOf(seed)))
	}
	t.Logf("%d worlds from seed %d in %s: %+v", n, *firstFlag, time.Since(began).Round(time.Millisecond), all)
}

func number(t *testing.T) int {
	if *seedsFlag > 0 {
		return *seedsFlag
	}
	if s := os.Getenv("CDC_SIM_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("CDC_SIM_SEEDS=%s: %v", s, err)
		}
		return n
	}
	if testing.Short() {
		return 300
	}
	return 3000
}

// runWorld runs one world; when it fails, the smallest one that fails in its place is printed.
func runWorld(t *testing.T, o Options) Stats {
	t.Helper()
	stats, fault := Run(NewWorld(o), startMerger, nil)
	if fault == "" {
		return stats
	}
	small := o
	if os.Getenv("CDC_SIM_NOSHRINK") == "" {
		small = Shrink(o, func(o Options) bool {
			_, fault := Run(NewWorld(o), startMerger, nil)
			return fault != ""
		}, 4000)
	}
	w := NewWorld(small)
	var trace strings.Builder
	_, least := Run(w, startMerger, &trace)
	t.Fatalf("seed %d (CDC_SIM_SEED=%d runs it again): %s\nshrunk to: %s\n%s\n%s\n%s%s",
		o.Seed, o.Seed, fault, least, small, w, &trace, least)
	return stats
}

// TestWorldIsRepeatable: a seed is worth nothing otherwise.
func TestWorldIsRepeatable(t *testing.T) {
	for _, seed := range []uint64{1, 7, 42, 1001} {
		var first, second strings.Builder
		for _, trace := range []*strings.Builder{&first, &second} {
			w := NewWorld(OptionsOf(seed))
			fmt.Fprint(trace, w)
			Run(w, startMerger, trace)
		}
		if first.String() != second.String() {
			t.Errorf("seed %d: two runs differ", seed)
		}
	}
}

var _ Merger = merger{}
