package postgres

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"shardcdc/apply"
	"shardcdc/apply/postgres/net"
	"shardcdc/pipeline"
)

// Statements for many rows. Deletes and updates are joined with arrays of text, whose elements are cast to the columns'
// types; rows are inserted by COPY, whose data follows its statement in the pipeline without waiting for the target's go-ahead.
// (The protocol lets the server ignore the data if the statement fails.) The number of rows that the target touched must
// be the number of rows that were sent.

// From how many rows on one statement is cheaper than one for each; see docs/performance.md. They are variables for a test.
var (
	setMin  = 12
	copyMin = 12
)

// setRowsMax is how many rows one statement deletes or updates; it is also limited by Config.ChunkBytes.
var setRowsMax = 1000

// sets is memory for making such statements, used again and again.
type sets struct {
	deletes, updates, inserts []*net.Row
	masks                     []masked
	arrays                    [][]byte
	formats                   []int16
	text                      []byte
}

// masked are updates that set the same columns.
type masked struct {
	columns []byte // a letter for each column, as in updateSQL
	rows    []*net.Row
}

func (w *writer) deleteRows(p *plan) error {
	rows := w.s.sets.deletes
	if len(rows) < setMin {
		return w.each(p, pipeline.Delete, rows)
	}
	w.s.state = append(w.s.state[:0], 'E')
	st := w.s.statement(p, func() *statement { return p.deleteSetSQL() })
	return w.set(st, p, pipeline.Delete, rows)
}

// updateRows sends updates together that set the same columns.
func (w *writer) updateRows(p *plan) error {
	rows := w.s.sets.updates
	if len(rows) < setMin {
		return w.each(p, pipeline.Update, rows)
	}
	w.mask(p, rows)
	masks := w.s.sets.masks
	for i := range masks {
		m := &masks[i]
		if len(m.rows) < setMin || !slices.Contains(m.columns, colSet) {
			if err := w.each(p, pipeline.Update, m.rows); err != nil {
				return err
			}
			continue
		}
		w.s.state = append(append(w.s.state[:0], 'V'), m.columns...)
		st := w.s.statement(p, func() *statement { return p.updateSetSQL(m.columns) })
		if err := w.set(st, p, pipeline.Update, m.rows); err != nil {
			return err
		}
	}
	return nil
}

// mask sorts updates by the columns that they set.
func (w *writer) mask(p *plan, rows []*net.Row) {
	s := w.s
	masks := s.sets.masks[:0]
	for _, r := range rows {
		s.now = r.New.Values(s.now[:0])
		s.state = s.state[:0]
		for i, c := range p.columns {
			letter := byte(colSet)
			if s.now[i].Kind == pipeline.Unchanged || c.generated || contains(p.fold, i) {
				letter = colSkip
			}
			s.state = append(s.state, letter)
		}
		at := slices.IndexFunc(masks, func(m masked) bool { return string(m.columns) == string(s.state) })
		if at < 0 {
			at = len(masks)
			masks = slices.Grow(masks, 1)[:at+1] // with the memory of an earlier one
			masks[at] = masked{append(masks[at].columns[:0], s.state...), masks[at].rows[:0]}
		}
		masks[at].rows = append(masks[at].rows, r)
	}
	s.sets.masks = masks
}

