package json

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"math/rand/v2"
	"testing"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/moves/movestest"
)

// toldRow is what a reader of rows that move looks at.
type toldRow struct {
	Index              int
	Shard, Op          string
	Key, Before, After *struct {
		ID     int
		V, Big string
	}
	Unchanged []string
	Changes   []toldRow
	Total     int
}

func (x *toldRow) take(r *movestest.Reader) {
	e := movestest.Event{Shard: int(x.Shard[0] - 'a'), Emptied: x.Op == "truncate", Same: len(x.Unchanged) > 0}
	if x.Key != nil {
		e.Gone = &x.Key.ID
	} else if x.Before != nil {
		e.Gone = &x.Before.ID
	}
	if x.After != nil {
		e.ID, e.V, e.Big = &x.After.ID, x.After.V, x.After.Big
		if e.Gone != nil && *e.Gone == *e.ID {
			e.Gone = nil
		}
	}
	r.Take(e)
}

// TestMoves: readers who take one change after the other have the right rows, in both layouts, and of transactions that are not
// in memory, too.
func TestMoves(t *testing.T) {
	shards := []string{"a", "b", "c"}
	for _, c := range []struct {
		o       movestest.Options
		byShard bool
	}{
		{movestest.Options{Identity: 'd', Again: true, Unchanged: true}, false},
		{movestest.Options{Identity: 'd', Truncate: true}, false},
		{movestest.Options{Identity: 'd', Keys: true}, true},
		{movestest.Options{Identity: 'f'}, false},
	} {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		transactions, rows := New(shards, format.JSONOptions{}), NewRows("s", shards, format.JSONOptions{CloudEvents: true})
		for n := range 400 {
			w := movestest.New(r, c.o)
			w.Tx.CSN += pipeline.CSN(n)
			if len(w.Tx.Fragments) == 0 {
				continue
			}
			if n%2 == 0 {
				for _, f := range w.Tx.Fragments {
					f.Content, f.Body = kept(f.Body), nil
				}
			}
			b := &pipeline.Batch{Transactions: []*pipeline.Transaction{w.Tx}}
			for name, e := range map[string]output.Encoder{"transaction": transactions, "row": rows} {
				if err := readMoves(e, b, w, c.byShard); err != nil {
					t.Fatalf("seed %d, world %d, layout %s, %+v: %v", seed, n, name, c.o, err)
				}
			}
		}
	}
}

// readMoves reads what an encoder makes of a world.
func readMoves(e output.Encoder, b *pipeline.Batch, w *movestest.World, byShard bool) error {
	payloads, err := e.Encode(b)
	if err != nil {
		return err
	}
	reader, next, ids := w.Reader(byShard), 0, map[string]bool{}
	change := func(x *toldRow) error {
		if x.Index != next {
			return errors.New("an index is left out")
		}
		next++
		if x.Op != "relation" {
			x.take(reader)
		}
		return nil
	}
	each := func(p *output.Payload) error {
		var x toldRow
		data, err := dataOf(p)
		if err == nil {
			err = stdjson.Unmarshal(data, &x)
		}
		for _, h := range p.Headers {
			if h.Name == "ce-id" {
				if ids[h.Value] {
					return errors.New("an id comes twice: " + h.Value)
				}
				ids[h.Value] = true
			}
		}
		for i := range x.Changes {
			err = errors.Join(err, change(&x.Changes[i]))
		}
		if p.Transactions == 0 {
			err = errors.Join(err, change(&x))
		} else if x.Total != next {
			err = errors.Join(err, errors.New("another total"))
		}
		return err
	}
	for i := range payloads {
		p := &payloads[i]
		if p.Series != nil {
			err = p.Series.Each(each)
		} else {
			err = each(p)
		}
		if err != nil {
			return err
		}
	}
	return w.Check(reader.Rows)
}

// dataOf is a payload's data, also of one that is not in memory.
func dataOf(p *output.Payload) ([]byte, error) {
	if p.Large == nil {
		return p.Data, nil
	}
	var b bytes.Buffer
	_, err := p.Large.WriteTo(&b)
	return b.Bytes(), err
}
