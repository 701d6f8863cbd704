package sql

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"shardcdc/pipeline"
)

// Rows that move between shards.
//
// A distributed transaction that moves a row deletes it on one shard and inserts it on another. Here both are one table with one
// primary key, and the fragments come one after the other, so the insert could meet the row that is still there. Therefore in a
// transaction of several fragments
//
//   - what a fragment did to a row that it deleted in the end is left out;
//   - the row, as it was before the transaction, is deleted before everything else; if it was not there, there is nothing to
//     delete.
//
// A fragment that deletes and neither inserts nor updates needs no looking at: every row that it deletes was there before. One
// that does both is followed row by row. A row is known by its key, or, with REPLICA IDENTITY FULL, by all of its values: of
// equal rows any one may be meant. That takes memory for each change; beyond movesMax of them the transaction is written in order, behind a
// statement that raises an error.

// movesMax is how many changes of one transaction are followed, about 100 bytes each. A variable for tests.
var movesMax = 1_000_000

type fate uint8

const (
	inOrder  fate = iota
	madeRoom      // the row as it was before is deleted first
	leftOut
)

// moved says what becomes of the changes of a transaction in which rows may move, fragment by fragment. Nil: all stay in order.
type moved []fates

// fates of one fragment's changes.
type fates struct {
	all  fate // if each is nil
	each []fate
}

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

// none says that a fragment has no change of this fate.
func (m moved) none(fragment int, what fate) bool {
	return m != nil && m[fragment].each == nil && m[fragment].all != what
}

// mayMove reports whether one fragment may make room for another; most transactions have one fragment only.
func mayMove(tx *pipeline.Transaction) bool {
	if len(tx.Fragments) < 2 {
		return false
	}
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

// moves finds out what becomes of the changes.
func (e *Encoder) moves(p *plan, tx *pipeline.Transaction) error {
	if !mayMove(tx) {
		return nil
	}
	n := 0
	for _, f := range tx.Fragments {
		if f.Ops.Has(pipeline.Delete) && writes(f) {
			n += f.Changes
		}
	}
	if n > movesMax {
		p.first = e.raise(p.first, fmt.Sprintf("rows may move between shards in this transaction of %d changes, which is too large to find out (%d). If one does, its delete has to come before its insert", n, movesMax))
		return nil
	}
	all := make(moved, len(tx.Fragments))
	for n, f := range tx.Fragments {
		switch deletes := f.Ops.Has(pipeline.Delete); {
		case deletes && !writes(f):
			all[n].all = madeRoom
		case deletes:
			each, err := e.follow(p, n, f)
			if err != nil {
				return err
			}
			all[n].each = each
		}
	}
	p.moved = all
	return nil
}

// instance is a row that a fragment changed, as it is now.
type instance struct {
	first   uint32 // the first change of it
	last    uint32 // the last one; follower.before leads back
	existed bool   // before the transaction
	same    int32  // another instance of the same identity; -1: none
}

type rowID [16]byte

// follower finds out what becomes of one fragment's changes.
type follower struct {
	e         *Encoder
	rows      map[rowID]int32 // in instances
	instances []instance
	fates     []fate
	before    []uint32 // the change before of the same row
	scratch   []byte
}

func (e *Encoder) follow(p *plan, fragment int, f *pipeline.Fragment) ([]fate, error) {
	fl := follower{e: e, rows: make(map[rowID]int32), fates: make([]fate, f.Changes), before: make([]uint32, f.Changes)}
	i := -1
	err := e.walker.Walk(f, func(c *pipeline.Change) error {
		if i++; i >= f.Changes {
			return fmt.Errorf("fragment %s: more changes than the %d that it announces", f, f.Changes)
		}
		switch c.Op {
		case pipeline.Insert, pipeline.Update, pipeline.Delete:
			if !p.order.wiped(fragment, i, c) && !e.copies.contained(f.Shard, c) {
				return fl.follow(uint32(i), c)
			}
		}
		return nil
	})
	return fl.fates, err
}

// follow takes the next change, the n-th.
func (fl *follower) follow(n uint32, c *pipeline.Change) error {
	e := fl.e
	t, err := e.tables.of(c.Relation)
	if err != nil {
		return err
	}
	if t.key == nil && !t.full {
		return nil // no key, so none that another row could meet
	}
	e.old, e.new = c.Old.Values(e.old[:0]), c.New.Values(e.new[:0])
	for i := range e.new { // what an update did not touch is what it was
		if e.new[i].Kind == pipeline.Unchanged && c.Old != nil {
			e.new[i] = e.old[i]
		}
	}
	was := e.old
	if c.OldKind == pipeline.OldNone {
		was = e.new
	}
	fl.before[n] = n
	at := int32(-1)
	if c.Op != pipeline.Insert {
		at = fl.pop(fl.id(c.RelationID, t, was))
	}
	if at < 0 {
		at = int32(len(fl.instances))
		fl.instances = append(fl.instances, instance{first: n, last: n, existed: c.Op != pipeline.Insert})
	} else {
		fl.before[n], fl.instances[at].last = fl.instances[at].last, n
	}
	if c.Op == pipeline.Delete {
		fl.deleted(&fl.instances[at])
		return nil
	}
	id := fl.id(c.RelationID, t, e.new)
	fl.instances[at].same = -1
	if other, ok := fl.rows[id]; ok {
		fl.instances[at].same = other
	}
	fl.rows[id] = at
	return nil
}

// pop takes an instance of an identity, the last one that came; -1: there is none.
func (fl *follower) pop(id rowID) int32 {
	at, ok := fl.rows[id]
	if !ok {
		return -1
	}
	if same := fl.instances[at].same; same >= 0 {
		fl.rows[id] = same
	} else {
		delete(fl.rows, id)
	}
	return at
}

// deleted decides about everything that the fragment did to a row.
func (fl *follower) deleted(x *instance) {
	for n := x.last; ; n = fl.before[n] {
		fl.fates[n] = leftOut
		if n == x.first {
			break
		}
	}
	if x.existed {
		fl.fates[x.first] = madeRoom
	}
}

// id is a hash of what a row is known by.
func (fl *follower) id(relation uint32, t *table, values []pipeline.Value) (id rowID) {
	b := binary.BigEndian.AppendUint32(fl.scratch[:0], relation)
	for i := range values {
		if !t.full && !t.columns[i].key {
			continue
		}
		b = append(b, values[i].Kind)
		b = binary.AppendUvarint(b, uint64(len(values[i].Data)))
		b = append(b, values[i].Data...)
	}
	fl.scratch = b
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}
