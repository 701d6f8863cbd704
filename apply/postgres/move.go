package postgres

import (
	"fmt"

	"shardcdc/apply"
	"shardcdc/apply/moves"
	"shardcdc/pipeline"
)

// Rows that move between shards: package moves. A value of a unique index that moves by updates alone meets itself; here a
// DEFERRABLE constraint on the target lets it pass.

// Streams is described by apply.Session: what has to be known before the first row are TRUNCATEs and moves.
func (s *session) Streams(tx *pipeline.Transaction) bool { return !truncates(tx) && !moves.May(tx) }

// moves finds out what becomes of the changes.
func (s *session) moves(tx *pipeline.Transaction, o *order) (moves.Moved, error) {
	if !moves.May(tx) {
		return nil, nil
	}
	if n := moves.Remembered(tx); n > s.cfg.MovesMax {
		return nil, &apply.Blocked{
			CSN: tx.CSN,
			Problem: fmt.Sprintf("rows may move between shards in this transaction, and finding out which would take the memory of %d changes; the limit is %d",
				n, s.cfg.MovesMax),
			Try: fmt.Sprintf("start the worker with --moves-max %d or more (about 150 bytes of memory each); it goes on by itself", n),
		}
	}
	moved, err := moves.Find(tx, keys{s, o})
	if err != nil {
		return nil, malformed(err)
	}
	return moved, nil
}

// keys are moves.Rows.
type keys struct {
	s *session
	o *order
}

// Key is described by moves.Rows. A table that is emptied first has no rows from before.
func (k keys) Key(c *pipeline.Change) (any, []int) {
	p := k.s.plans[c.Relation]
	if p.gone || k.o.truncated(p.table) {
		return nil, nil
	}
	if c.Relation.Identity == 'f' {
		return p.table, p.full
	}
	return p.table, p.identity
}
