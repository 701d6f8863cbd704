package mysql

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	driver "github.com/go-sql-driver/mysql"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/moves"
)

// writer sends one group's statements and checks how many rows each found, in order. Statements go in pieces: several in one, and
// rows of the same table that are inserted one after the other in one statement. Its memory is one piece.
type writer struct {
	ctx     context.Context // of Apply
	s       *session
	report  apply.Report
	careful bool // every statement by itself, so that an error names its row

	piece    []byte     // statements that are not sent yet
	expected []expected // their results
	open     *plan      // the last statement is an INSERT on it, to which rows may be added
	upserts  bool       // it is one of those that replace rows

	order order
	moved moves.Moved

	old, now row // scratch of one change
	rows     int
	rowBytes int64
}

// expected is what one statement has to find.
type expected struct {
	op        pipeline.Op
	csn       pipeline.CSN
	plan      *plan
	low, high int64
	row       string // in a careful attempt
}

// room is what a packet has besides statements.
const room = 1 << 10

// transaction sends one source transaction.
func (w *writer) transaction(tx *pipeline.Transaction) (err error) {
	if w.order, err = w.s.orderOf(tx); err != nil {
		return err
	}
	for _, t := range w.order.tables {
		w.begin()
		w.piece = append(w.piece, "DELETE FROM "+t.table.name.String()...)
		if err := w.end(expected{op: pipeline.Truncate, csn: tx.CSN, plan: t, high: 1 << 62}); err != nil {
			return err
		}
	}
	if w.moved, err = w.findMoves(tx); err != nil {
		return err
	}
	if w.moved != nil {
		if err := w.changes(tx, moves.First); err != nil {
			return err
		}
	}
	return w.changes(tx, moves.InOrder)
}

func (w *writer) findMoves(tx *pipeline.Transaction) (moves.Moved, error) {
	if !moves.May(tx) {
		return nil, nil
	}
	if n := moves.Remembered(tx); n > w.s.cfg.MovesMax {
		return nil, &apply.Blocked{
			Problem: fmt.Sprintf("rows may move between shards in this transaction, and finding out which would take the memory of %d changes; the limit is %d",
				n, w.s.cfg.MovesMax),
			Try: fmt.Sprintf("start the worker with --moves-max %d or more (about 150 bytes of memory each); it goes on by itself", n),
		}
	}
	moved, err := moves.Find(tx, w)
	return moved, malformed(err)
}

// Row is described by moves.Rows. What a TRUNCATE wiped is not sent at all.
func (w *writer) Row(fragment, i int, c *pipeline.Change) (moves.Row, error) {
	p, err := w.s.plan(w.ctx, c.Relation)
	if err != nil {
		return moves.Row{}, ours(err)
	}
	if w.order.wiped(fragment, i, p.table) {
		return moves.Row{}, nil
	}
	r := moves.Row{Table: p.table, Key: p.identity, Emptied: w.order.empties(p.table)}
	if c.Relation.Identity == 'f' {
		r.Key = p.full
	}
	return r, nil
}

// changes sends those of a transaction's changes that have this fate, in order.
func (w *writer) changes(tx *pipeline.Transaction, chosen moves.Fate) error {
	for n, f := range tx.Fragments {
		if w.moved.None(n, chosen) {
			continue // a large one need not be read
		}
		i := -1
		err := f.Walk(func(c *pipeline.Change) error {
			i++
			if w.moved.Of(n, i) != chosen || c.Op == pipeline.Truncate {
				return nil // a truncation was in order
			}
			if chosen == moves.First && c.Op == pipeline.Update {
				gone := moves.Gone(c)
				c = &gone
			}
			if c.Op == pipeline.Message {
				return ours(w.message(tx, f, c))
			}
			p, err := w.s.plan(w.ctx, c.Relation)
			if err != nil {
				return ours(err)
			}
			cp := w.s.copies.of(p)
			if w.order.wiped(n, i, p.table) || !cp.counts(f.Shard) {
				return nil
			}
			return ours(w.change(tx.CSN, p, c, cp))
		})
		if err != nil {
			return malformed(err)
		}
	}
	return nil
}

func ours(err error) error {
	if err == nil {
		return nil
	}
	return &sendError{err}
}

