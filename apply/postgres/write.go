package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage"
	"shardcdc/pipeline/moves"
)

// change is what an error needs to know about one row's statement. The tuples are views into the group.
type change struct {
	op       pipeline.Op
	csn      pipeline.CSN
	plan     *plan
	oldKind  byte
	old, new pipeline.Tuple
	folded   bool // of what was gathered: not in the order of the source
}

// expected is one result that is on its way.
type expected struct {
	what   what
	rows   int    // manyRows, copiedRows
	change change // of a prepare or a row
}

type what uint8

const (
	anything what = iota // any success will do
	oneRow
	upToOneRow // of a table that is being copied: the row may not be here yet
	noRow      // a look for what must not be
	manyRows   // of a statement for many rows
	copiedRows // the same, by COPY
	skipping   // writing down that a transaction is left out
	chunkEnd
)

// writer sends one group's statements and checks their results, in order. Its memory is two chunks: results are read
// before a third is begun, whatever the size of the transaction.
type writer struct {
	ctx     context.Context // of Apply
	s       *session
	p       *pgconn.Pipeline
	queue   []expected // results from head on are still to be read
	head    int
	chunks  int // syncs in the queue
	bytes   int // sent since the last sync
	unsent  int // of these, what a COPY left in the connection's buffer
	params  [][]byte
	formats []int16
	slab    []byte // keeps rows for errors, where the body does not; see named

	order order // of the transaction
	pass  pass
	visit func(*pipeline.Change) error // visited

	rows    int   // sent
	rowSize int64 // of these
	report  apply.Report

	gatheredRows, gatheredBytes int // changes in s.gathered

	inOrder bool // nothing is gathered: the attempt is careful, or the transaction's changes do not come in order
	once    bool // rows can be read once only: they still arrive
	careful bool // see apply.Group
}

// chunksMax: one chunk is being filled and sent while the server works on the other.
const chunksMax = 2

// transaction sends one source transaction.
func (w *writer) transaction(tx *pipeline.Transaction) error {
	w.inOrder = w.careful
	if truncates(tx) || moves.May(tx) {
		w.inOrder = true
		if err := w.flush(); err != nil {
			return err
		}
		alters, err := w.s.altersTables(tx)
		if err != nil {
			return at(tx.CSN, err)
		}
		if alters {
			return w.altering(tx)
		}
	}
	if err := w.resolve(tx); err != nil {
		return at(tx.CSN, err)
	}
	var err error
	w.order, err = w.s.order(tx)
	if err != nil {
		return at(tx.CSN, err)
	}
	for _, t := range w.order.truncates {
		w.p.SendQueryParams(t.sql, nil, nil, nil, nil)
		w.expect(expected{change: change{op: pipeline.Truncate, csn: tx.CSN, plan: t.plan}})
	}
	moved, err := w.s.moves(tx, &w.order)
	if err != nil {
		return at(tx.CSN, err)
	}
	if moved != nil {
		if err := w.changes(tx, moved, moves.First); err != nil {
			return err
		}
	}
	return w.changes(tx, moved, moves.InOrder)
}

// changes sends those of a transaction's changes that have this fate, in order.
func (w *writer) changes(tx *pipeline.Transaction, moved moves.Moved, chosen moves.Fate) error {
	if w.visit == nil {
		w.visit = w.visited
	}
	for n, f := range tx.Fragments {
		if moved.None(n, chosen) {
			continue // a large one need not be read
		}
		if f.Ops.Has(pipeline.Read) {
			if err := w.rowsOf(tx, f); err != nil {
				return at(tx.CSN, malformed(err))
			}
			continue
		}
		w.pass = pass{tx: tx, f: f, fragment: n, moved: moved, chosen: chosen, i: -1}
		walker := &w.s.walker
		if f.Content != nil {
			walker = new(pipeline.Walker) // it holds on to the last row
		}
		err := walker.Walk(f, w.visit)
		garbage.Left(w.pass.large)
		if err != nil {
			return at(tx.CSN, malformed(err))
		}
	}
	return nil
}

