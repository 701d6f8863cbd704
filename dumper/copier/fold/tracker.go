package fold

import (
	"fmt"
	"slices"

	"shardcdc/pipeline"
)

// Tracker follows the fragments of one shard, in their global order. It is not for concurrent use.
type Tracker struct {
	limit  int // of bytes
	bytes  int // that all notes take
	tables map[name]*table
	chunks map[string]*chunk
	newest Snapshot // the latest that was taken
}

// chunk is a chunk under way.
type chunk struct {
	table *table
	known Snapshot // the newest when it began: its own sees what this one sees
	taken bool
	own   Snapshot // once it is taken
	again string   // why it cannot be folded; empty: it can
}

// sees says that the chunk's rows contain a transaction for sure.
func (c *chunk) sees() Snapshot {
	if c.taken {
		return c.own
	}
	return c.known
}

// New makes a Tracker whose notes take no more than limitBytes. A single note may exceed it, for a moment.
func New(limitBytes int) *Tracker {
	return &Tracker{limit: max(limitBytes, 0), tables: make(map[name]*table), chunks: make(map[string]*chunk)}
}

// Bytes is what the notes take.
func (t *Tracker) Bytes() int { return t.bytes }

// Follow begins to note the changes of a table. A table that is followed by the same key already stays as it is; by another
// key it is followed anew. See assumption A1.
func (t *Tracker) Follow(tb Table) {
	if old := t.tables[name{tb.Schema, tb.Name}]; old != nil && slices.Equal(old.Key, tb.Key) {
		return
	}
	t.Unfollow(tb)
	t.tables[name{tb.Schema, tb.Name}] = &table{Table: tb}
}

// Unfollow ends it. Chunks of the table that are under way cannot be folded any more.
func (t *Tracker) Unfollow(tb Table) {
	old := t.tables[name{tb.Schema, tb.Name}]
	if old == nil {
		return
	}
	for _, c := range t.chunks {
		if c.table == old {
			c.again = "the table was not followed all the time"
		}
	}
	t.bytes -= old.bytes
	delete(t.tables, name{tb.Schema, tb.Name})
}

// Begin says that the snapshot of a chunk is about to be taken.
func (t *Tracker) Begin(id string, tb Table) {
	c := &chunk{table: t.tables[name{tb.Schema, tb.Name}], known: t.newest}
	if c.table == nil {
		c.again = "the table is not followed"
	}
	t.chunks[id] = c
}

// Taken says which snapshot it was.
func (t *Tracker) Taken(id string, s Snapshot) {
	if s.later(t.newest) {
		t.newest = s
	}
	if c := t.chunks[id]; c != nil {
		c.taken, c.own = true, s
		if c.table != nil {
			c.check()
		}
	}
	t.forget()
}

// Drop gives a chunk up.
func (t *Tracker) Drop(id string) {
	delete(t.chunks, id)
	t.forget()
}

// check marks a chunk that cannot be folded because notes are lost.
func (c *chunk) check() {
	if c.taken && c.again == "" && c.table.misses(c.own) {
		c.again = "changes of the table that it does not contain could not be noted (too many at once, or the table's definition changed)"
	}
}

// misses says that a transaction which the snapshot does not see is not noted completely.
func (t *table) misses(s Snapshot) bool {
	return t.crowded && !s.seesThrough(t.lostThrough) ||
		slices.ContainsFunc(t.lost, func(x pipeline.XID) bool { return !s.Sees(x) })
}

// needed says whether a chunk of the table, under way or to come, may have been read before this transaction.
func (t *Tracker) needed(tb *table, sees func(Snapshot) bool) bool {
	if !sees(t.newest) {
		return true
	}
	for _, c := range t.chunks {
		if c.table == tb && c.again == "" && !sees(c.sees()) {
			return true
		}
	}
	return false
}

func (t *Tracker) needs(tb *table, xid pipeline.XID) bool {
	return t.needed(tb, func(s Snapshot) bool { return s.Sees(xid) })
}

// forget lets go of notes that no chunk needs.
func (t *Tracker) forget() {
	for _, tb := range t.tables {
		tb.entries = slices.DeleteFunc(tb.entries, func(e *entry) bool {
			if t.needs(tb, e.xid) {
				return false
			}
			tb.bytes -= e.bytes
			t.bytes -= e.bytes
			return true
		})
		tb.lost = slices.DeleteFunc(tb.lost, func(x pipeline.XID) bool { return !t.needs(tb, x) })
		if tb.crowded && !t.needed(tb, func(s Snapshot) bool { return s.seesThrough(tb.lostThrough) }) {
			tb.crowded = false
		}
	}
}

// lose says that a transaction is not noted completely.
func (t *Tracker) lose(tb *table, xid pipeline.XID) {
	if n := len(tb.lost); n == 0 || tb.lost[n-1] != xid {
		tb.lost = append(tb.lost, xid)
	}
	if len(tb.lost) > lostMax {
		if !tb.crowded {
			tb.crowded, tb.lostThrough = true, tb.lost[0]
		}
		for _, x := range tb.lost {
			if int32(x-tb.lostThrough) > 0 {
				tb.lostThrough = x
			}
		}
		tb.lost = tb.lost[:0]
	}
	for _, c := range t.chunks {
		if c.table == tb {
			c.check()
		}
	}
}

// loseAll gives up everything that is noted of a table.
func (t *Tracker) loseAll(tb *table) {
	entries := tb.entries
	t.bytes -= tb.bytes
	tb.entries, tb.bytes = nil, 0
	for _, e := range entries {
		e.notes, e.lost = nil, true
		t.lose(tb, e.xid)
	}
}

// charge counts bytes that a table's notes take more, and makes room: the table that takes most loses its notes.
func (t *Tracker) charge(tb *table, e *entry, bytes int) {
	e.bytes += bytes
	tb.bytes += bytes
	t.bytes += bytes
	for t.bytes > t.limit {
		most := tb
		for _, other := range t.tables {
			if other.bytes > most.bytes {
				most = other
			}
		}
		if most.bytes == 0 {
			panic(fmt.Sprintf("fold: %d bytes noted, of no table", t.bytes))
		}
		t.loseAll(most)
	}
}
