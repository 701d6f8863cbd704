package pipeline

import (
	"strings"
	"testing"
)

// A Walker takes nothing of a fragment to the next one: what a table is, each fragment says itself.
func TestWalkerForgets(t *testing.T) {
	insert := []byte("I\x00\x00\x00\x07N\x00\x01n")
	described := &Fragment{Relations: []RelationUse{{Relation: &Relation{ID: 7, Columns: make([]Column, 1)}}}}
	described.Append(insert)
	var bare Fragment
	bare.Append(insert)
	var w Walker
	seen := 0
	each := func(*Change) error { seen++; return nil }
	for range 2 {
		if err := w.Walk(described, each); err != nil {
			t.Fatal(err)
		}
		if err := w.Walk(&bare, each); err == nil || !strings.Contains(err.Error(), "relation 7, which was never described") {
			t.Fatal(err)
		}
	}
	if seen != 2 {
		t.Errorf("%d changes, want 2", seen)
	}
	if allocs := testing.AllocsPerRun(20, func() { _ = w.Walk(described, each) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
