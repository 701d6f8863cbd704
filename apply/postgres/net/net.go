// Package net folds the changes of rows to their net effect.
//
// The transactions of one target transaction become visible together, so nobody can see what lies between them. What counts
// is which rows are gone, changed and new in the end:
//
//	rows.Begin(key)                     // the columns that locate a row
//	for each change of the table:
//	    if !rows.Add(change) {          // cannot be folded
//	        write rows.All(); rows.Begin(key); write the change by itself
//	    }
//	write rows.All(): all deletes, then all updates, then all inserts
//
// What follows what, for the row of one key (I, U, D; → is not possible, and Add refuses it):
//
//	before \ next    I                      U               D
//	nothing known    new row                update          delete
//	new row          →                      new row         nothing
//	update           →                      update          delete
//	delete           delete and new row     →               →
//	delete+new row   →                      delete+new row  delete
//	nothing          new row                →               →
//
// A value that an update did not send (a TOAST value that it left as it was) stays what it was known to be.
//
// An update or a delete is of a row of its own shard. Behind a change of the key by another shard Add refuses it: two shards have
// a row of that key, and only the target can tell which of them it holds.
//
// # Why it is right
//
// Each row ends as it would have ended, so the table does. On the way the deletes make room first, and then the
// updates, so what is unique stays so: a state that only some rows have reached holds rows of the first state and rows of the
// last one. Those could share a unique value only where one row takes what another one gives up: if the other one gives it up by
// its delete, that went first; if the taker is a new row, it comes last. What remains is an update that takes what
// another update gives up; then the order among the updates matters, and they are not in it. The target refuses that loudly, never
// silently, and the caller sends them one by one. Two changes whose keys differ in text are taken for changes of two rows. They
// may be of one nevertheless (1.0 and 1.00), when a row was deleted and came back; the delete goes first.
//
// # Memory
//
// Tuples are views into what was given to Add, or, where that does not last, copies (Rows.Keep). Everything that Rows
// allocates is used again behind Begin; in steady state nothing is allocated.
package net

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"

	"shardcdc/pipeline"
)

// Row is the net effect on one row.
type Row struct {
	CSN     pipeline.CSN     // of its last change
	Shard   pipeline.ShardID // the same
	Old     pipeline.Tuple   // of its first change that had one, or of its delete; nil: New has the key that locates it
	New     pipeline.Tuple   // the row as it is at the end; nil: it is not there
	OldKind byte             // of Old
	Before  bool             // it was there before
	Deleted bool             // what was there before was deleted; New, if there is one, is another row
	Own     bool             // a tuple is a copy, which does not last longer than Begin
	hash    uint64
	key     span
}

// Updates says that New takes the place of what is there. (A row that is Deleted may have a New one as well.)
func (r *Row) Updates() bool { return r.Before && !r.Deleted && r.New != nil }

// Inserts says that New is a row that is not there.
func (r *Row) Inserts() bool { return r.New != nil && (!r.Before || r.Deleted) }

type span struct{ from, to uint32 }

// Rows collects the changes of one table's rows. It is used by one goroutine.
type Rows struct {
	// Keep says that tuples given to Add do not last: they are copied. It may change at any time.
	Keep bool

	key    []int
	rows   []Row
	table  []uint32 // open addressing: an index into rows, from 1; as long as a power of two
	keys   []byte   // of rows
	arena  arena
	size   int // of the tuples, and of what was copied to complete them
	seed   maphash.Seed
	seeded bool

	// Scratch of one Add.
	old, now []pipeline.Value
	text     []byte // the key
	hash     uint64 // of text
	at       int    // its place in table
}

// Begin forgets everything. The columns of key locate a row; without any, only inserts can be added.
func (r *Rows) Begin(key []int) {
	if !r.seeded {
		r.seed, r.seeded = maphash.MakeSeed(), true
	}
	r.key, r.size = key, 0
	if len(r.rows) > rowsKept {
		r.rows, r.table, r.keys = nil, nil, nil
	}
	clear(r.rows) // the tuples may be collected
	r.rows, r.keys = r.rows[:0], r.keys[:0]
	clear(r.table)
	r.arena.reset()
}

