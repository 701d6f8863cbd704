package sql

import (
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
)

// Rows that move between shards: package moves. Beyond movesMax changes the transaction is written in order, behind a statement that
// raises an error.

// movesMax is how many changes of one transaction are followed, about 150 bytes each. A variable for tests.
var movesMax = 1_000_000

// moves finds out what becomes of the changes.
func (e *Encoder) moves(p *plan, tx *pipeline.Transaction) (err error) {
	if !moves.May(tx) {
		return nil
	}
	if n := moves.Remembered(tx); n > movesMax {
		p.first = e.raise(p.first, fmt.Sprintf("rows may move between shards in this transaction of %d changes, which is too large to find out (%d). If one does, its delete has to come before its insert", n, movesMax))
		return nil
	}
	p.moved, err = moves.Find(tx, rowsOf{e, p, tx})
	return err
}

// rowsOf are moves.Rows.
type rowsOf struct {
	e  *Encoder
	p  *plan
	tx *pipeline.Transaction
}

// Row is described by moves.Rows. What a TRUNCATE wiped, or rows that are to come contain, is not written at all.
func (r rowsOf) Row(fragment, i int, c *pipeline.Change) (moves.Row, error) {
	t, err := r.e.tables.of(c.Relation)
	if err != nil || r.p.order.wiped(fragment, i, c) || r.e.copies.contained(r.tx.Fragments[fragment].Shard, c) {
		return moves.Row{}, err
	}
	return moves.Row{Table: c.RelationID, Key: t.row}, nil
}
