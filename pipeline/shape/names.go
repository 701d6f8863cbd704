package shape

import (
	"fmt"

	"shardcdc/pipeline"
)

// Ruled is a table that a rule is for, by what it is called when that was decided. A table that is renamed keeps its OID and its place
// in the publication: without this it would leave its rule, and its masks, in silence.
type Ruled struct {
	ID     uint32 `json:"id"` // OID on its shard
	Schema string `json:"schema"`
	Table  string `json:"table"`
}

// tableID is a table of a shard.
type tableID struct {
	shard pipeline.ShardID
	id    uint32
}

// Remember says which tables of a shard have rules, before the first Apply. The shaper adds those that it meets.
func (s *Shaper) Remember(shard pipeline.ShardID, tables []Ruled) {
	if s == nil {
		return
	}
	for _, t := range tables {
		s.names[tableID{shard, t.ID}] = [2]string{t.Schema, t.Table}
	}
}

// named refuses a table that had a rule under another name, and a name in the stream that another table has.
func (s *Shaper) named(shard pipeline.ShardID, r *pipeline.Relation) error {
	id, name := tableID{shard, r.ID}, [2]string{r.Namespace, r.Name}
	rule := s.shape.Rule(r.Namespace, r.Name)
	if was, known := s.names[id]; known && was != name && s.shape.Rule(was[0], was[1]) != rule {
		return fmt.Errorf("table %s was %s.%s when its rule was found, and that rule is not for it any more. Try: cdcctl drop-subscription, and create it again with a rule for %s", r, was[0], was[1], r)
	}
	if rule != nil {
		s.names[id] = name
	}
	if s.shape.Excluded(r.Namespace, r.Name) || !s.shape.renames() {
		return nil
	}
	schema, table := s.shape.Name(r.Namespace, r.Name)
	to := [2]string{schema, table}
	if from, taken := s.taken[to]; taken && from != name {
		return fmt.Errorf("tables %s.%s and %s are both %s.%s in the stream. Try: cdcctl drop-subscription and create it again with another rename", from[0], from[1], r, schema, table)
	}
	s.taken[to] = name
	return nil
}