// pass is one reading of a fragment.
type pass struct {
	tx       *pipeline.Transaction
	f        *pipeline.Fragment
	fragment int
	moved    moves.Moved
	chosen   moves.Fate
	i        int // of the change
	large    int // bytes of the last large row
}

// visited takes the next change of the pass. It is w.visit: to make it a function anew for each fragment would cost memory.
func (w *writer) visited(c *pipeline.Change) error {
	ps := &w.pass
	ps.i++
	if size := len(c.Old) + len(c.New); size >= garbage.Large {
		// Walk has given up the buffer of the one before, and the messages of the stream that this one came in are read.
		garbage.Left(ps.large + size)
		ps.large = size
		defer w.letGo()
	}
	if ps.moved.Of(ps.fragment, ps.i) != ps.chosen || c.Op == pipeline.Truncate {
		return nil // a truncation was in order.truncates
	}
	if ps.chosen == moves.First && c.Op == pipeline.Update {
		gone := moves.Gone(c)
		c = &gone
	}
	if c.Op == pipeline.Message {
		return w.message(ps.tx, ps.f, c)
	}
	p, err := w.plan(ps.f.Shard, c.Relation)
	if err != nil || p.gone {
		return err
	}
	cp := w.s.copies.of(p)
	if w.order.wiped(ps.fragment, ps.i, p.table) || !cp.counts(ps.f.Shard) {
		return nil
	}
	return w.change(ps.tx.CSN, p, ps.f, c, cp.lenient())
}

// named is a change for the queue: an error names the row when its result comes. The bytes of a fragment that is not in memory
// are gone by then, so what names the row is copied. A slab lives as long as results of its changes are awaited.
func (w *writer) named(csn pipeline.CSN, p *plan, f *pipeline.Fragment, c *pipeline.Change) change {
	ch := change{op: c.Op, csn: csn, plan: p, oldKind: c.OldKind, old: c.Old, new: c.New}
	if f.Content == nil {
		return ch
	}
	ch.old, ch.new = w.lasting(c.Old, w.s.old), w.lasting(c.New, w.s.now)
	return ch
}

// lasting copies a tuple, of a large one only what a person is shown.
func (w *writer) lasting(t pipeline.Tuple, values row) pipeline.Tuple {
	if t == nil || len(t) > slabBytes {
		return shortened(t, values)
	}
	if cap(w.slab)-len(w.slab) < len(t) {
		w.slab = make([]byte, 0, slabBytes)
	}
	from := len(w.slab)
	w.slab = append(w.slab, t...)
	return pipeline.Tuple(w.slab[from:len(w.slab):len(w.slab)])
}

// slabBytes holds the rows of some chunks, and any row that is copied whole.
const slabBytes = 64 << 10

// shortened is a tuple with the beginnings of its values.
func shortened(t pipeline.Tuple, values row) pipeline.Tuple {
	if t == nil {
		return nil
	}
	short := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		short = append(short, v.Kind)
		if v.Kind == pipeline.Text || v.Kind == pipeline.Binary {
			data := v.Data[:min(len(v.Data), textBytes)]
			short = append(binary.BigEndian.AppendUint32(short, uint32(len(data))), data...)
		}
	}
	return short
}

// letGo forgets the last row's values, or they would be in memory until the next row comes.
func (w *writer) letGo() {
	clear(w.s.old)
	clear(w.s.now)
	clear(w.params)
}

// malformed: an error that is none of ours says that the rows are no rows.
func malformed(err error) error {
	var (
		blocked *apply.Blocked
		fatal   *apply.Fatal
		ours    *sendError
		read    *apply.ReadError
	)
	if err == nil || errors.As(err, &blocked) || errors.As(err, &fatal) || errors.As(err, &ours) || errors.As(err, &read) {
		return err
	}
	return &apply.Fatal{Problem: "the stream holds what cannot be read", Err: err}
}

// sendError marks errors of the connection and of results on their way through Walk.
type sendError struct{ error }

func (e *sendError) Unwrap() error { return e.error }

