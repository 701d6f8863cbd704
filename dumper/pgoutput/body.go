package pgoutput

import (
	"encoding/binary"
	"fmt"
	"slices"

	"shardcdc/pipeline"
)

// Limits say how much of transactions half received is kept in memory. The zero value of a number means its default.
type Limits struct {
	SpillAfter int // bytes of one body; 8 MiB
	OpenMax    int // bytes of all bodies half received; 64 MiB
	// Spill makes a place for a body that is too large for memory. Nil: bodies stay in memory, whatever their size.
	Spill func() (Spill, error)
}

// Spill is a body's place outside of memory. One goroutine writes it; Seal ends that, and only then it is opened. After
// an error nothing but Release is called. Release may come at any time.
type Spill interface {
	pipeline.Content
	Write(p []byte) (int, error)
	Truncate(size int64) error
	// Park says that nothing may be written for long: what was gathered in memory is written out.
	Park() error
	Seal() error
}

func (l Limits) withDefaults() Limits {
	if l.SpillAfter == 0 {
		l.SpillAfter = 8 << 20
	}
	if l.OpenMax == 0 {
		l.OpenMax = 64 << 20
	}
	return l
}

// SpillError says that a body could not be written to its place outside of memory.
type SpillError struct {
	XID pipeline.XID
	Err error
}

func (e *SpillError) Error() string {
	return fmt.Sprintf("keep the changes of xid %d outside of memory: %v", e.XID, e.Err)
}
func (e *SpillError) Unwrap() error { return e.Err }

// transaction is one half received.
type transaction struct {
	fragment *pipeline.Fragment
	prepare  bool   // it began with b, not with B
	serial   uint64 // of no other transaction
	size     int64  // of the body
	spill    Spill  // the body is there; nil: it is in fragment.Body

	// Of a streamed one only.
	streamed  bool
	blocks    int
	relations map[uint32]*relation // as it described them itself
	writer    pipeline.XID         // the last one that entered
	subs      []point              // subtransactions in the order of their first changes
	places    map[pipeline.XID]int // in subs
}

// point is what a fragment was before a subtransaction's first change.
type point struct {
	xid           pipeline.XID
	offset        int64
	changes       int
	uses, decides int
}

// enter notes that a change of this subtransaction, or of the transaction itself, comes next.
func (t *transaction) enter(xid pipeline.XID) {
	if xid == t.writer {
		return
	}
	t.writer = xid
	if xid == t.fragment.XID {
		return
	}
	if _, ok := t.places[xid]; ok {
		return
	}
	if t.places == nil {
		t.places = make(map[pipeline.XID]int)
	}
	f := t.fragment
	t.places[xid] = len(t.subs)
	t.subs = append(t.subs, point{xid, t.size, f.Changes, len(f.Relations), len(f.Decides)})
}

// rollBack takes away what a subtransaction did: everything from its first change on. The package's doc says why that is
// exact.
func (a *Assembler) rollBack(t *transaction, sub pipeline.XID) error {
	i, ok := t.places[sub]
	if !ok {
		return nil
	}
	p := t.subs[i]
	for _, gone := range t.subs[i:] {
		delete(t.places, gone.xid)
	}
	t.subs = t.subs[:i]
	t.writer = t.fragment.XID // of the others each is looked up again
	f := t.fragment
	if t.spill == nil {
		a.memory -= len(f.Body) - int(p.offset)
		if f.Body = f.Body[:p.offset]; len(f.Body) == 0 {
			f.Body = nil
		}
	} else {
		if err := t.spill.Truncate(p.offset); err != nil {
			return &SpillError{f.XID, err}
		}
		a.spilled -= t.size - p.offset
	}
	t.size = p.offset
	f.Changes, f.Relations, f.Decides = p.changes, f.Relations[:p.uses], f.Decides[:p.decides]
	return nil
}

