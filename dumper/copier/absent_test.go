package copier

import (
	"errors"
	"testing"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// A table that is not there, or not published, is a chunk without rows; one whose snapshot is older than the table is not
// folded behind the table's first row, and one that sees the table is none.
func TestAbsent(t *testing.T) {
	s := newShard(t, "CREATE PUBLICATION p")
	table := fold.Table{Schema: "public", Name: "t"}
	read := func() *Result {
		t.Helper()
		var taken fold.Snapshot
		r, err := s.Absent(t.Context(), "c", table.Schema, table.Name, func(s fold.Snapshot) { taken = s })
		if err != nil || r.Rows != 0 || !r.End || taken.String() != r.Snapshot.String() {
			t.Fatalf("%+v, %v", r, err)
		}
		return r
	}
	before := read()
	s.exec("CREATE TABLE t (id int)", "INSERT INTO t VALUES (7)")
	unpublished := read()
	s.exec("ALTER PUBLICATION p ADD TABLE t")
	if _, err := s.Absent(t.Context(), "c", "public", "t", nil); !errors.Is(err, ErrThere) {
		t.Error(err)
	}
	xid := pipeline.XID(before.Snapshot.XMax)
	relation := &pipeline.Relation{ID: 1, Namespace: "public", Name: "t", Columns: []pipeline.Column{{Name: "id", Type: 23}}}
	for _, c := range []struct {
		chunk *Result
		again bool
	}{{before, true}, {unpublished, false}} {
		tracker := fold.New(1 << 20)
		tracker.Follow(table)
		tracker.Begin("c", table)
		tracker.Taken("c", c.chunk.Snapshot)
		inserted := &pipeline.Fragment{XID: xid, Relations: []pipeline.RelationUse{{Relation: relation}}, Ops: pipeline.OpsOf(pipeline.Insert)}
		inserted.Append([]byte{byte(pipeline.Insert), 0, 0, 0, 1, 'N', 0, 1, 't', 0, 0, 0, 1, '7'})
		if _, err := tracker.Take(inserted); err != nil {
			t.Fatal(err)
		}
		into := &pipeline.Fragment{}
		into.Append(mark.Message(mark.CopyPrefix, (&mark.Copy{Kind: mark.Rows}).Content(), 1))
		if err := tracker.Fold(&c.chunk.Chunk, into); errors.Is(err, fold.ErrAgain) != c.again || !c.again && (err != nil || into.Changes != 1) {
			t.Errorf("again %v: %v, %d changes", c.again, err, into.Changes)
		}
	}
}
