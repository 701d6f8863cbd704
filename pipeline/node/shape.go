package node

import (
	"os"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/shape"
)

// newShaper makes what applies the rules of a subscription; nil: it has none.
func newShaper(sub *control.Subscription) (*shape.Shaper, error) {
	if sub.Shape == nil {
		return nil, nil
	}
	s, err := shape.New(sub.Shape, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	for i := range sub.Shards {
		s.Remember(pipeline.ShardID(i), sub.Shards[i].Ruled)
	}
	return s, nil
}

// inStream are tables that are being copied, under the names that the stream has for them.
func inStream(s *shape.Shape, tables []copying.Unkeyed) (all []copying.Unkeyed) {
	for _, t := range tables {
		if s.Excluded(t.Table.Schema, t.Table.Name) {
			continue
		}
		t.Table.Schema, t.Table.Name = s.Name(t.Table.Schema, t.Table.Name)
		all = append(all, t)
	}
	return all
}
