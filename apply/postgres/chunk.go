package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage"
	"shardcdc/pipeline/mark"
)

// rowsOf takes a fragment with the rows of a chunk, behind its mark.
func (w *writer) rowsOf(tx *pipeline.Transaction, f *pipeline.Fragment) error {
	if len(f.Relations) != 1 {
		return fmt.Errorf("a chunk of copied rows has %d versions of tables, want 1", len(f.Relations))
	}
	p, err := w.plan(f.Shard, f.Relations[0].Relation)
	if err != nil || p.gone {
		return err
	}
	c := w.chunkOf(tx, f, p)
	defer func() { _ = c.close() }()
	m, err := c.begin()
	if err != nil {
		return err
	}
	cp := w.s.copies.of(p)
	switch keyed := m.Tables[0].Keyed; {
	case keyed && (w.careful || len(p.written()) == 0):
		return w.eachRow(c, true)
	case keyed && p.upsert == nil:
		return p.table.keyless()
	case keyed:
		return w.aside(func(ctx context.Context) error { return w.loadKeyed(ctx, c, cp) })
	case cp == nil:
		return &apply.Blocked{
			Table: p.table.name.String(), Problem: fmt.Sprintf("rows of a copy (%s) of which the target does not know the beginning", m.Job),
			Try: "cdcctl skip, and copy the table anew (cdcctl resync)",
		}
	case cp.job != m.Job:
		return nil // the table is copied anew since, and these rows come once more
	case cp.arrived[f.Shard]:
		return nil // they are here, and changed since by what the shard did
	}
	if w.careful || len(p.written()) == 0 {
		err = w.eachRow(c, false)
	} else {
		err = w.aside(func(ctx context.Context) error { return w.copyIn(ctx, c, p.table.name.String()) })
	}
	if err != nil {
		return err
	}
	return w.aside(func(ctx context.Context) error { return w.s.copyMark(ctx, tx.CSN, f.Shard, m, false) })
}

// loadKeyed loads rows that may be here already. COPY cannot replace a row: where it meets one it is undone, and from then on
// rows of this table take the way round.
func (w *writer) loadKeyed(ctx context.Context, c *chunk, cp *copyOf) error {
	if w.once || cp == nil || cp.conflicts {
		return w.copyAround(ctx, c)
	}
	if err := w.s.exec(ctx, "SAVEPOINT cdc_rows"); err != nil {
		return err
	}
	err := w.copyIn(ctx, c, c.plan.table.name.String())
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "23505" {
		if err != nil {
			return err
		}
		return w.s.exec(ctx, "RELEASE cdc_rows")
	}
	cp.conflicts = true
	if err := w.s.exec(ctx, "ROLLBACK TO cdc_rows; RELEASE cdc_rows"); err != nil {
		return err
	}
	w.rows, w.rowSize = w.rows-c.rows, w.rowSize-c.size
	again := w.chunkOf(c.tx, c.fragment, c.plan)
	defer func() { _ = again.close() }()
	if _, err := again.begin(); err != nil {
		return err
	}
	return w.copyAround(ctx, again)
}

// copyAround loads the rows into a table of the session, and from there into the target's.
func (w *writer) copyAround(ctx context.Context, c *chunk) error {
	p := c.plan
	names := p.columnList()
	err := w.s.exec(ctx, "CREATE TEMPORARY TABLE cdc_rows ON COMMIT DROP AS SELECT "+names+" FROM "+p.table.name.String()+" WITH NO DATA")
	if err != nil {
		err = blockedIfRight(fmt.Errorf("make a temporary table for copied rows: %w", err),
			fmt.Sprintf("GRANT TEMPORARY ON DATABASE … TO %s, and SELECT ON %s; it goes on by itself", quote(w.s.user()), p.table.name))
		return c.failed(err)
	}
	if err := w.copyIn(ctx, c, "pg_temp.cdc_rows"); err != nil {
		return err
	}
	b := &builder{plan: p}
	if p.replaces() {
		b.WriteString("DELETE FROM " + p.table.from() + " AS t USING pg_temp.cdc_rows AS s")
		for n, i := range p.upsert {
			col := p.columns[i]
			b.WriteString(separator(n, " WHERE ", " AND ") + "t." + quote(col.name) + " " + col.equal + " s." + quote(col.name))
		}
		b.WriteString("; ")
	}
	b.WriteString("INSERT INTO " + p.table.name.String() + " (" + names + ") OVERRIDING SYSTEM VALUE SELECT " + names + " FROM pg_temp.cdc_rows")
	if !p.replaces() {
		b.onConflict(p.written())
	}
	rows, err := w.s.run(ctx, b.String())
	if err != nil {
		return c.failed(err)
	}
	if err := c.all(rows); err != nil {
		return err
	}
	return w.s.exec(ctx, "DROP TABLE pg_temp.cdc_rows")
}

