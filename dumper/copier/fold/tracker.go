package fold

import "shardcdc/pipeline"

// Tracker follows the fragments of one shard, in their global order.
type Tracker struct{}

// New makes a Tracker whose notes take no more than limitBytes.
func New(limitBytes int) *Tracker { return &Tracker{} }

// Follow begins to note the changes of a table.
func (t *Tracker) Follow(table Table) {}

// Unfollow ends it.
func (t *Tracker) Unfollow(table Table) {}

// Take notes what a fragment changed.
func (t *Tracker) Take(f *pipeline.Fragment) (moved []Moved, err error) { return nil, nil }

// Begin says that the snapshot of a chunk is about to be taken.
func (t *Tracker) Begin(id string, table Table) {}

// Taken says which snapshot it was.
func (t *Tracker) Taken(id string, s Snapshot) {}

// Drop gives a chunk up.
func (t *Tracker) Drop(id string) {}

// Fold appends the chunk's rows, as they are at this place of the order, to a fragment that holds its first message, and
// ends the chunk.
func (t *Tracker) Fold(c *Chunk, into *pipeline.Fragment) error { return nil }
