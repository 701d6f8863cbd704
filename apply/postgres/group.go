package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Apply is described by apply.Session.
func (s *session) Apply(ctx context.Context, g apply.Group) error {
	return s.watched(ctx, g.Report.Waiting, func(ctx context.Context) error { return s.apply(ctx, &g) })
}

func (s *session) apply(ctx context.Context, g *apply.Group) error {
	s.forget()
	w := &writer{ctx: ctx, s: s, p: s.conn.StartPipeline(ctx), report: g.Report, careful: g.Careful, once: g.End != nil}
	if err := w.group(g); err != nil {
		return err
	}
	if err := w.commit(g); err != nil {
		return err
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
	to := g.To
	if g.End != nil {
		to = g.From // not known yet; the lock and the check come first all the same
	}
	w.progress(g.From, to)
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
	if err := w.drain(); err != nil || g.End == nil {
		return err
	}
	if g.To, err = g.End(); err != nil {
		return err
	}
	w.progress(g.From, g.To)
	return w.drain()
}

// progress sends the compare-and-swap.
func (w *writer) progress(from, to apply.Progress) {
	w.send(stProgress, [][]byte{
		[]byte(w.s.cfg.Subscription), []byte(to.StreamID), number(uint64(to.CSN)), number(uint64(to.Seq)), number(uint64(to.Stamp)),
		number(uint64(from.Seq)), []byte(from.StreamID),
	}, expected{what: progress})
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

// commit is the commit point: what is in the target's WAL when the answer comes is applied.
func (w *writer) commit(g *apply.Group) error {
	refused := new(apply.Blocked) // by a deferred constraint, of any of several transactions
	if len(g.Units) == 1 && g.Units[0].Unit != nil && len(g.Units[0].Transactions) == 1 {
		refused.CSN = g.To.CSN
	}
	w.p.SendQueryPrepared(stCommit, nil, nil, nil)
	defer w.s.waits()()
	if err := w.p.Sync(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	result, err := w.p.GetResults()
	if err != nil {
		return classify(fmt.Errorf("commit: %w", err), refused)
	}
	tag, err := result.(*pgconn.ResultReader).Close()
	if err != nil {
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
