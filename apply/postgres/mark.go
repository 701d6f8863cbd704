package postgres

import (
	"context"
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/moves"
)

// message deals with a logical message: with what shardcdc itself says in the stream; others are for other readers.
func (w *writer) message(tx *pipeline.Transaction, f *pipeline.Fragment, c *pipeline.Change) error {
	if !mark.Is(c.Prefix) {
		return nil
	}
	return w.mark(tx, f, c)
}

// mark does what a mark says, at its place in the transaction.
func (w *writer) mark(tx *pipeline.Transaction, f *pipeline.Fragment, c *pipeline.Change) error {
	if d, ok, err := mark.DDLOf(c); ok || err != nil {
		if err != nil {
			return err
		}
		return w.aside(func(ctx context.Context) error { return w.s.ddlMark(ctx, tx, f.Shard, &d, false) })
	}
	m, ok, err := mark.CopyOf(c)
	if !ok || err != nil {
		return err
	}
	if m.Kind == mark.Rows && w.s.cfg.CreateTables { // of a chunk without rows
		if err := w.plans(f); err != nil {
			return err
		}
	}
	return w.aside(func(ctx context.Context) error { return w.s.copyMark(ctx, tx.CSN, f.Shard, &m, false) })
}

// aside runs fn inside of the target transaction but outside of the pipeline: everything that was sent is done, and its
// results were right.
func (w *writer) aside(fn func(ctx context.Context) error) error {
	if err := w.leave(); err != nil {
		return &sendError{err}
	}
	if err := fn(w.ctx); err != nil {
		return &sendError{err}
	}
	w.enter()
	return nil
}

// leave ends the pipeline.
func (w *writer) leave() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.drain(); err != nil {
		return err
	}
	if err := w.p.Close(); err != nil {
		return fmt.Errorf("end the pipeline: %w", err)
	}
	return nil
}

// enter begins the pipeline again.
func (w *writer) enter() { w.p = w.s.conn.StartPipeline(w.ctx) }

// plan finds the plan of a version of a shard's table, or makes it.
func (w *writer) plan(shard pipeline.ShardID, r *pipeline.Relation) (*plan, error) {
	if p := w.s.recall(shard, r); p != nil {
		return p, nil
	}
	err := w.aside(func(ctx context.Context) error {
		if err := w.s.ensure(ctx, shard, r); err != nil {
			return err
		}
		return w.s.resolve(ctx, shard, r)
	})
	return w.s.plans[r], err
}

// resolve makes sure that every table of a transaction has a plan, where all are needed before the first change.
func (w *writer) resolve(tx *pipeline.Transaction) error {
	if !truncates(tx) && !moves.May(tx) {
		return nil
	}
	for _, f := range tx.Fragments {
		if err := w.plans(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) plans(f *pipeline.Fragment) error {
	for _, use := range f.Relations {
		if _, err := w.plan(f.Shard, use.Relation); err != nil {
			return err
		}
	}
	return nil
}