// eachRow sends every row in a statement of its own, so that an error names it.
func (w *writer) eachRow(c *chunk, keyed bool) error {
	c.each = true
	for {
		if _, more := c.next(); !more {
			return c.err
		}
		if err := w.change(c.tx.CSN, c.plan, c.fragment, c.now, keyed); err != nil {
			return err
		}
	}
}

// run executes statements without results; rows is what the last one did.
func (s *session) run(ctx context.Context, sql string) (rows int64, err error) {
	defer s.waits()()
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return 0, err
	}
	return results[len(results)-1].CommandTag.RowsAffected(), nil
}

func (p *plan) columnList() string {
	var b strings.Builder
	for n, i := range p.written() {
		b.WriteString(separator(n, "", ", ") + quote(p.columns[i].name))
	}
	return b.String()
}

// copySQL is a COPY, in text form, into a table with these columns.
func (p *plan) copySQL(table string) string {
	return "COPY " + table + " (" + p.columnList() + ") FROM STDIN"
}

// copyIn sends the rows by COPY.
func (w *writer) copyIn(ctx context.Context, c *chunk, table string) error {
	done := w.s.waits()
	tag, err := w.s.conn.CopyFrom(ctx, c, c.plan.copySQL(table))
	done()
	if read := c.close(); read != nil {
		return read // not the target's fault
	}
	if err != nil {
		return c.failed(err)
	}
	return c.all(tag.RowsAffected())
}

// all checks that the target took every row.
func (c *chunk) all(rows int64) error {
	if rows == int64(c.rows) {
		return nil
	}
	return &apply.Blocked{
		CSN: c.tx.CSN, Table: c.plan.table.name.String(), Problem: fmt.Sprintf("copy: %d of %d rows were swallowed on the target", int64(c.rows)-rows, c.rows),
		Try: "drop the trigger ENABLEd REPLICA or ALWAYS, or the rule, that does it; it goes on by itself",
	}
}

// chunk is rows of a fragment on their way into a COPY, in its text form. It is an io.Reader for another goroutine, of which
// nothing is used any more once close has returned.
type chunk struct {
	w        *writer
	tx       *pipeline.Transaction
	fragment *pipeline.Fragment
	plan     *plan
	columns  []int // that are sent

	mu     sync.Mutex
	next   func() (struct{}, bool) // reads on, until text is full
	stop   func()
	mark   *mark.Copy
	each   bool // rows are not made into text, but given one by one in now
	now    *pipeline.Change
	rows   int   // so far
	size   int64 // of these
	large  int   // bytes of the last large one
	values row
	text   []byte // of rows, what was not read from at on
	at     int
	ended  bool  // all rows were read, or err is set
	err    error // of reading them
}

// chunkBytes is how much text is made at a time.
const chunkBytes = 64 << 10

func (w *writer) chunkOf(tx *pipeline.Transaction, f *pipeline.Fragment, p *plan) *chunk {
	c := &chunk{w: w, tx: tx, fragment: f, plan: p, columns: p.written()}
	c.next, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		err := f.Walk(func(ch *pipeline.Change) error { return c.take(ch, yield) })
		if !errors.Is(err, errStopped) {
			c.err = err
		}
	})
	return c
}

var errStopped = errors.New("nobody reads on")

// begin reads the mark.
func (c *chunk) begin() (*mark.Copy, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, more := c.next()
	c.ended = !more
	if c.mark == nil && c.err == nil {
		c.err = errors.New("a chunk of copied rows is empty")
	}
	return c.mark, c.err
}