// change sends one row's change. lenient: the row may be missing, or be here already.
func (w *writer) change(csn pipeline.CSN, p *plan, f *pipeline.Fragment, c *pipeline.Change, lenient bool) error {
	w.rows++
	w.rowSize += int64(len(c.Old) + len(c.New))
	if !lenient {
		if took, err := w.gather(csn, p, f, c); took || err != nil {
			return err
		}
	}
	if err := w.before(p.table); err != nil {
		return err
	}
	s := w.s
	s.old, s.now = c.Old.Values(s.old[:0]), c.New.Values(s.now[:0])
	ch := w.named(csn, p, f, c)
	if lenient {
		return w.leniently(ch)
	}
	return w.single(ch)
}

// single sends a change by itself, with the values of s.old and s.now.
func (w *writer) single(ch change) error {
	var (
		s, p = w.s, ch.plan
		st   *statement
		err  error
	)
	switch ch.op {
	case pipeline.Insert, pipeline.Read:
		st, err = s.insert(p, s.now)
	case pipeline.Update:
		st, err = s.update(p, ch.oldKind, s.old, s.now)
	case pipeline.Delete:
		st, err = s.delete(p, ch.oldKind, s.old)
	default:
		err = unknownKind(ch.op)
	}
	if err != nil {
		return err
	}
	return w.row(st, oneRow, ch)
}

func unknownKind(op pipeline.Op) error {
	return &apply.Fatal{Problem: fmt.Sprintf("a change of kind %s cannot be applied", op), Try: "run a newer version"}
}

// row sends a statement for one row, with the values of s.old and s.now.
func (w *writer) row(st *statement, want what, ch change) error {
	if st.name == "" {
		w.prepare(st, ch)
	}
	w.bind(st)
	w.p.SendQueryPrepared(st.name, w.params, w.formats, nil)
	w.expect(expected{what: want, change: ch})
	return w.sent()
}

// sent sees to it that not more than some chunks are on their way.
func (w *writer) sent() error {
	if w.bytes < w.s.cfg.ChunkBytes {
		return nil
	}
	if err := w.sync(); err != nil {
		return &sendError{err}
	}
	for w.chunks >= chunksMax {
		if err := w.readChunk(); err != nil {
			return &sendError{err}
		}
	}
	return nil
}

// bind fills the parameters from s.old and s.now.
func (w *writer) bind(st *statement) {
	w.params, w.formats = w.params[:0], nil
	for n, p := range st.params {
		v := &w.s.now
		if p.old {
			v = &w.s.old
		}
		value := (*v)[p.column]
		w.params = append(w.params, value.Data)
		w.bytes += len(value.Data) + 4
		if value.Kind == pipeline.Binary {
			for len(w.formats) < len(st.params) {
				w.formats = append(w.formats, 0)
			}
			w.formats[n] = 1
		}
	}
	w.bytes += 64 // what a statement costs besides its values, here and in the answer
}

// prepare sends a new statement, and the oldest away at the limit.
func (w *writer) prepare(st *statement, ch change) {
	s := w.s
	if len(s.statements) >= s.cfg.Statements {
		oldest := s.statements[0]
		s.statements = s.statements[1:]
		delete(oldest.plan.prepared, oldest.key)
		w.p.SendDeallocate(oldest.name)
		w.expect(expected{})
	}
	s.serial++
	st.name = "cdc_" + strconv.Itoa(s.serial)
	s.statements = append(s.statements, st)
	st.plan.prepared[st.key] = st
	w.p.SendPrepare(st.name, st.sql, nil)
	w.expect(expected{change: ch})
	w.bytes += len(st.sql)
}

func (w *writer) send(statement string, params [][]byte, e expected) {
	w.p.SendQueryPrepared(statement, params, nil, nil)
	w.expect(e)
}

func (w *writer) expect(e expected) { w.queue = append(w.queue, e) }

func (w *writer) sync() error {
	defer w.s.waits()()
	if err := w.p.Sync(); err != nil {
		return fmt.Errorf("send to the target: %w", err)
	}
	if w.report.Sent != nil {
		w.report.Sent(w.rows, w.rowSize)
	}
	w.expect(expected{what: chunkEnd})
	w.chunks++
	garbage.Left(w.bytes) // the connection's buffer
	w.bytes, w.unsent = 0, 0
	return nil
}