// append adds a message to the body of the current transaction.
func (a *Assembler) append(msg []byte) error {
	t := a.current
	need := 4 + len(msg)
	if a.limits.Spill != nil {
		if err := a.makeRoom(t, need); err != nil {
			return err
		}
	}
	t.size += int64(need)
	f := t.fragment
	if t.spill != nil {
		a.spilled += int64(need)
		f.Count(msg)
		binary.BigEndian.PutUint32(a.length[:], uint32(len(msg)))
		return t.write(a.length[:], msg)
	}
	a.memory += need
	if len(f.Body)+need > cap(f.Body) {
		a.grow(t, need)
	}
	f.Append(msg)
	return nil
}

// grow makes room in memory for need more bytes.
func (a *Assembler) grow(t *transaction, need int) {
	f := t.fragment
	if t.streamed {
		f.Body = slices.Grow(f.Body, room(len(f.Body), len(f.Body)+need))
	} else {
		f.Body = a.slab.grow(f.Body, need)
	}
}

func (t *transaction) write(parts ...[]byte) error {
	for _, p := range parts {
		if _, err := t.spill.Write(p); err != nil {
			return &SpillError{t.fragment.XID, err}
		}
	}
	return nil
}

// room is how many bytes to make room for: enough that a body is copied a handful of times while it grows
// (twice as large each time), but never more than 64 MB too much.
func room(have, need int) int {
	return max(need-have, min(max(have, 256), 64<<20))
}

// makeRoom spills the body of t when it grows too large, and the largest bodies of all when they do together: small
// transactions stay in memory beside large ones.
func (a *Assembler) makeRoom(t *transaction, need int) error {
	if t.spill == nil && t.size+int64(need) > int64(a.limits.SpillAfter) {
		if err := a.moveOut(t); err != nil {
			return err
		}
	}
	for t.spill == nil && a.memory+need > a.limits.OpenMax {
		largest := t
		for _, other := range a.streamed {
			if other.spill == nil && other.size > largest.size {
				largest = other
			}
		}
		if err := a.moveOut(largest); err != nil {
			return err
		}
	}
	return nil
}

// moveOut takes a body out of memory.
func (a *Assembler) moveOut(t *transaction) error {
	f := t.fragment
	spill, err := a.limits.Spill()
	if err != nil {
		return &SpillError{f.XID, err}
	}
	t.spill = spill
	body := f.Body
	f.Body = nil
	a.memory -= len(body)
	a.spilled += int64(len(body))
	if err := t.write(body); err != nil {
		return err
	}
	if t != a.current {
		return t.park()
	}
	return nil
}

func (t *transaction) park() error {
	if t.spill == nil {
		return nil
	}
	if err := t.spill.Park(); err != nil {
		return &SpillError{t.fragment.XID, err}
	}
	return nil
}

// forget ends the accounts of a transaction.
func (a *Assembler) forget(t *transaction) {
	if t.spill == nil {
		a.memory -= len(t.fragment.Body)
	} else {
		a.spilled -= t.size
	}
	if !t.streamed {
		a.ordinary = transaction{}
	}
}

// discard drops what was received of a transaction.
func (a *Assembler) discard(t *transaction) {
	spill := t.spill
	a.forget(t)
	if spill != nil {
		spill.Release()
	}
}

// finish makes the record of a transaction that is whole.
func (a *Assembler) finish(t *transaction, kind pipeline.RecordKind) (pipeline.Record, error) {
	f, spill := t.fragment, t.spill
	for _, p := range t.subs {
		a.kept = append(a.kept, p.xid)
	}
	streamed := t.streamed
	a.forget(t)
	if !streamed {
		a.slab.end(f, kind == pipeline.Prepare)
	}
	switch {
	case spill == nil:
	case f.Changes == 0:
		spill.Release()
	default:
		if err := spill.Seal(); err != nil {
			spill.Release()
			return pipeline.Record{}, &SpillError{f.XID, err}
		}
		f.Content = spill
	}
	return pipeline.Record{
		Kind: kind, Fragment: f, GID: f.GID, XID: f.XID, Start: f.Start, End: f.End, Time: f.Time,
	}, nil
}
