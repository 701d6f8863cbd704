package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Apply is described by apply.Lane.
func (s *session) Apply(ctx context.Context, g apply.Group) error {
	return s.watched(ctx, g.Report.Waiting, func(ctx context.Context) error { return s.apply(ctx, &g) })
}

func (s *session) apply(ctx context.Context, g *apply.Group) error {
	s.catchUp()
	s.forget()
	w := &writer{ctx: ctx, s: s, p: s.conn.StartPipeline(ctx), report: g.Report, careful: g.Careful, once: g.End != nil}
	if err := w.group(g); err != nil {
		return w.refused(err)
	}
	if err := w.turn(g); err != nil {
		return err
	}
	if err := w.commit(g); err != nil {
		return w.refused(err)
	}
	if err := w.p.Close(); err != nil {
		return fmt.Errorf("end the pipeline: %w", err)
	}
	return nil
}

// at puts the CSN into an error that does not know it.
func at(csn pipeline.CSN, err error) error {
	var blocked *apply.Blocked
	if errors.As(err, &blocked) && blocked.CSN == 0 {
		blocked.CSN = csn
	}
	return err
}

func (w *writer) group(g *apply.Group) error {
	w.send(stBegin, nil, expected{})
	w.send(stDefer, nil, expected{}) // for constraint triggers that fire ALWAYS; the others do not fire at all
	err := g.Transactions(func(tx *pipeline.Transaction) error {
		if skip, ok := g.Skips[tx.CSN]; ok {
			return w.skip(tx, skip)
		}
		if err := w.transaction(tx); err != nil || !g.Careful {
			return err
		}
		w.send(stCheck, nil, expected{change: change{csn: tx.CSN}})
		w.send(stDefer, nil, expected{})
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.drain(); err != nil || g.End == nil {
		return err
	}
	g.To, err = g.End()
	return err
}

// turn waits until the groups before are committed. The server ends a session that is silent in a transaction for a minute.
func (w *writer) turn(g *apply.Group) error {
	if g.Turn == nil {
		return nil
	}
	for {
		waiting, cancel := context.WithTimeout(w.ctx, turnPing)
		err := g.Turn(waiting)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || w.ctx.Err() != nil {
			return err
		}
		w.send(stDefer, nil, expected{})
		if err := w.drain(); err != nil {
			return err
		}
	}
}

// turnPing is a variable for a test.
var turnPing = 20 * time.Second

// refused gives the reason for an error. What a worker that was overtaken does is refused because the other one did it.
func (w *writer) refused(err error) error {
	var blocked *apply.Blocked
	if !errors.As(err, &blocked) {
		return err
	}
	s := w.s
	_ = w.p.Close() // fails with the same error
	if failed := s.exec(w.ctx, "ROLLBACK"); failed != nil {
		return err // which says more
	}
	rows, failed := s.query(w.ctx, "SELECT 1 FROM cdc.progress WHERE subscription = $1 AND owner = $2", s.cfg.Subscription, s.owner)
	if failed == nil && len(rows) == 0 {
		return s.fenced()
	}
	return err
}

// drain sends everything and reads every result.
func (w *writer) drain() error {
	if err := w.sync(); err != nil {
		return err
	}
	for w.chunks > 0 {
		if err := w.readChunk(); err != nil {
			return err
		}
	}
	return nil
}

func number(n uint64) []byte { return strconv.AppendUint(nil, n, 10) }

// commit is the commit point: what is in the target's WAL when the answer comes is applied. The compare-and-swap goes in one
// piece with COMMIT. If the row is not as expected it fails by itself (see stProgress), and the server passes over COMMIT.
func (w *writer) commit(g *apply.Group) error {
	w.p.SendQueryPrepared(stProgress, [][]byte{
		[]byte(w.s.cfg.Subscription), []byte(g.To.StreamID), number(uint64(g.To.CSN)), number(uint64(g.To.Seq)), number(uint64(g.To.Stamp)),
		number(uint64(g.From.Seq)), []byte(g.From.StreamID), []byte(w.s.owner),
	}, nil, nil)
	w.p.SendQueryPrepared(stCommit, nil, nil, nil)
	defer w.s.waits()()
	if err := w.p.Sync(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if _, err := w.tag(); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == divisionByZero {
			return w.s.fenced()
		}
		return blockedIfRight(fmt.Errorf("write cdc.progress: %w", err), fmt.Sprintf("GRANT UPDATE ON cdc.progress TO %s; it goes on by itself", quote(w.s.user())))
	}
	tag, err := w.tag()
	if err != nil {
		refused := new(apply.Blocked) // by a deferred constraint, of any of several transactions
		if len(g.Units) == 1 && g.Units[0].Unit != nil && len(g.Units[0].Transactions) == 1 {
			refused.CSN = g.To.CSN
		}
		return classify(fmt.Errorf("commit: %w", err), refused)
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("commit: the target answered %s", tag)
	}
	if _, err := w.p.GetResults(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// tag waits for the next statement's.
func (w *writer) tag() (pgconn.CommandTag, error) {
	result, err := w.p.GetResults()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	r, ok := result.(*pgconn.ResultReader)
	if !ok {
		return pgconn.CommandTag{}, fmt.Errorf("%T where a statement's result was expected", result)
	}
	return r.Close()
}
