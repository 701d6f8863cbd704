package postgres

import (
	"encoding/binary"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Rows that move between shards.
//
// A distributed transaction that moves a row deletes it on one shard and inserts it on another. On the target both
// are one table with one primary key, and the fragments come one after the other, so the insert could meet the
// row that is still there. Therefore in a transaction of several fragments the deletes of rows that were there
// before it go first, with what their fragment did to the row until then. Nothing else can tell the difference:
// until the end of its fragment nobody but that fragment can touch the row, and a row that goes earlier only makes
// room.
//
// BUG(apply): a value of a unique index that moves between shards by updates alone (two rows on two shards
// swapping it in one transaction) meets itself, and blocks. A DEFERRABLE constraint on the target lets it pass.

// early says which changes go first.
type early map[position]bool

// position of a change in its transaction.
type position struct{ fragment, change int }

// moves reports whether one fragment may make room for another.
func moves(tx *pipeline.Transaction) bool {
	if len(tx.Fragments) < 2 {
		return false
	}
	// Some fragment deletes, and some other fragment inserts or updates.
	for n, f := range tx.Fragments {
		if !has(f, pipeline.Delete) {
			continue
		}
		for m, other := range tx.Fragments {
			if m != n && (has(other, pipeline.Insert) || has(other, pipeline.Update)) {
				return true
			}
		}
	}
	return false
}

// has looks at the type bytes only.
func has(f *pipeline.Fragment, op pipeline.Op) bool {
	for at := 0; at+4 < len(f.Body); {
		if f.Body[at+4] == byte(op) {
			return true
		}
		at += 4 + int(binary.BigEndian.Uint32(f.Body[at:]))
	}
	return false
}

// rowID is a row of a table: its key's values.
type rowID struct {
	table *table
	key   string
}

// history is what one fragment did to one row so far.
type history struct {
	changes []int // until the row was deleted
	settled bool  // it is decided: deleted, or not there before the transaction
}

// early finds the changes that go first.
func (s *session) early(tx *pipeline.Transaction) (early, error) {
	if !moves(tx) {
		return nil, nil
	}
	first := early{}
	for n, f := range tx.Fragments {
		rows := map[rowID]*history{}
		i := -1
		err := f.Walk(func(c *pipeline.Change) error {
			i++
			if c.Op == pipeline.Insert || c.Op == pipeline.Update || c.Op == pipeline.Delete {
				s.follow(rows, i, c, func(change int) { first[position{n, change}] = true })
			}
			return nil
		})
		if err != nil {
			return nil, &apply.Fatal{Problem: "the stream holds what cannot be read", Err: err}
		}
	}
	return first, nil
}

// follow takes the next change of a fragment; goesFirst is called when it turns out that a row of old goes.
func (s *session) follow(rows map[rowID]*history, i int, c *pipeline.Change, goesFirst func(change int)) {
	p := s.plans[c.Relation]
	key := p.identity
	if p.relation.Identity == 'f' {
		key = p.full
	}
	if len(key) == 0 {
		return // no key, so none that another row could meet
	}
	s.old, s.now = c.Old.Values(s.old[:0]), c.New.Values(s.now[:0])
	was, is := rowID{p.table, keyText(s.old, key)}, rowID{p.table, keyText(s.now, key)}
	if c.Op == pipeline.Update && c.OldKind == pipeline.OldNone {
		was = is
	}
	get := func(id rowID) *history {
		if rows[id] == nil {
			rows[id] = &history{}
		}
		return rows[id]
	}
	switch {
	case c.Op == pipeline.Insert:
		if h := get(is); len(h.changes) == 0 {
			h.settled = true
		}
	case c.Op == pipeline.Delete:
		h := get(was)
		if !h.settled {
			for _, change := range append(h.changes, i) {
				goesFirst(change)
			}
		}
		h.settled = true
	case was == is:
		h := get(is)
		h.changes = append(h.changes, i)
	default: // an update of the key: the row leaves one and takes another
		get(was).settled, get(is).settled = true, true
	}
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