// take takes a message of the fragment.
func (c *chunk) take(ch *pipeline.Change, yield func(struct{}) bool) error {
	if c.mark == nil {
		m, ok, err := mark.CopyOf(ch)
		if err != nil {
			return err
		}
		if want := c.plan.source; !ok || m.Kind != mark.Rows || len(m.Tables) != 1 || (tableName{m.Tables[0].Schema, m.Tables[0].Name}) != want {
			return fmt.Errorf("copied rows of %s without their mark in front", want)
		}
		c.mark = &m
		return c.pause(yield)
	}
	if ch.Op != pipeline.Read {
		return fmt.Errorf("%s among copied rows of %s", ch.Op, c.plan.source)
	}
	if size := len(ch.New); size >= garbage.Large {
		garbage.Left(c.large) // Walk has given up the buffer of the one before
		c.large = size
		defer func() { clear(c.values) }() // they would be in memory until the next row comes
	}
	if c.each {
		c.now = ch
		return c.pause(yield)
	}
	if err := c.row(ch.New, yield); err != nil {
		return err
	}
	c.rows++
	c.size += int64(len(ch.New))
	c.w.rows++
	c.w.rowSize += int64(len(ch.New))
	if len(c.text) < chunkBytes {
		return nil
	}
	return c.pause(yield)
}

func (c *chunk) pause(yield func(struct{}) bool) error {
	if !yield(struct{}{}) {
		return errStopped
	}
	return nil
}

// row adds a row to the text. A large value goes piece by piece: the text of it is never in memory as a whole.
func (c *chunk) row(t pipeline.Tuple, yield func(struct{}) bool) error {
	c.values = t.Values(c.values[:0])
	for n, i := range c.columns {
		if n > 0 {
			c.text = append(c.text, '\t')
		}
		switch v := &c.values[i]; v.Kind {
		case pipeline.Null:
			c.text = append(c.text, '\\', 'N')
		case pipeline.Text:
			rest := v.Data
			for ; len(rest) > chunkBytes; rest = rest[chunkBytes:] {
				c.text = appendCopyText(c.text, rest[:chunkBytes])
				if err := c.pause(yield); err != nil {
					return err
				}
			}
			c.text = appendCopyText(c.text, rest)
		default:
			return fmt.Errorf("copied row of %s: column %s has a value of kind %q", c.plan.source, quote(c.plan.columns[i].name), v.Kind)
		}
	}
	c.text = append(c.text, '\n')
	return nil
}

// appendCopyText escapes a value; see "Text Format" of COPY in PostgreSQL's documentation.
func appendCopyText(dst, value []byte) []byte {
	from := 0
	for i, b := range value {
		var letter byte
		switch b {
		case '\\':
			letter = '\\'
		case '\n':
			letter = 'n'
		case '\r':
			letter = 'r'
		case '\t':
			letter = 't'
		default:
			continue
		}
		dst = append(dst, value[from:i]...)
		dst = append(dst, '\\', letter)
		from = i + 1
	}
	return append(dst, value[from:]...)
}

// Read gives text. While it makes some, nobody waits for the target.
func (c *chunk) Read(b []byte) (int, error) {
	defer c.w.s.waits()()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.at == len(c.text) {
		if c.err != nil {
			return 0, c.err
		}
		if c.ended {
			return 0, io.EOF
		}
		c.text, c.at = c.text[:0], 0
		if _, more := c.next(); !more {
			c.ended = true
		}
		if c.w.report.Sent != nil {
			c.w.report.Sent(c.w.rows, c.w.rowSize)
		}
	}
	n := copy(b, c.text[c.at:])
	c.at += n
	return n, nil
}

// close ends the reading and returns its error.
func (c *chunk) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
	garbage.Left(c.large)
	c.ended, c.text, c.at, c.large = true, nil, 0, 0
	return c.err
}

// failed names the table and the transaction, and says what COPY says about the row.
func (c *chunk) failed(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Where != "" {
		err = fmt.Errorf("%w (%s)", err, pg.Where)
	}
	return classify(fmt.Errorf("copy: %w", err), &apply.Blocked{CSN: c.tx.CSN, Table: c.plan.table.name.String()})
}
