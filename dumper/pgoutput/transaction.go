package pgoutput

import (
	"errors"
	"fmt"

	"shardcdc/pipeline"
)

// begin takes B or b.
func (a *Assembler) begin(msg []byte) error {
	if a.current != nil {
		return errInside
	}
	f := a.slab.begin(msg[0] == 'b')
	f.Shard = a.shard
	r := readerOf(msg[1:])
	f.Start = pipeline.LSN(r.Uint64())
	if msg[0] == 'b' {
		f.End = pipeline.LSN(r.Uint64())
	}
	f.Time = pipeline.Timestamp(r.Uint64())
	f.XID = pipeline.XID(r.Uint32())
	if msg[0] == 'b' {
		f.GID = r.CString()
	}
	if err := r.end(); err != nil {
		return err
	}
	if msg[0] == 'b' && f.GID == "" {
		return errors.New("the gid is empty")
	}
	a.serial++
	a.ordinary = transaction{fragment: f, prepare: msg[0] == 'b', serial: a.serial}
	a.current = &a.ordinary
	return nil
}

// origin takes O: where the transaction came from. The name counts, the position there does not. It follows a begin or
// the start of a streamed transaction's first block, and carries no transaction's number in a block either.
func (a *Assembler) origin(msg []byte) error {
	t := a.current
	if t == nil {
		return errOutside
	}
	if t.fragment.Origin != "" || t.size > 0 || t.blocks > 1 {
		return errors.New("not directly after the begin")
	}
	r := readerOf(msg[1:])
	r.Uint64() // the position on the origin
	name := r.CString()
	if err := r.end(); err != nil {
		return err
	}
	if name == "" {
		return errors.New("the origin has no name")
	}
	t.fragment.Origin = name
	return nil
}

// commit takes C.
func (a *Assembler) commit(msg []byte) (pipeline.Record, error) {
	f := a.ordinary.fragment
	if f == nil || a.ordinary.prepare {
		return pipeline.Record{}, errors.New("without the B before")
	}
	r := readerOf(msg[1:])
	r.flags()
	start, end := pipeline.LSN(r.Uint64()), pipeline.LSN(r.Uint64())
	time := pipeline.Timestamp(r.Uint64())
	if err := r.end(); err != nil {
		return pipeline.Record{}, err
	}
	if start != f.Start || end <= start || time != f.Time {
		return pipeline.Record{}, fmt.Errorf("record %s..%s at %s does not match the begin: %s at %s",
			start, end, time, f.Start, f.Time)
	}
	f.End = end
	a.current = nil
	return a.finish(&a.ordinary, pipeline.Commit)
}

// prepared takes P. From PostgreSQL 18 on it comes without the b before if nothing of the transaction can be seen: because it
// only locked rows, or was rolled back before the server came to it.
func (a *Assembler) prepared(msg []byte) (pipeline.Record, error) {
	f := a.ordinary.fragment
	if a.current != nil && !a.ordinary.prepare {
		return pipeline.Record{}, errors.New("without the b before")
	}
	r := readerOf(msg[1:])
	r.flags()
	start, end := pipeline.LSN(r.Uint64()), pipeline.LSN(r.Uint64())
	time := pipeline.Timestamp(r.Uint64())
	xid, gid := pipeline.XID(r.Uint32()), r.CBytes()
	if err := r.end(); err != nil {
		return pipeline.Record{}, err
	}
	if f == nil && end > start && len(gid) > 0 {
		f = a.slab.begin(true)
		*f = pipeline.Fragment{Shard: a.shard, XID: xid, GID: string(gid), Start: start, End: end, Time: time}
		a.serial++
		a.ordinary = transaction{fragment: f, prepare: true, serial: a.serial}
	}
	if f == nil {
		return pipeline.Record{}, fmt.Errorf("record %s..%s gid %q: it ends before it begins, or has no gid", start, end, gid)
	}
	if start != f.Start || end != f.End || end <= start || time != f.Time || xid != f.XID || string(gid) != f.GID {
		return pipeline.Record{}, fmt.Errorf("record %s..%s at %s xid %d gid %q does not match the begin: %s..%s at %s xid %d gid %q",
			start, end, time, xid, gid, f.Start, f.End, f.Time, f.XID, f.GID)
	}
	a.current = nil
	return a.finish(&a.ordinary, pipeline.Prepare)
}

// secondPhase takes K or r. PostgreSQL does not say where a ROLLBACK PREPARED record begins: its Start is 0.
//
// A transaction whose PREPARE was received in an earlier session may be streamed once more, without an end: the server
// has its changes in memory again and may get rid of them. They are not needed.
func (a *Assembler) secondPhase(msg []byte) (pipeline.Record, error) {
	if a.current != nil {
		return pipeline.Record{}, errInside
	}
	rec := pipeline.Record{Kind: pipeline.CommitPrepared}
	r := readerOf(msg[1:])
	r.flags()
	if msg[0] == 'r' {
		rec.Kind = pipeline.RollbackPrepared
		rec.PrepareEnd, rec.End = pipeline.LSN(r.Uint64()), pipeline.LSN(r.Uint64())
		r.Uint64() // the time of the PREPARE
	} else {
		rec.Start, rec.End = pipeline.LSN(r.Uint64()), pipeline.LSN(r.Uint64())
	}
	rec.Time = pipeline.Timestamp(r.Uint64())
	rec.XID, rec.GID = pipeline.XID(r.Uint32()), r.CString()
	if err := r.end(); err != nil {
		return pipeline.Record{}, err
	}
	if rec.GID == "" {
		return pipeline.Record{}, errors.New("the gid is empty")
	}
	if rec.End <= rec.Start || rec.End <= rec.PrepareEnd {
		return pipeline.Record{}, fmt.Errorf("%s gid %q ends at %s, before it begins", rec.Kind, rec.GID, rec.End)
	}
	if t := a.streamed[rec.XID]; t != nil {
		delete(a.streamed, rec.XID)
		a.discard(t)
	}
	return rec, nil
}

// reader is a cursor that knows flags.
type reader struct {
	pipeline.Cursor
	odd byte // flags that are not zero
}

func readerOf(msg []byte) reader { return reader{Cursor: pipeline.CursorOf(msg)} }

// flags takes a byte that no version of the protocol uses yet.
func (r *reader) flags() {
	r.odd |= r.Byte()
}

// end checks that the message had exactly what was read.
func (r *reader) end() error {
	if err := r.End(); err != nil {
		return err
	}
	if r.odd != 0 {
		return fmt.Errorf("unknown flags %#x", r.odd)
	}
	return nil
}
