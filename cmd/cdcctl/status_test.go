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

func TestDDLWaiting(t *testing.T) {
	a := &control.ApplyStatus{}
	if got := ddlWaiting(a); got != "" {
		t.Error(got)
	}
	a.DDLWaiting = []control.DDLWaiting{
		{CSN: 7, Statement: "ALTER TABLE t\n DROP a", Here: "waits until every shard has run it", Shards: []string{"c", "b"}},
		{CSN: 9, Statement: "ALTER TABLE t ADD b int", Here: "executed", Shards: []string{"c"}},
	}
	want := "2 statements of DDL wait for shards that have not run them: b, c. The oldest: ALTER TABLE t DROP a (csn 7; here: waits until every shard has run it). All: SELECT * FROM cdc.ddl WHERE NOT complete"
	if got := ddlWaiting(a); got != want {
		t.Error(got)
	}
}
