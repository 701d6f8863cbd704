package json

import (
	"slices"

	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
)

// In a transaction of several fragments what is about rows that go goes first (package moves): the changes are passed over twice.
// Whoever makes the row of a key what an insert or update says, and removes it at a delete, ends with the right rows.

// known is what has to be known of a transaction before its first change.
type known struct {
	news  news
	moved moves.Moved
}

// know finds it out, and takes the descriptions for told.
func (w *writer) know(tx *pipeline.Transaction) (k known, err error) {
	if len(tx.Fragments) > 1 {
		if k.moved, err = moves.Order(tx, moves.Whole); err != nil {
			return k, err
		}
	}
	k.news = w.told.news(tx)
	return k, nil
}

// passes are what is about one fragment while its changes are written.
type passes struct {
	moved   moves.Moved
	pass    moves.Fate // First or InOrder
	place   int        // of the fragment
	of      *pipeline.Fragment
	nth     int                    // place of the next change in the fragment
	pending []*pipeline.Relation   // descriptions that are to come
	left    [][]*pipeline.Relation // of each fragment, between passes

	// Set once, by the encoder.
	enter    func(*pipeline.Fragment) // may be nil
	describe func(*pipeline.Relation) error
	each     func(*pipeline.Change) error // calls turn
}

// changes writes all changes, and descriptions of tables, each in front of the first change that needs it.
func (w *writer) changes(tx *pipeline.Transaction, k known) error {
	w.moved, w.left = k.moved, w.left[:0]
	if k.moved == nil {
		for i, f := range tx.Fragments {
			if err := w.inPass(f, i, moves.InOrder, k.news.in(i)); err != nil {
				return err
			}
		}
		return nil
	}
	defer func() { w.moved = nil }()
	for i := range tx.Fragments {
		w.left = append(w.left, k.news.in(i))
	}
	for _, pass := range [2]moves.Fate{moves.First, moves.InOrder} {
		for i, f := range tx.Fragments {
			if k.moved.None(i, pass) {
				continue
			}
			if err := w.inPass(f, i, pass, w.left[i]); err != nil {
				return err
			}
			w.left[i] = w.pending
		}
	}
	return nil
}

// inPass writes those of a fragment's changes whose turn it is.
func (w *writer) inPass(f *pipeline.Fragment, i int, pass moves.Fate, pending []*pipeline.Relation) error {
	w.place, w.of, w.pass, w.nth, w.pending = i, f, pass, -1, pending
	if w.enter != nil {
		w.enter(f)
	}
	if err := w.walker.Walk(f, w.each); err != nil {
		return err
	}
	w.nth++
	if pass == moves.InOrder || w.moved.None(i, moves.InOrder) {
		for _, r := range w.pending { // of a chunk without rows
			if err := w.describe(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// plain says that the next change is written as it is; else turn has to be asked.
func (p *passes) plain() bool {
	p.nth++
	return p.moved == nil && len(p.pending) == 0
}

// turn says whether it is the change's turn, and writes the descriptions that stand in front of it.
func (w *writer) turn(c *pipeline.Change) (bool, error) {
	if w.moved != nil && w.moved.Of(w.place, w.nth) != w.pass {
		return false, nil
	}
	for k := 0; k < len(w.pending); {
		r := w.pending[k]
		if !uses(c, r) {
			if w.moved == nil {
				break // they come in the order of their first use
			}
			k++
			continue
		}
		if err := w.describe(r); err != nil {
			return false, err
		}
		if k == 0 {
			w.pending = w.pending[1:]
		} else { // those of the transaction stay: they are written again if it is large
			w.pending = append(slices.Clone(w.pending[:k]), w.pending[k+1:]...)
		}
	}
	return true, nil
}
