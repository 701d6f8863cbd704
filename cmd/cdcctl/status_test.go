package main

import (
	"slices"
	"testing"

	"shardcdc/pipeline/control"
)

// A shard that others wait for and that is not connected is said to be so first.
func TestWaitsFor(t *testing.T) {
	c := &control.CaptureStatus{
		WaitsFor: []string{"shard a: fragments of g", "shard b: its clock to pass a waiting transaction", "shard c: fragments of g"},
		Shards:   []control.ShardStatus{{Name: "a", State: "streaming"}, {Name: "b", State: "backoff"}, {Name: "c", State: "waiting for room"}},
	}
	want := []string{"shard a: fragments of g", "shard b, which is not connected (backoff); then its clock to pass a waiting transaction", "shard c: fragments of g"}
	if got := waitsFor(c); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
