package output

import (
	"errors"
	"testing"

	"shardcdc/pipeline"
)

func TestRelations(t *testing.T) {
	var s Relations[pipeline.Relation]
	calls := 0
	same := func(r *pipeline.Relation) (*pipeline.Relation, error) {
		calls++
		return r, nil
	}
	a, b := &pipeline.Relation{Name: "a"}, &pipeline.Relation{Name: "b"}
	for _, r := range []*pipeline.Relation{a, a, b, a, b, b} {
		if found, err := s.Of(r, same); err != nil || found != r {
			t.Fatal(found, err)
		}
	}
	if calls != 2 {
		t.Errorf("made %d times", calls)
	}
	bad := errors.New("bad")
	c := &pipeline.Relation{Name: "c"}
	for range 2 { // what failed is not remembered
		if _, err := s.Of(c, func(*pipeline.Relation) (*pipeline.Relation, error) { return nil, bad }); !errors.Is(err, bad) {
			t.Fatal(err)
		}
	}
	if found, err := s.Of(b, same); err != nil || found != b {
		t.Fatal(found, err)
	}
	for range RelationsMax + 3 {
		if _, err := s.Of(&pipeline.Relation{}, same); err != nil {
			t.Fatal(err)
		}
		if len(s.made) > RelationsMax {
			t.Fatalf("%d are remembered", len(s.made))
		}
	}
}
