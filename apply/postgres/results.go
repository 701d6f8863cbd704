package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// readChunk reads and checks the results up to the next sync.
func (w *writer) readChunk() error {
	for {
		e := &w.queue[w.head]
		w.head++
		result, err := w.result(e.what)
		if err != nil {
			return w.failed(e, err)
		}
		if e.what == chunkEnd {
			if _, ok := result.(*pgconn.PipelineSync); !ok {
				return fmt.Errorf("read from the target: %T where the end of a chunk was expected", result)
			}
			w.queue = append(w.queue[:0], w.queue[w.head:]...)
			w.head = 0
			w.chunks--
			return nil
		}
		if err := w.check(e, result); err != nil {
			return err
		}
	}
}

// result waits for the next result; that of a statement is its tag.
func (w *writer) result(what what) (any, error) {
	if what == copiedRows {
		return w.copied()
	}
	defer w.s.waits()()
	result, err := w.p.GetResults()
	if err != nil {
		return nil, err
	}
	if r, ok := result.(*pgconn.ResultReader); ok {
		return r.Close()
	}
	return result, nil
}

func (w *writer) check(e *expected, result any) error {
	var tag pgconn.CommandTag
	switch r := result.(type) {
	case pgconn.CommandTag:
		tag = r
	case *pgconn.StatementDescription, *pgconn.CloseComplete:
		if e.what != anything {
			return fmt.Errorf("read from the target: %T where a statement's result was expected", result)
		}
	default:
		return fmt.Errorf("read from the target: %T where a result was expected", result)
	}
	switch rows := tag.RowsAffected(); {
	case e.what == oneRow && rows != 1, e.what == upToOneRow && rows > 1:
		return e.change.wrongRows(rows)
	case (e.what == manyRows || e.what == copiedRows) && rows != int64(e.rows):
		return w.wrongNumber(e, rows)
	case e.what == noRow && rows != 0:
		return e.change.plan.unwritable(&e.change)
	}
	return nil
}

func (s *session) fenced() error {
	return &apply.Fatal{
		Problem: fmt.Sprintf("the progress of subscription %s is no longer what this worker wrote: another worker is ahead", s.cfg.Subscription),
		Try: fmt.Sprintf("on the target: SELECT pid, client_addr, backend_start FROM pg_stat_activity WHERE application_name = %s; SELECT * FROM cdc.progress; then stop one of them",
			literal(applicationName(s.cfg.Subscription))),
	}
}

func (w *writer) failed(e *expected, err error) error {
	c := &e.change
	at := &apply.Blocked{CSN: c.csn}
	if e.what == skipping {
		at.Try = fmt.Sprintf("GRANT INSERT ON cdc.skipped TO %s; it goes on by itself", quote(w.s.user()))
	}
	doing := "apply"
	if c.plan != nil {
		doing = c.op.String()
		at.Table = c.plan.table.name.String()
		if c.op != pipeline.Truncate {
			at.Row = c.plan.rowText(c)
		}
	}
	var pg *pgconn.PgError
	many := e.what == manyRows || e.what == copiedRows
	if many && errors.As(err, &pg) {
		doing = fmt.Sprintf("%s of %d rows", doing, e.rows)
	}
	if (many || c.folded) && errors.As(err, &pg) && (pg.Code == "23505" || pg.Code == "23P01") {
		w.s.target.ordered.add(c.plan.table)
	}
	return classify(fmt.Errorf("%s: %w", doing, err), at)
}

// wrongRows: a statement for one row touched none, or several.
func (c *change) wrongRows(rows int64) error {
	b := &apply.Blocked{CSN: c.csn, Table: c.plan.table.name.String(), Row: c.plan.rowText(c)}
	switch {
	case c.op == pipeline.Insert, c.op == pipeline.Read:
		b.Problem = fmt.Sprintf("the %s was swallowed on the target", c.op)
		b.Try = "drop the trigger ENABLEd REPLICA or ALWAYS, or the rule, that does it; it goes on by itself"
	case rows == 0:
		b.Problem = fmt.Sprintf("%s: the row is not on the target%s", c.op, c.plan.guarded())
		b.Try = "find out who else writes to this table; INSERT the row as it is on the source, and it goes on by itself"
	default:
		b.Problem = fmt.Sprintf("%s: %d rows of the target match one of the source", c.op, rows)
		b.Try = "DELETE the surplus rows, then create the source's primary key on the target; it goes on by itself"
	}
	return b
}
