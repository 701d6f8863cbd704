package postgres

import (
	"fmt"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
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
	moved, err := moves.Find(tx, rowsOf{s, o})
	if err != nil {
		return nil, malformed(err)
	}
	return moved, nil
}

// rowsOf are moves.Rows.
type rowsOf struct {
	s *session
	o *order
}

// Row is described by moves.Rows. What a TRUNCATE wiped is not sent at all.
func (k rowsOf) Row(fragment, i int, c *pipeline.Change) (moves.Row, error) {
	p := k.s.plans[c.Relation]
	if p.gone || k.o.wiped(fragment, i, p.table) {
		return moves.Row{}, nil
	}
	r := moves.Row{Table: p.table, Key: p.identity, Emptied: k.o.truncated(p.table)}
	if c.Relation.Identity == 'f' {
		r.Key = p.full
	}
	return r, nil
}