// message deals with a logical message: with what shardcdc itself says in the stream; others are for other readers.
func (w *writer) message(tx *pipeline.Transaction, f *pipeline.Fragment, c *pipeline.Change) error {
	if d, ok, err := mark.DDLOf(c); ok || err != nil {
		if err != nil {
			return malformed(err)
		}
		return w.s.ddl(&d)
	}
	m, ok, err := mark.CopyOf(c)
	if !ok || err != nil {
		return malformed(err)
	}
	if err := w.flush(); err != nil {
		return err
	}
	return w.s.copyMark(w.ctx, tx.CSN, f.Shard, &m, false)
}

// change sends one row's change.
func (w *writer) change(csn pipeline.CSN, p *plan, c *pipeline.Change, cp *copyOf) (err error) {
	w.rows++
	w.rowBytes += int64(len(c.Old) + len(c.New))
	w.old, w.now = c.Old.Values(w.old[:0]), c.New.Values(w.now[:0])
	if len(c.Old)+len(c.New) > w.s.chunk/2 { // a large row goes by itself: it may be all that a packet holds
		if err := w.flush(); err != nil {
			return err
		}
	}
	e := expected{op: c.Op, csn: csn, plan: p, low: 1, high: 1}
	if w.careful {
		e.row = p.rowText(c)
	}
	if cp.lenient() {
		return w.leniently(e, c, cp)
	}
	switch c.Op {
	case pipeline.Insert, pipeline.Read:
		return w.insert(e, false)
	case pipeline.Update:
		w.begin()
		w.piece, err = p.appendUpdate(w.piece, c.OldKind, w.old, w.now)
	case pipeline.Delete:
		w.begin()
		w.piece, err = p.appendDelete(w.piece, c.OldKind, w.old)
	default:
		err = unknownKind(c.Op)
	}
	if err != nil {
		return err
	}
	return w.end(e)
}

func unknownKind(op pipeline.Op) error {
	return &apply.Fatal{Problem: fmt.Sprintf("a change of kind %s cannot be applied", op), Try: "run a newer version"}
}

// insert adds the row of w.now: to the last statement, if it inserts into the same table. An upsert counts a row that is new once,
// and one that is replaced twice, or once if it stays the same.
func (w *writer) insert(e expected, upsert bool) (err error) {
	p := e.plan
	joins := w.open == p && w.upserts == upsert
	switch {
	case joins:
		w.piece = append(w.piece, ',', ' ')
	default:
		w.begin()
		w.piece = append(w.piece, p.insert...)
	}
	if w.piece, err = p.appendRow(w.piece, w.now); err != nil {
		return err
	}
	if upsert {
		e.high = 2
	}
	if joins {
		last := &w.expected[len(w.expected)-1]
		last.low, last.high = last.low+e.low, last.high+e.high
		return w.sent()
	}
	w.open, w.upserts = p, upsert
	return w.end(e)
}

// begin separates the next statement from the ones before.
func (w *writer) begin() {
	w.close()
	if len(w.piece) > 0 {
		w.piece = append(w.piece, ";\n"...)
	}
}

// close ends an INSERT to which rows were added.
func (w *writer) close() {
	if w.open != nil && w.upserts {
		w.piece = append(w.piece, w.open.replace...)
	}
	w.open = nil
}

// end notes what the statement has to find.
func (w *writer) end(e expected) error {
	w.expected = append(w.expected, e)
	return w.sent()
}

// sent sends what there is when it is enough.
func (w *writer) sent() error {
	if w.careful || len(w.piece) >= w.s.chunk {
		return w.flush()
	}
	return nil
}

// flush sends everything and checks the results.
func (w *writer) flush() error {
	w.close()
	if len(w.piece) == 0 {
		return nil
	}
	if len(w.piece) > w.s.packetMax-room && len(w.expected) > 0 {
		return w.tooLarge()
	}
	found, err := w.s.execAll(w.ctx, string(w.piece))
	expected := w.expected
	w.piece, w.expected = w.piece[:0], w.expected[:0]
	if cap(w.piece) > 4*w.s.chunk {
		w.piece = nil
	}
	if err != nil {
		return failed(expected, err)
	}
	if len(found) != len(expected) {
		return fmt.Errorf("the target answered %d statements of %d", len(found), len(expected))
	}
	for i, n := range found {
		if e := &expected[i]; n < e.low || n > e.high {
			return e.wrongRows(n)
		}
	}
	if w.report.Sent != nil {
		w.report.Sent(w.rows, w.rowBytes)
	}
	return nil
}

