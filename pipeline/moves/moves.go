// Package moves finds rows that move between shards.
//
// A distributed transaction that moves a row deletes it on one shard and inserts it on another. Where both go they are one table
// with one primary key, and the fragments come one after the other: the insert could meet the row that is still there, or the delete
// take the row that has just come. Therefore, in a transaction of several fragments, what a fragment did to rows that it deleted in the
// end comes before everything else. Of the rest, each key is written by one fragment only, since it can end on one shard only.
//
//	fragment a:  insert 7                       delete 7 (of b)   ─┐ first
//	fragment b:  update 7, delete 7    ─►       insert 8 (of b)    │
//	             insert 8                       insert 7 (of a)   ─┘ in order
//
// Nobody can tell the difference: until its end only the fragment itself can touch these rows, readers see the transaction whole,
// and a row that goes earlier only makes room.
//
// There are two ways to write it:
//
//   - Find is for targets, that is for statements, which fail when they meet a row: a row that was there before the transaction is
//     deleted first, as it was then, and all that the fragment did to it is left out; so is a row that was not there before.
//   - Order is for readers, who are told everything: nothing is left out, and what is about rows that go goes first.
//
// A fragment that deletes and neither inserts nor updates needs no looking at: it goes first as it is. One that does both is followed row by
// row, and that takes memory, about 150 bytes for each change; hence Remembered, which the caller compares with its limit. Bodies are
// read, never kept, so a transaction need not be in memory.
//
// BUG(moves): a row whose key is changed by an update, and which stays, makes room and takes it at once. Where its old key, or another
// value of a unique index, goes to a row of another shard in the same transaction (two rows on two shards that swap it), a target meets it, and
// blocks. See Order for readers.
package moves

import "shardcdc/pipeline"

// Fate is what becomes of a change.
type Fate uint8

const (
	InOrder Fate = iota
	First        // before everything that is in order. Of Find: the row that the change found is deleted (Gone), and nothing else
	LeftOut      // wiped by a later delete; of Find only
	Split        // an update of the key: the row leaves the old key first, and takes the new one in order; of Order with Halves only
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
	if m == nil {
		return fate != InOrder
	}
	return m[fragment].each == nil && m[fragment].all != fate
}

// Gone is the deletion of the row that a change found: what First means for Find.
func Gone(c *pipeline.Change) pipeline.Change {
	gone := *c
	gone.Op, gone.New = pipeline.Delete, nil
	if c.OldKind == pipeline.OldNone { // an update that left the key as it was
		gone.OldKind, gone.Old = pipeline.OldKey, c.New
	}
	return gone
}

// May reports whether one fragment may make room for another; most transactions have one fragment only.
func May(tx *pipeline.Transaction) bool {
	return may(tx, func(f *pipeline.Fragment) bool { return f.Ops.Has(pipeline.Delete) })
}

// may: some fragment takes rows away, and some other fragment inserts or updates.
func may(tx *pipeline.Transaction, takes func(*pipeline.Fragment) bool) bool {
	if len(tx.Fragments) < 2 {
		return false
	}
	for n, f := range tx.Fragments {
		if !takes(f) {
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

// Remembered is how many changes have to be remembered by Find.
func Remembered(tx *pipeline.Transaction) (n int) {
	for _, f := range tx.Fragments {
		if f.Ops.Has(pipeline.Delete) && writes(f) {
			n += f.Changes
		}
	}
	return n
}

// Rows tells about the rows of changes.
type Rows interface {
	// Row is what identifies the row of an insert, update or delete.
	Row(fragment, index int, c *pipeline.Change) (Row, error)
}

// Row is what identifies a row.
type Row struct {
	Table any   // on the target; comparable
	Key   []int // the columns that identify the row: their places. None: rows of the table cannot meet, or there is nothing of it from before
	// Emptied: the table was emptied in front of the transaction, and there is no row from before.
	Emptied bool
}

// Find finds out what becomes of the changes where statements fail when they meet a row. An error comes from reading the fragments,
// or from rows.
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
			fl := newFollower(f)
			err := fl.walk(f, func(i int, c *pipeline.Change) error {
				if !isRow(c) {
					return nil
				}
				r, err := rows.Row(n, i, c)
				if err == nil && len(r.Key) > 0 {
					fl.follow(i, c, &r, false)
				}
				return err
			})
			if err != nil {
				return nil, err
			}
			fl.targets()
			all[n].each = fl.fates
		}
	}
	return all, nil
}
