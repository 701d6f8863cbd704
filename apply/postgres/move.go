package postgres

import (
	"encoding/binary"
	"fmt"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Rows that move between shards.
//
// A distributed transaction that moves a row deletes it on one shard and inserts it on another. On the target both
// are one table with one primary key, and the fragments come one after the other, so the insert could meet the
// row that is still there. Therefore in a transaction of several fragments
//
//   - what a fragment did to a row before it deleted it is left out: the delete wiped it;
//   - the delete goes before everything else, if the row was there before the transaction; if it was not, there is
//     nothing to delete.
//
// A fragment that deletes and neither inserts nor updates needs no looking at: every row that it deletes was there
// before. One that does both is followed row by row, and that takes memory; Config.MovesMax is its limit.
//
// Nobody can tell the difference: until its end only the fragment itself can touch these rows, readers of the
// target see the transaction whole, and a row that goes earlier only makes room.
//
// BUG(apply): a value of a unique index that moves between shards by updates alone (two rows on two shards
// swapping it in one transaction) meets itself, and blocks. A DEFERRABLE constraint on the target lets it pass.

// moved says what becomes of the changes of a transaction in which rows may move, fragment by fragment. Nil: all stay
// in order.
type moved []fates

// fates of one fragment's changes.
type fates struct {
	all  fate // if each is nil
	each []fate
}

type fate uint8

const (
	inOrder fate = iota
	first        // a delete that makes room
	leftOut      // wiped by a later delete
)

func (m moved) of(fragment, change int) fate {
	if m == nil {
		return inOrder
	}
	f := &m[fragment]
	if f.each == nil {
		return f.all
	}
	return f.each[change]
}

// Streams is described by apply.Session: what has to be known before the first row are TRUNCATEs and moves.
func (s *session) Streams(tx *pipeline.Transaction) bool { return !truncates(tx) && !mayMove(tx) }

// mayMove reports whether one fragment may make room for another; most transactions have one fragment only.
func mayMove(tx *pipeline.Transaction) bool {
	if len(tx.Fragments) < 2 {
		return false
	}
	// Some fragment deletes, and some other fragment inserts or updates.
	for n, f := range tx.Fragments {
		if !f.Ops.Has(pipeline.Delete) {
			continue
		}
		for m, other := range tx.Fragments {
			if m != n && writes(other) {
				return true
			}
		}
	}
	return false
}

func writes(f *pipeline.Fragment) bool {
	return f.Ops.Has(pipeline.Insert) || f.Ops.Has(pipeline.Update)
}

// rowID is a row of a table: its key's values.
type rowID struct {
	table *table
	key   string
}

// history is what one fragment did to one row so far.
type history struct {
	existed bool   // before the transaction
	closed  bool   // the key was given away or taken by an update of the key; the rest stays in order
	last    uint32 // its last change that is still to be decided, and that before in follower.before; from 1, 0: none
	deleted uint32 // its last delete, from 1; 0: none
}

// moves finds out what becomes of the changes.
func (s *session) moves(tx *pipeline.Transaction, o *order) (moved, error) {
	if !mayMove(tx) {
		return nil, nil
	}
	if err := s.checkMoves(tx); err != nil {
		return nil, err
	}
	all := make(moved, len(tx.Fragments))
	for n, f := range tx.Fragments {
		switch deletes := f.Ops.Has(pipeline.Delete); {
		case deletes && !writes(f):
			all[n].all = first
		case deletes:
			each, err := s.followAll(f, o)
			if err != nil {
				return nil, malformed(err)
			}
			all[n].each = each
		}
	}
	return all, nil
}

// checkMoves keeps to the limit of memory.
func (s *session) checkMoves(tx *pipeline.Transaction) error {
	n := 0
	for _, f := range tx.Fragments {
		if f.Ops.Has(pipeline.Delete) && writes(f) {
			n += f.Changes
		}
	}
	if n <= s.cfg.MovesMax {
		return nil
	}
	return &apply.Blocked{
		CSN: tx.CSN,
		Problem: fmt.Sprintf("rows may move between shards in this transaction, and finding out which would take the memory of %d changes; the limit is %d",
			n, s.cfg.MovesMax),
		Try: fmt.Sprintf("start the worker with --moves-max %d or more (about 150 bytes of memory each); it goes on by itself", n),
	}
}

// follower finds out what becomes of one fragment's changes.
type follower struct {
	s      *session
	rows   map[rowID]history
	fates  []fate
	before []uint32 // the change before of the same row
}

func (s *session) followAll(f *pipeline.Fragment, o *order) ([]fate, error) {
	fl := follower{s: s, rows: map[rowID]history{}, fates: make([]fate, f.Changes), before: make([]uint32, f.Changes)}
	i := -1
	err := f.Walk(func(c *pipeline.Change) error {
		if i++; i >= f.Changes {
			return fmt.Errorf("fragment %s: more changes than the %d that it announces", f, f.Changes)
		}
		switch c.Op {
		case pipeline.Insert, pipeline.Update, pipeline.Delete:
			// A table that is emptied first has no rows from before.
			if p := s.plans[c.Relation]; !p.gone && !o.truncated(p.table) {
				fl.follow(p, uint32(i)+1, c)
			}
		}
		return nil
	})
	return fl.fates, err
}

// follow takes the next change, the n-th.
func (fl *follower) follow(p *plan, n uint32, c *pipeline.Change) {
	key := p.identity
	if p.relation.Identity == 'f' {
		key = p.full
	}
	if len(key) == 0 {
		return // no key, so none that another row could meet
	}
	s := fl.s
	s.old, s.now = c.Old.Values(s.old[:0]), c.New.Values(s.now[:0])
	was, is := rowID{p.table, keyText(s.old, key)}, rowID{p.table, keyText(s.now, key)}
	switch {
	case c.Op == pipeline.Insert:
		was = is
	case c.Op == pipeline.Delete:
		is = was
	case c.OldKind == pipeline.OldNone:
		was = is
	}
	h, known := fl.rows[was]
	if !known {
		h.existed = c.Op != pipeline.Insert
	}
	if was != is { // an update of the key: one row leaves a key, and takes another
		taken := fl.rows[is]
		h.closed, taken.closed = true, true
		fl.rows[was], fl.rows[is] = h, taken
		return
	}
	if !h.closed {
		fl.before[n-1], h.last = h.last, n
		if c.Op == pipeline.Delete {
			fl.deleted(&h)
		}
	}
	fl.rows[was] = h
}

// deleted decides about everything that the fragment did to the row so far: the last change is a delete of it.
func (fl *follower) deleted(h *history) {
	for n := h.last; n > 0; n = fl.before[n-1] {
		fl.fates[n-1] = leftOut
	}
	if h.deleted > 0 {
		fl.fates[h.deleted-1] = leftOut
	}
	if h.existed {
		fl.fates[h.last-1] = first
	}
	h.deleted, h.last = h.last, 0
}

// keyText makes one string of the key's values.
func keyText(r row, key []int) string {
	if len(r) == 0 {
		return ""
	}
	var b []byte
	for _, i := range key {
		b = append(b, r[i].Kind)
		b = binary.AppendUvarint(b, uint64(len(r[i].Data)))
		b = append(b, r[i].Data...)
	}
	return string(b)
}