// tooLarge: what is larger than a chunk is so because of its last row.
func (w *writer) tooLarge() error {
	e := &w.expected[len(w.expected)-1]
	return &apply.Blocked{
		CSN: e.csn, Table: e.plan.table.name.String(), Row: e.row,
		Problem: fmt.Sprintf("a row takes a statement of %d bytes, and the target's max_allowed_packet is %d", len(w.piece), w.s.packetMax),
		Try:     "SET GLOBAL max_allowed_packet to more on the target (1 GiB at most), and in its configuration; it goes on by itself",
	}
}

// failed says which statement an error is about, if there was one only.
func failed(sent []expected, err error) error {
	var my *driver.MySQLError
	if !errors.As(err, &my) {
		return fmt.Errorf("apply: %w", err)
	}
	e := &sent[0]
	if len(sent) > 1 {
		return classify(fmt.Errorf("one of %d statements: %w", len(sent), err), nil)
	}
	return classify(fmt.Errorf("%s: %w", e.op, err), &apply.Blocked{CSN: e.csn, Table: e.plan.table.name.String(), Row: e.row})
}

// wrongRows: a statement touched other rows than it should have.
func (e *expected) wrongRows(n int64) error {
	b := &apply.Blocked{CSN: e.csn, Table: e.plan.table.name.String(), Row: e.row}
	switch {
	case e.op == pipeline.Insert, e.op == pipeline.Read:
		b.Problem = fmt.Sprintf("%s: the target counted %d rows, not %d", e.op, n, e.low)
		b.Try = "drop the trigger on the target that does it; it goes on by itself"
	case n == 0:
		b.Problem = fmt.Sprintf("%s: the row is not on the target", e.op)
		b.Try = "find out who else writes to this table; INSERT the row as it is on the source, and it goes on by itself"
	default:
		b.Problem = fmt.Sprintf("%s: %d rows of the target match one of the source", e.op, n)
		b.Try = "DELETE the surplus rows, then create the source's primary key on the target; it goes on by itself"
	}
	return b
}

// leniently sends a change of a table that is being copied: the row may not be here yet, or be here from before. What is
// not here yet comes with its chunk, as it is then.
func (w *writer) leniently(e expected, c *pipeline.Change, cp *copyOf) (err error) {
	p := e.plan
	if p.upsert == nil {
		return p.table.keyless()
	}
	switch c.Op {
	case pipeline.Insert, pipeline.Read:
		return w.upsert(e)
	case pipeline.Update:
		if cp.merge && c.OldKind == pipeline.OldKey && w.keyChanged(p) {
			if err := w.makeRoom(e); err != nil {
				return err
			}
		}
		w.begin()
		w.piece, err = p.appendUpdate(w.piece, c.OldKind, w.old, w.now)
	case pipeline.Delete:
		w.begin()
		w.piece, err = p.appendDelete(w.piece, c.OldKind, w.old)
	default:
		err = unknownKind(c.Op)
	}
	if err != nil {
		return err
	}
	e.low = 0
	return w.end(e)
}

// upsert makes the row as it is sent.
func (w *writer) upsert(e expected) (err error) {
	if e.plan.replace != "" {
		return w.insert(e, true)
	}
	w.begin()
	if w.piece, err = e.plan.appendDeleteBy(w.piece, e.plan.upsert, w.now); err != nil {
		return err
	}
	gone := e
	gone.op, gone.low = pipeline.Delete, 0
	if err := w.end(gone); err != nil {
		return err
	}
	return w.insert(e, false)
}

func (w *writer) keyChanged(p *plan) bool {
	for _, i := range p.identity {
		if !bytes.Equal(w.old[i].Data, w.now[i].Data) {
			return true
		}
	}
	return false
}

// makeRoom deletes a row from before the copy that has the new key of an update, which nobody has on the source; unless the old key is
// equal to it here.
func (w *writer) makeRoom(e expected) (err error) {
	p := e.plan
	w.begin()
	if w.piece, err = p.appendDeleteBy(w.piece, p.identity, w.now); err != nil {
		return err
	}
	w.piece = append(w.piece, " AND NOT ("...)
	if w.piece, err = p.appendKey(w.piece, p.identity, w.old); err != nil {
		return err
	}
	w.piece = append(w.piece, ')')
	e.op, e.low = pipeline.Delete, 0
	return w.end(e)
}
