package moves

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"shardcdc/pipeline"
)

// stay is the time that a row is under one key, within a fragment. An update of the key ends one and begins another.
type stay struct {
	from, to int32 // those of the same row before and after; none
	prev     int32 // the last one under this key that had ended when this one began; none
	under    int32 // another one that is open under the same key: rows without a key may be equal; none
	begun    int32 // the change that began it, or the first one that told of it
	existed  bool  // before the transaction
	there    bool  // rows of its table may be there from before
	ended    bool
	dies     bool // the row is deleted, under this key or a later one
	whole    bool // the row is known by all of its values
	split    bool // it was begun by an update of the key
}

const none = -1

// rowID is a hash of what a row is known by.
type rowID [16]byte

// keyed are the stays under one key: the last one that is open, and the last one that ended.
type keyed struct{ open, ended int32 }

// follower finds out what becomes of one fragment's changes.
type follower struct {
	fates  []Fate
	of     []int32 // the stay of each change; none
	stays  []stay
	rows   map[rowID]keyed
	tables map[any]uint32

	old, now []pipeline.Value
	scratch  []byte
}

func newFollower(f *pipeline.Fragment) *follower {
	fl := &follower{fates: make([]Fate, f.Changes), of: make([]int32, f.Changes), rows: make(map[rowID]keyed), tables: make(map[any]uint32)}
	for i := range fl.of {
		fl.of[i] = none
	}
	return fl
}

// walk calls fn with each change.
func (fl *follower) walk(f *pipeline.Fragment, fn func(i int, c *pipeline.Change) error) error {
	i := -1
	return f.Walk(func(c *pipeline.Change) error {
		if i++; i >= f.Changes {
			return fmt.Errorf("fragment %s: more changes than the %d that it announces", f, f.Changes)
		}
		return fn(i, c)
	})
}

func isRow(c *pipeline.Change) bool {
	return c.Op == pipeline.Insert || c.Op == pipeline.Update || c.Op == pipeline.Delete
}

// follow takes change i, of a row that r identifies.
func (fl *follower) follow(i int, c *pipeline.Change, r *Row, whole bool) {
	fl.old, fl.now = c.Old.Values(fl.old[:0]), c.New.Values(fl.now[:0])
	if c.Op == pipeline.Insert {
		fl.begin(i, fl.id(r, fl.now), stay{from: none, there: !r.Emptied, whole: whole})
		return
	}
	if c.OldKind == pipeline.OldNone {
		fl.old = append(fl.old[:0], fl.now...)
	}
	for k := range fl.now { // what an update did not touch is what it was
		if fl.now[k].Kind == pipeline.Unchanged {
			fl.now[k] = fl.old[k]
		}
	}
	was := fl.id(r, fl.old)
	at := none
	if k, ok := fl.rows[was]; ok {
		at = int(k.open)
	}
	if at == none {
		at = fl.begin(i, was, stay{from: none, there: !r.Emptied, whole: whole, existed: true})
	}
	fl.of[i] = int32(at)
	if c.Op == pipeline.Delete {
		fl.end(was, at)
		for n := int32(at); n != none; n = fl.stays[n].from {
			fl.stays[n].dies = true
		}
		return
	}
	if is := fl.id(r, fl.now); is != was {
		fl.end(was, at)
		fl.stays[at].to = int32(fl.begin(i, is, stay{from: int32(at), whole: whole, split: true}))
	}
}

// begin begins a stay.
func (fl *follower) begin(i int, id rowID, s stay) int {
	k, ok := fl.rows[id]
	if !ok {
		k = keyed{none, none}
	}
	at := len(fl.stays)
	s.to, s.prev, s.under, s.begun = none, k.ended, k.open, int32(i)
	k.open = int32(at)
	fl.stays, fl.rows[id], fl.of[i] = append(fl.stays, s), k, int32(at)
	return at
}

// end ends a stay, which is the last one that is open.
func (fl *follower) end(id rowID, at int) {
	s := &fl.stays[at]
	s.ended = true
	fl.rows[id] = keyed{s.under, int32(at)}
}

// id is that of a row.
func (fl *follower) id(r *Row, values []pipeline.Value) (id rowID) {
	table, ok := fl.tables[r.Table]
	if !ok {
		table = uint32(len(fl.tables))
		fl.tables[r.Table] = table
	}
	b := binary.BigEndian.AppendUint32(fl.scratch[:0], table)
	for _, i := range r.Key {
		b = append(b, values[i].Kind)
		b = binary.AppendUvarint(b, uint64(len(values[i].Data)))
		b = append(b, values[i].Data...)
	}
	fl.scratch = b
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

// targets decides as Find does: rows that are deleted in the end.
func (fl *follower) targets() {
	for i, at := range fl.of {
		if at != none && fl.stays[at].dies {
			fl.fates[i] = LeftOut
		}
	}
	for i := range fl.stays {
		if s := &fl.stays[i]; s.dies && s.existed && s.there {
			fl.fates[s.begun] = First
		}
	}
}

// readers decides as Order does: stays that end.
//
// What is about a stay that ended goes first; of a row that is known by all of its values, if the row is deleted. Changes of one key
// stay in order among themselves. So where an update of the key cannot be split, it goes where its new key goes, and if that is in
// order, whatever takes the old key after it is in order, too. All that a stay depends on began before it.
func (fl *follower) readers(halves Halves) {
	first := make([]bool, len(fl.stays))
	goes := func(at int32) bool { return at == none || first[at] }
	for i := range fl.stays {
		s := &fl.stays[i]
		first[i] = s.ended && (!s.whole || s.dies)
		if halves == Apart && !s.whole {
			continue
		}
		first[i] = first[i] && goes(s.from)
		if s.prev != none {
			first[i] = first[i] && goes(s.prev) && goes(fl.stays[s.prev].to)
		}
	}
	for i, at := range fl.of {
		switch {
		case at == none:
		case first[at]:
			fl.fates[i] = First
		case halves == Apart && fl.stays[at].split && !fl.stays[at].whole && int(fl.stays[at].begun) == i:
			fl.fates[i] = Split
		}
	}
}