// set sends a statement for every chunk of rows.
func (w *writer) set(st *statement, p *plan, op pipeline.Op, rows []*net.Row) error {
	s := w.s
	for len(rows) > 0 {
		s.sets.begin(len(st.params))
		n, bytes := 0, 0
		for ; n < min(len(rows), setRowsMax) && bytes < s.cfg.ChunkBytes; n++ {
			r := rows[n]
			s.old, s.now = r.Old.Values(s.old[:0]), r.New.Values(s.now[:0])
			bytes += s.sets.row(st, s.old, s.now)
		}
		s.sets.end(n)
		ch := change{op: op, csn: rows[n-1].CSN, plan: p}
		if st.name == "" {
			w.prepare(st, ch)
		}
		w.p.SendQueryPrepared(st.name, s.sets.arrays, s.sets.formats, nil)
		w.expect(expected{what: manyRows, rows: n, change: ch})
		w.bytes += bytes
		if err := w.sent(); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// The head of an array's binary form: dimensions, whether there are NULLs (nobody looks), the elements' type, their number, the
// first one's index.
const (
	arrayHead  = 20
	arrayCount = 12 // where the number is
	textOID    = 25
)

// begin begins n arrays.
func (s *sets) begin(n int) {
	for len(s.arrays) < n {
		s.arrays = append(s.arrays, nil)
	}
	s.arrays, s.formats = s.arrays[:n], s.formats[:0]
	for i := range s.arrays {
		a := binary.BigEndian.AppendUint32(s.arrays[i][:0], 1)
		a = binary.BigEndian.AppendUint32(a, 1)
		a = binary.BigEndian.AppendUint32(a, textOID)
		a = binary.BigEndian.AppendUint32(a, 0)
		s.arrays[i] = binary.BigEndian.AppendUint32(a, 1)
		s.formats = append(s.formats, 1)
	}
}

// row adds a value to each. A value of the old row, where there is none, is that of the new one.
func (s *sets) row(st *statement, old, now row) (bytes int) {
	for n, p := range st.params {
		from := now
		if p.old && len(old) > 0 {
			from = old
		}
		v := &from[p.column]
		if v.Kind == pipeline.Null {
			s.arrays[n] = append(s.arrays[n], 0xff, 0xff, 0xff, 0xff)
		} else {
			s.arrays[n] = append(binary.BigEndian.AppendUint32(s.arrays[n], uint32(len(v.Data))), v.Data...)
		}
		bytes += 4 + len(v.Data)
	}
	return bytes
}

func (s *sets) end(n int) {
	for _, a := range s.arrays {
		binary.BigEndian.PutUint32(a[arrayCount:arrayHead-4], uint32(n))
	}
}

func (p *plan) deleteSetSQL() *statement {
	b := &builder{plan: p}
	b.WriteString("DELETE FROM " + p.table.from() + " AS t USING ")
	b.joinSet(p.fold, nil)
	return b.statement()
}

// updateSetSQL: columns has a letter for each column; some are set.
func (p *plan) updateSetSQL(columns []byte) *statement {
	b := &builder{plan: p}
	b.WriteString("UPDATE " + p.table.from() + " AS t SET ")
	var at []int
	for i, what := range columns {
		if what == colSet {
			c := p.columns[i]
			b.WriteString(separator(len(at), "", ", ") + fmt.Sprintf("%s = x.v%d::%s", quote(c.name), i, c.typ))
			at = append(at, i)
		}
	}
	b.WriteString(" FROM ")
	b.joinSet(p.fold, at)
	return b.statement()
}

// joinSet gives the arrays, of the key and of values, and finds rows by the key.
func (b *builder) joinSet(key, values []int) {
	names := ""
	add := func(old bool, letter string, i int) {
		b.params = append(b.params, param{old, i})
		b.WriteString(fmt.Sprintf("%s$%d::text[]", separator(len(b.params)-1, "unnest(", ", "), len(b.params)))
		names += fmt.Sprintf("%s%s%d", separator(len(b.params)-1, "", ", "), letter, i)
	}
	for _, i := range key {
		add(true, "k", i)
	}
	for _, i := range values {
		add(false, "v", i)
	}
	b.WriteString(") AS x(" + names + ")")
	for n, i := range key {
		c := b.plan.columns[i]
		b.WriteString(separator(n, " WHERE ", " AND ") + fmt.Sprintf("t.%s %s x.k%d::%s", quote(c.name), c.equal, i, c.typ))
	}
}

// insertRows sends new rows.
func (w *writer) insertRows(p *plan) error {
	rows := w.s.sets.inserts
	if len(rows) < copyMin {
		return w.each(p, pipeline.Insert, rows)
	}
	s := w.s
	s.state = append(s.state[:0], 'Y')
	st := s.statement(p, func() *statement {
		return &statement{sql: p.copySQL(p.table.name.String()), plan: p, columns: p.written()}
	})
	ch := change{op: pipeline.Insert, csn: rows[len(rows)-1].CSN, plan: p}
	if st.name == "" {
		w.prepare(st, ch)
	}
	front := s.conn.Frontend()
	front.SendBind(&pgproto3.Bind{PreparedStatement: st.name})
	front.SendExecute(&pgproto3.Execute{})
	text := s.sets.text[:0]
	for _, r := range rows {
		s.now = r.New.Values(s.now[:0])
		text = appendCopyRow(text, st.columns, s.now)
		if len(text) >= chunkBytes {
			if err := w.copyData(text); err != nil {
				return err
			}
			text = text[:0]
		}
	}
	s.sets.text = text[:0]
	if err := w.copyData(text); err != nil {
		return err
	}
	front.Send(&pgproto3.CopyDone{})
	w.expect(expected{what: copiedRows, rows: len(rows), change: ch})
	return w.sent()
}

// appendCopyRow adds a line of COPY's text form.
func appendCopyRow(text []byte, columns []int, values row) []byte {
	for n, i := range columns {
		if n > 0 {
			text = append(text, '\t')
		}
		if v := &values[i]; v.Kind == pipeline.Null {
			text = append(text, '\\', 'N')
		} else {
			text = appendCopyText(text, v.Data)
		}
	}
	return append(text, '\n')
}

// copyData sends text of a COPY. There can be no sync in the middle of it, but what is sent need not wait for one.
func (w *writer) copyData(text []byte) error {
	w.s.conn.Frontend().Send(&pgproto3.CopyData{Data: text})
	w.bytes += len(text)
	if w.unsent += len(text); w.unsent < w.s.cfg.ChunkBytes {
		return nil
	}
	w.unsent = 0
	defer w.s.waits()()
	if err := w.p.Flush(); err != nil {
		return &sendError{fmt.Errorf("send to the target: %w", err)}
	}
	return nil
}

// copied reads the result of a COPY, which the pipeline knows nothing of.
func (w *writer) copied() (any, error) {
	defer w.s.waits()()
	for {
		msg, err := w.s.conn.Frontend().Receive()
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.CommandComplete:
			return pgconn.NewCommandTag(string(m.CommandTag)), nil
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.BindComplete, *pgproto3.CopyInResponse, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			return nil, fmt.Errorf("%T in answer to COPY", msg)
		}
	}
}

// wrongNumber: a statement for many rows touched another number of them. Which rows that were, a careful attempt finds out.
func (w *writer) wrongNumber(e *expected, rows int64) error {
	w.s.target.ordered.add(e.change.plan.table)
	return &apply.Blocked{
		CSN: e.change.csn, Table: e.change.plan.table.name.String(),
		Problem: fmt.Sprintf("%s: %d rows of the target match %d of the source", e.change.op, rows, e.rows),
		Try:     "wait: they are tried one by one",
	}
}
