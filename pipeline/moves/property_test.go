package moves_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
	"shardcdc/pipeline/moves/movestest"
)

// worlds calls fn with random worlds.
func worlds(t *testing.T, o movestest.Options, fn func(w *movestest.World) error) {
	t.Helper()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	moved := 0
	for n := range 3000 {
		w := movestest.New(r, o)
		if len(w.Tx.Fragments) > 1 {
			moved++
		}
		if err := fn(w); err != nil {
			t.Fatalf("seed %d, world %d, %+v: %v", seed, n, o, err)
		}
	}
	if moved < 1000 {
		t.Fatalf("only %d worlds have several fragments", moved)
	}
}

// inOrder calls fn with each change, in the order of its fate.
func inOrder(tx *pipeline.Transaction, moved moves.Moved, fn func(shard int, c *pipeline.Change, pass, fate moves.Fate) error) error {
	for _, pass := range []moves.Fate{moves.First, moves.InOrder} {
		for n, f := range tx.Fragments {
			i := -1
			err := f.Walk(func(c *pipeline.Change) error {
				i++
				fate := moved.Of(n, i)
				if moved.None(n, fate) {
					return fmt.Errorf("fragment %d has no %d, and has it", n, fate)
				}
				return fn(int(f.Shard), c, pass, fate)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func values(t pipeline.Tuple) (id int, v, big string, same bool) {
	all := t.Values(nil)
	id, _ = strconv.Atoi(string(all[0].Data))
	return id, string(all[1].Data), string(all[2].Data), all[2].Kind == pipeline.Unchanged
}

// eventOf is what a reader is told of a change.
func eventOf(shard int, c *pipeline.Change) movestest.Event {
	e := movestest.Event{Shard: shard, Emptied: c.Op == pipeline.Truncate}
	if c.Old != nil {
		id, _, _, _ := values(c.Old)
		e.Gone = &id
	}
	if c.New != nil {
		id, v, big, same := values(c.New)
		if e.ID, e.V, e.Big, e.Same = &id, v, big, same; e.Gone != nil && *e.Gone == id {
			e.Gone = nil
		}
	}
	return e
}

// TestOrder: readers who take one change after the other have the right rows in the end.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		o       movestest.Options
		halves  moves.Halves
		byShard bool
	}{
		{movestest.Options{Identity: 'd', Again: true, Unchanged: true}, moves.Whole, false},
		{movestest.Options{Identity: 'd', Truncate: true}, moves.Whole, false},
		{movestest.Options{Identity: 'd', Keys: true}, moves.Whole, true},
		{movestest.Options{Identity: 'd', Keys: true, Truncate: true}, moves.Whole, true},
		{movestest.Options{Identity: 'd', Keys: true, Again: true, Unchanged: true}, moves.Apart, false},
		{movestest.Options{Identity: 'd', Keys: true, Again: true, Truncate: true}, moves.Apart, false},
		{movestest.Options{Identity: 'f'}, moves.Whole, false},
		{movestest.Options{Identity: 'f', Again: true}, moves.Apart, false},
		{movestest.Options{Identity: 'f', Truncate: true}, moves.Apart, false},
	} {
		worlds(t, c.o, func(w *movestest.World) error {
			moved, err := moves.Order(w.Tx, c.halves)
			if err != nil {
				return err
			}
			r := w.Reader(c.byShard)
			err = inOrder(w.Tx, moved, func(shard int, change *pipeline.Change, pass, fate moves.Fate) error {
				e := eventOf(shard, change)
				switch {
				case fate == moves.LeftOut:
					return fmt.Errorf("left out")
				case fate == moves.Split && pass == moves.First:
					e.ID = nil
				case fate == moves.Split:
					e.Gone = nil
				case fate != pass:
					return nil
				}
				r.Take(e)
				return nil
			})
			if err != nil {
				return err
			}
			return w.Check(r.Rows)
		})
	}
}

// primary is a target's table with a primary key.
type primary struct{}

func (primary) Row(int, int, *pipeline.Change) (moves.Row, error) {
	return moves.Row{Table: "t", Key: []int{0}}, nil
}

// TestFind: each statement finds what it is about, and none meets a row.
func TestFind(t *testing.T) {
	for _, o := range []movestest.Options{{Identity: 'd', Again: true, Unchanged: true}, {Identity: 'f', Again: true}} {
		worlds(t, o, func(w *movestest.World) error {
			moved, err := moves.Find(w.Tx, primary{})
			if err != nil {
				return err
			}
			rows := maps.Clone(w.Before)
			err = inOrder(w.Tx, moved, func(shard int, c *pipeline.Change, pass, fate moves.Fate) error {
				if fate != pass {
					return nil
				}
				if pass == moves.First {
					gone := moves.Gone(c)
					c = &gone
				}
				return execute(rows, shard, c)
			})
			if err != nil {
				return fmt.Errorf("%w: %w", err, w.Check(rows))
			}
			return w.Check(rows)
		})
	}
}

// execute is what a table with a primary key does.
func execute(rows map[int]movestest.Row, shard int, c *pipeline.Change) error {
	e := eventOf(shard, c)
	find := e.Gone
	if find == nil && c.Op == pipeline.Update {
		find = e.ID
	}
	if find != nil {
		was, ok := rows[*find]
		if !ok {
			return fmt.Errorf("%s: there is no %d", c.Op, *find)
		}
		if c.OldKind == pipeline.OldFull {
			if _, v, big, _ := values(c.Old); v != was.V || big != was.Big {
				return fmt.Errorf("%s: %d is %v, not as it was", c.Op, *find, was)
			}
		}
		if e.Same {
			e.Big = was.Big
		}
		delete(rows, *find)
	}
	if e.ID == nil {
		return nil
	}
	if was, taken := rows[*e.ID]; taken {
		return fmt.Errorf("%s: %d is there: %v", c.Op, *e.ID, was)
	}
	rows[*e.ID] = movestest.Row{Shard: shard, V: e.V, Big: e.Big}
	return nil
}

// TestOrderOfKeys: what a shard did under one key stays in order, so that what an update left as it was is what the reader has.
func TestOrderOfKeys(t *testing.T) {
	worlds(t, movestest.Options{Identity: 'd', Keys: true, Again: true}, func(w *movestest.World) error {
		moved, err := moves.Order(w.Tx, moves.Whole)
		if err != nil {
			return err
		}
		type key struct{ shard, id int }
		last, at := map[key]int{}, map[*byte]int{}
		for _, f := range w.Tx.Fragments {
			i := 0
			_ = f.Walk(func(c *pipeline.Change) error {
				i++
				for _, t := range []pipeline.Tuple{c.Old, c.New} {
					if t != nil {
						at[&t[0]] = i
					}
				}
				return nil
			})
		}
		return inOrder(w.Tx, moved, func(shard int, c *pipeline.Change, pass, fate moves.Fate) error {
			if fate != pass {
				return nil
			}
			for _, t := range []pipeline.Tuple{c.Old, c.New} {
				if t == nil {
					continue
				}
				id, _, _, _ := values(t)
				k := key{shard, id}
				if at[&t[0]] < last[k] {
					return fmt.Errorf("shard %d, key %d: change %d follows %d of\n%q", shard, id, at[&t[0]], last[k], w.Script)
				}
				last[k] = at[&t[0]]
			}
			return nil
		})
	})
}