// rowsKept is for how many rows memory is kept.
const rowsKept = 64 << 10

// All are the rows in the order of their first changes, those with no effect among them.
func (r *Rows) All() []Row { return r.rows }

// Len is the number of rows.
func (r *Rows) Len() int { return len(r.rows) }

// Size is the number of bytes of the tuples that were added, and of the copies that complete them.
func (r *Rows) Size() int { return r.size }

// Add takes a change, or refuses it and leaves everything as it was. It refuses what has no key or changes it, what
// holds binary values, and what cannot follow what is known of the row.
func (r *Rows) Add(shard pipeline.ShardID, csn pipeline.CSN, c *pipeline.Change) bool {
	r.now = c.New.Values(r.now[:0])
	unchanged, ok := look(r.now)
	if !ok {
		return false
	}
	if len(r.key) == 0 {
		if c.Op != pipeline.Insert || unchanged {
			return false
		}
		r.rows = append(r.rows, Row{CSN: csn, Shard: shard, New: r.keep(c.New), Own: r.Keep})
		r.size += len(c.New)
		return true
	}
	switch c.Op {
	case pipeline.Insert:
		ok = !unchanged && r.locate(r.now) && r.insert(shard, csn, c)
	case pipeline.Update:
		ok = r.locateOld(c) && r.update(shard, csn, c, unchanged)
	case pipeline.Delete:
		r.old = c.Old.Values(r.old[:0])
		ok = r.locate(r.old) && r.delete(shard, csn, c)
	default:
		ok = false
	}
	if ok {
		r.size += len(c.Old) + len(c.New)
	}
	return ok
}

// look says whether some value was not sent, and whether all others are text.
func look(values []pipeline.Value) (unchanged, ok bool) {
	for i := range values {
		switch values[i].Kind {
		case pipeline.Binary:
			return false, false
		case pipeline.Unchanged:
			unchanged = true
		}
	}
	return unchanged, true
}

// locateOld finds the key of an update, which must not change it.
func (r *Rows) locateOld(c *pipeline.Change) bool {
	if c.OldKind == pipeline.OldNone {
		return r.locate(r.now)
	}
	r.old = c.Old.Values(r.old[:0])
	for _, i := range r.key {
		if r.now[i].Kind != pipeline.Unchanged && !bytes.Equal(r.old[i].Data, r.now[i].Data) {
			return false
		}
	}
	return r.locate(r.old)
}

// locate makes r.text of a row's key.
func (r *Rows) locate(values []pipeline.Value) bool {
	r.text = r.text[:0]
	for _, i := range r.key {
		v := &values[i]
		if v.Kind != pipeline.Text {
			return false
		}
		if len(r.key) > 1 {
			r.text = binary.AppendUvarint(r.text, uint64(len(v.Data)))
		}
		r.text = append(r.text, v.Data...)
	}
	return true
}

func (r *Rows) insert(shard pipeline.ShardID, csn pipeline.CSN, c *pipeline.Change) bool {
	row := r.find()
	if row == nil {
		row = r.add()
	} else if row.New != nil || row.Before && !row.Deleted {
		return false
	}
	row.CSN, row.Shard, row.New, row.Own = csn, shard, r.keep(c.New), row.Own || r.Keep
	return true
}

func (r *Rows) update(shard pipeline.ShardID, csn pipeline.CSN, c *pipeline.Change, unchanged bool) bool {
	row := r.find()
	switch {
	case row == nil:
		row = r.add()
		row.Before = true
		row.New = r.keep(c.New)
	case row.New == nil, row.Shard != shard:
		return false
	case unchanged:
		row.New, row.Own = r.merged(row.New), true
		r.size += len(row.New)
	default:
		row.New = r.keep(c.New)
	}
	row.CSN, row.Shard, row.Own = csn, shard, row.Own || r.Keep
	if row.Before && row.Old == nil && c.Old != nil {
		row.Old, row.OldKind = r.keep(c.Old), c.OldKind
	}
	return true
}

