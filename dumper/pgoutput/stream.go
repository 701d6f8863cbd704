package pgoutput

import (
	"errors"
	"fmt"

	"shardcdc/pipeline"
)

// startBlock takes S.
func (a *Assembler) startBlock(msg []byte) error {
	if a.current != nil {
		return errInside
	}
	r := readerOf(msg[1:])
	xid := pipeline.XID(r.Uint32())
	first := r.Byte()
	if err := r.end(); err != nil {
		return err
	}
	t := a.streamed[xid]
	switch {
	case first > 1:
		return fmt.Errorf("first segment: %d", first)
	case first == 1 && t != nil:
		return fmt.Errorf("xid %d begins again", xid)
	case first == 0 && t == nil:
		return fmt.Errorf("xid %d goes on without a beginning", xid)
	case first == 1:
		a.serial++
		t = &transaction{
			fragment: &pipeline.Fragment{Shard: a.shard, XID: xid}, serial: a.serial, streamed: true,
			relations: make(map[uint32]*relation), writer: xid,
		}
		a.streamed[xid] = t
	}
	t.blocks++
	a.current = t
	return nil
}

// stopBlock takes E. Nothing is written to the body for a while.
func (a *Assembler) stopBlock(msg []byte) error {
	t := a.current
	if t == nil || !t.streamed {
		return errors.New("without the S before")
	}
	if len(msg) != 1 {
		return fmt.Errorf("%d bytes too many", len(msg)-1)
	}
	a.current = nil
	return t.park()
}

// ended finds the streamed transaction that a message outside of blocks ends.
func (a *Assembler) ended(xid pipeline.XID) (*transaction, error) {
	if a.current != nil {
		return nil, errInside
	}
	t := a.streamed[xid]
	if t == nil {
		return nil, fmt.Errorf("nothing was received of xid %d", xid)
	}
	return t, nil
}

// abort takes A. PostgreSQL sends it only of what it has streamed in this very session (the flag RBTXN_IS_STREAMED
// lives in the memory of the walsender), so an abort of a transaction without a block means that a block was lost.
//
// After it PostgreSQL takes none of the transaction's relations for described (cleanup_rel_sync_cache): the description
// may have been the view of the subtransaction that is gone.
func (a *Assembler) abort(msg []byte) error {
	r := readerOf(msg[1:])
	xid, sub := pipeline.XID(r.Uint32()), pipeline.XID(r.Uint32())
	if err := r.end(); err != nil {
		return err
	}
	t, err := a.ended(xid)
	if err != nil {
		return err
	}
	if sub == xid {
		delete(a.streamed, xid)
		a.discard(t)
		return nil
	}
	for _, r := range t.relations {
		r.described, r.usedIn = false, 0
	}
	return a.rollBack(t, sub)
}

// streamCommit takes c.
func (a *Assembler) streamCommit(msg []byte) (pipeline.Record, error) {
	r := readerOf(msg[1:])
	xid := pipeline.XID(r.Uint32())
	r.flags()
	start, end := pipeline.LSN(r.Uint64()), pipeline.LSN(r.Uint64())
	time := pipeline.Timestamp(r.Uint64())
	if err := r.end(); err != nil {
		return pipeline.Record{}, err
	}
	t, err := a.ended(xid)
	if err != nil {
		return pipeline.Record{}, err
	}
	if end <= start {
		return pipeline.Record{}, fmt.Errorf("the record of xid %d runs from %s to %s", xid, start, end)
	}
	delete(a.streamed, xid)
	a.learn(t)
	f := t.fragment
	f.Start, f.End, f.Time = start, end, time
	return a.finish(t, pipeline.Commit)
}

// learn takes over what a committed transaction described: PostgreSQL takes these relations for described from now on
// (cleanup_rel_sync_cache sets schema_sent), unless something changed since; then it forgets that they were, and
// describes them again before their next use. What was described in the session after the transaction's own description
// is that, so it stays.
func (a *Assembler) learn(t *transaction) {
	for id, r := range t.relations {
		if s := a.relations[id]; r.described && (s == nil || !s.described || s.arrived < r.arrived) {
			a.relations[id] = r
		}
	}
}

// streamPrepare takes p. PostgreSQL does not take the relations for described afterwards.
func (a *Assembler) streamPrepare(msg []byte) (pipeline.Record, error) {
	r := readerOf(msg[1:])
	r.flags()
	start, end := pipeline.LSN(r.Uint64()), pipeline.LSN(r.Uint64())
	time := pipeline.Timestamp(r.Uint64())
	xid, gid := pipeline.XID(r.Uint32()), r.CString()
	if err := r.end(); err != nil {
		return pipeline.Record{}, err
	}
	t, err := a.ended(xid)
	switch {
	case err != nil:
		return pipeline.Record{}, err
	case gid == "":
		return pipeline.Record{}, errors.New("the gid is empty")
	case end <= start:
		return pipeline.Record{}, fmt.Errorf("the record of xid %d gid %q runs from %s to %s", xid, gid, start, end)
	}
	delete(a.streamed, xid)
	f := t.fragment
	f.Start, f.End, f.Time, f.GID = start, end, time, gid
	return a.finish(t, pipeline.Prepare)
}
