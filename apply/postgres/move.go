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
// row that is still there. Therefore in a transaction of several fragments
//
//   - what a fragment did to a row before it deleted it is left out: the delete wiped it;
//   - the delete goes before everything else, if the row was there before the transaction; if it was not, there is
//     nothing to delete.
//
// Nobody can tell the difference: until its end only the fragment itself can touch these rows, readers of the
// target see the transaction whole, and a row that goes earlier only makes room.
//
// BUG(apply): a value of a unique index that moves between shards by updates alone (two rows on two shards
// swapping it in one transaction) meets itself, and blocks. A DEFERRABLE constraint on the target lets it pass.

// moved says what becomes of the changes of a transaction in which rows may move; others stay as they are.
type moved map[position]fate

type fate uint8

const (
	inOrder fate = iota
	first        // a delete that makes room
	leftOut      // wiped by a later delete
)

// position of a change in its transaction.
type position struct{ fragment, change int }

// mayMove reports whether one fragment may make room for another; most transactions have one fragment only.
func mayMove(tx *pipeline.Transaction) bool {
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
	existed bool  // before the transaction
	changes []int // up to the last delete and since
	deleted int   // how many of changes lie up to the last delete
	closed  bool  // the key was given away or taken by an update of the key; the rest stays in order
}

// moves finds out what becomes of the changes.
func (s *session) moves(tx *pipeline.Transaction, o *order) (moved, error) {
	if !mayMove(tx) {
		return nil, nil
	}
	all := moved{}
	for n, f := range tx.Fragments {
		rows := map[rowID]*history{}
		i := -1
		err := f.Walk(func(c *pipeline.Change) error {
			i++
			switch c.Op {
			case pipeline.Insert, pipeline.Update, pipeline.Delete:
				// A table that is emptied first has no rows from before.
				if p := s.plans[c.Relation]; !o.truncated(p.table) {
					s.follow(rows, p, i, c)
				}
			}
			return nil
		})
		if err != nil {
			return nil, &apply.Fatal{Problem: "the stream holds what cannot be read", Err: err}
		}
		for _, h := range rows {
			all.decide(n, h)
		}
	}
	return all, nil
}

func (m moved) decide(fragment int, h *history) {
	for k, i := range h.changes[:h.deleted] {
		if k == h.deleted-1 && h.existed {
			m[position{fragment, i}] = first
		} else {
			m[position{fragment, i}] = leftOut
		}
	}
}

// follow takes the next change of a fragment.
func (s *session) follow(rows map[rowID]*history, p *plan, i int, c *pipeline.Change) {
	key := p.identity
	if p.relation.Identity == 'f' {
		key = p.full
	}
	if len(key) == 0 {
		return // no key, so none that another row could meet
	}
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
	h := rows[was]
	if h == nil {
		h = &history{existed: c.Op != pipeline.Insert}
		rows[was] = h
	}
	if was != is { // an update of the key: one row leaves a key, and takes another
		h.closed = true
		if rows[is] == nil {
			rows[is] = &history{}
		}
		rows[is].closed = true
		return
	}
	if h.closed {
		return
	}
	h.changes = append(h.changes, i)
	if c.Op == pipeline.Delete {
		h.deleted = len(h.changes)
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