func (r *Rows) delete(shard pipeline.ShardID, csn pipeline.CSN, c *pipeline.Change) bool {
	row := r.find()
	switch {
	case row == nil:
		row = r.add()
		row.Before = true
	case row.New == nil, row.Shard != shard:
		return false
	}
	row.CSN, row.Shard, row.New, row.Own = csn, shard, nil, row.Own || r.Keep
	if row.Before {
		row.Deleted = true
		if row.Old == nil {
			row.Old, row.OldKind = r.keep(c.Old), c.OldKind
		}
	}
	return true
}

// merged is the row of r.now, with what it does not have from the row before.
func (r *Rows) merged(before pipeline.Tuple) pipeline.Tuple {
	r.old = before.Values(r.old[:0])
	size := 2
	for i := range r.now {
		if r.now[i].Kind == pipeline.Unchanged {
			r.now[i] = r.old[i]
		}
		size += 5 + len(r.now[i].Data)
	}
	t := binary.BigEndian.AppendUint16(r.arena.room(size)[:0], uint16(len(r.now)))
	for _, v := range r.now {
		t = append(t, v.Kind)
		if v.Kind == pipeline.Text {
			t = binary.BigEndian.AppendUint32(t, uint32(len(v.Data)))
			t = append(t, v.Data...)
		}
	}
	return pipeline.Tuple(t)
}

func (r *Rows) keep(t pipeline.Tuple) pipeline.Tuple {
	if !r.Keep || t == nil {
		return t
	}
	room := r.arena.room(len(t))
	copy(room, t)
	return pipeline.Tuple(room)
}

// find looks for the row of r.text.
func (r *Rows) find() *Row {
	if 2*len(r.rows) >= len(r.table) {
		r.grow()
	}
	r.hash = maphash.Bytes(r.seed, r.text)
	mask := len(r.table) - 1
	for r.at = int(r.hash) & mask; r.table[r.at] != 0; r.at = (r.at + 1) & mask {
		row := &r.rows[r.table[r.at]-1]
		if row.hash == r.hash && bytes.Equal(r.keys[row.key.from:row.key.to], r.text) {
			return row
		}
	}
	return nil
}

// add makes a row of r.text, which find has just not found.
func (r *Rows) add() *Row {
	from := len(r.keys)
	r.keys = append(r.keys, r.text...)
	r.rows = append(r.rows, Row{hash: r.hash, key: span{uint32(from), uint32(len(r.keys))}})
	r.table[r.at] = uint32(len(r.rows))
	return &r.rows[len(r.rows)-1]
}

func (r *Rows) grow() {
	r.table = make([]uint32, max(64, 2*len(r.table)))
	mask := len(r.table) - 1
	for i := range r.rows {
		at := int(r.rows[i].hash) & mask
		for r.table[at] != 0 {
			at = (at + 1) & mask
		}
		r.table[at] = uint32(i) + 1
	}
}

// arena is memory that is given up all at once.
type arena struct {
	blocks [][]byte
	full   int // blocks in front that have no room
}

const blockBytes = 64 << 10

// room is n bytes.
func (a *arena) room(n int) []byte {
	for ; a.full < len(a.blocks); a.full++ {
		b := a.blocks[a.full]
		if cap(b)-len(b) >= n {
			a.blocks[a.full] = b[:len(b)+n]
			return b[len(b) : len(b)+n : len(b)+n]
		}
	}
	a.blocks = append(a.blocks, make([]byte, n, max(n, blockBytes)))
	return a.blocks[a.full][:n:n]
}

// reset keeps some blocks of the usual size.
func (a *arena) reset() {
	kept := a.blocks[:0]
	for _, b := range a.blocks {
		if cap(b) == blockBytes && len(kept) < blocksKept {
			kept = append(kept, b[:0])
		}
	}
	clear(a.blocks[len(kept):])
	a.blocks, a.full = kept, 0
}

const blocksKept = 32
