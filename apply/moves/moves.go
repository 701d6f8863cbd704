// Package moves finds rows that move between shards.
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
// before. One that does both is followed row by row, and that takes memory; hence a limit.
//
// Nobody can tell the difference: until its end only the fragment itself can touch these rows, readers of the
// target see the transaction whole, and a row that goes earlier only makes room.
//
// BUG(apply): a value of a unique index that moves between shards by updates alone (two rows on two shards
// swapping it in one transaction) meets itself, and blocks.
package moves

import (
	"encoding/binary"
	"fmt"

	"shardcdc/pipeline"
)

// Fate is what becomes of a change.
type Fate uint8

const (
	InOrder Fate = iota
	First        // a delete that makes room
	LeftOut      // wiped by a later delete
)

// Moved says what becomes of the changes of a transaction in which rows may move, fragment by fragment. Nil: all stay
// in order.
type Moved []fates

// fates of one fragment's changes.
type fates struct {
	all  Fate // if each is nil
	each []Fate
}

// Of is the fate of a change.
func (m Moved) Of(fragment, change int) Fate {
	if m == nil {
		return InOrder
	}
	f := &m[fragment]
	if f.each == nil {
		return f.all
	}
	return f.each[change]
}

// None says that no change of the fragment has this fate, if that is known without looking at each.
func (m Moved) None(fragment int, fate Fate) bool {
	return m != nil && m[fragment].each == nil && m[fragment].all != fate
}

// May reports whether one fragment may make room for another; most transactions have one fragment only.
func May(tx *pipeline.Transaction) bool {
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

// Remembered is how many changes have to be remembered to find out.
func Remembered(tx *pipeline.Transaction) (n int) {
	for _, f := range tx.Fragments {
		if f.Ops.Has(pipeline.Delete) && writes(f) {
			n += f.Changes
		}
	}
	return n
}

// Rows tells about the rows of a change.
type Rows interface {
	// Key is the target's table of the change, which has to be comparable, and the places of the columns that identify its row.
	// No columns: rows of it cannot meet, or there is nothing of it on the target from before.
	Key(c *pipeline.Change) (table any, key []int)
}

// Find finds out what becomes of the changes. An error comes from reading the fragments.
func Find(tx *pipeline.Transaction, rows Rows) (Moved, error) {
	if !May(tx) {
		return nil, nil
	}
	all := make(Moved, len(tx.Fragments))
	for n, f := range tx.Fragments {
		switch deletes := f.Ops.Has(pipeline.Delete); {
		case deletes && !writes(f):
			all[n].all = First
		case deletes:
			each, err := follow(f, rows)
			if err != nil {
				return nil, err
			}
			all[n].each = each
		}
	}
	return all, nil
}

// rowID is a row of a table: its key's values.
type rowID struct {
	table any
	key   string
}

// history is what one fragment did to one row so far.
type history struct {
	existed bool   // before the transaction
	closed  bool   // the key was given away or taken by an update of the key; the rest stays in order
	last    uint32 // its last change that is still to be decided, and that before in follower.before; from 1, 0: none
	deleted uint32 // its last delete, from 1; 0: none
}

// follower finds out what becomes of one fragment's changes.
type follower struct {
	rows     map[rowID]history
	fates    []Fate
	before   []uint32 // the change before of the same row
	old, now []pipeline.Value
}

func follow(f *pipeline.Fragment, rows Rows) ([]Fate, error) {
	fl := follower{rows: map[rowID]history{}, fates: make([]Fate, f.Changes), before: make([]uint32, f.Changes)}
	i := -1
	err := f.Walk(func(c *pipeline.Change) error {
		if i++; i >= f.Changes {
			return fmt.Errorf("fragment %s: more changes than the %d that it announces", f, f.Changes)
		}
		switch c.Op {
		case pipeline.Insert, pipeline.Update, pipeline.Delete:
			if table, key := rows.Key(c); len(key) > 0 {
				fl.follow(table, key, uint32(i)+1, c)
			}
		}
		return nil
	})
	return fl.fates, err
}

// follow takes the next change, the n-th.
func (fl *follower) follow(table any, key []int, n uint32, c *pipeline.Change) {
	fl.old, fl.now = c.Old.Values(fl.old[:0]), c.New.Values(fl.now[:0])
	was, is := rowID{table, keyText(fl.old, key)}, rowID{table, keyText(fl.now, key)}
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
		fl.fates[n-1] = LeftOut
	}
	if h.deleted > 0 {
		fl.fates[h.deleted-1] = LeftOut
	}
	if h.existed {
		fl.fates[h.last-1] = First
	}
	h.deleted, h.last = h.last, 0
}

// keyText makes one string of the key's values.
func keyText(r []pipeline.Value, key []int) string {
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
