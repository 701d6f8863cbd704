package mysql

import (
	"context"
	"errors"
	"fmt"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// Apply is described by apply.Lane.
func (s *session) Apply(ctx context.Context, g apply.Group) error {
	w := &writer{ctx: ctx, s: s, report: g.Report, careful: g.Careful}
	err := w.group(&g)
	var blocked *apply.Blocked
	if errors.As(err, &blocked) {
		return s.refused(ctx, err)
	}
	return err
}

func (w *writer) group(g *apply.Group) error {
	if err := w.prepare(g); err != nil {
		return err
	}
	if _, err := w.s.exec(w.ctx, "START TRANSACTION"); err != nil {
		return classify(fmt.Errorf("begin: %w", err), nil)
	}
	err := g.Transactions(func(tx *pipeline.Transaction) error {
		if skip, ok := g.Skips[tx.CSN]; ok {
			return w.skip(tx, skip)
		}
		return at(tx.CSN, w.transaction(tx))
	})
	if err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if g.End != nil {
		if g.To, err = g.End(); err != nil {
			return err
		}
	}
	if g.Turn != nil {
		if err := g.Turn(w.ctx); err != nil {
			return err
		}
	}
	if err := w.s.swap(w.ctx, g.From, g.To); err != nil {
		return err
	}
	return w.s.commit(w.ctx)
}

// prepare looks up every table of the group, and makes those that are missing: DDL would commit what was done so far.
func (w *writer) prepare(g *apply.Group) error {
	if len(w.s.plans) > plansMax { // never within a group, where one table has to be one thing
		clear(w.s.plans)
		clear(w.s.tables)
	}
	return g.Transactions(func(tx *pipeline.Transaction) error {
		if _, skipped := g.Skips[tx.CSN]; skipped {
			return nil
		}
		for _, f := range tx.Fragments {
			for _, use := range f.Relations {
				if err := w.know(use.Relation); err != nil {
					return at(tx.CSN, err)
				}
			}
		}
		return nil
	})
}

func (w *writer) know(r *pipeline.Relation) error {
	if w.s.plans[r] != nil {
		return nil
	}
	if w.s.cfg.CreateTables {
		if err := w.s.make(w.ctx, r); err != nil {
			return err
		}
	}
	_, err := w.s.plan(w.ctx, r)
	return err
}

// refused gives the reason for an error. What a worker that was overtaken does is refused because the other one did it.
func (s *session) refused(ctx context.Context, err error) error {
	if _, failed := s.exec(ctx, "ROLLBACK"); failed != nil {
		return err // which says more
	}
	n := 0
	failed := s.conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM cdc_progress WHERE subscription = ? AND owner = ?", s.cfg.Subscription, s.owner).Scan(&n)
	if failed == nil && n == 0 {
		return s.fenced()
	}
	return err
}
