package debezium

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/moves/movestest"
	"shardcdc/pipeline/wire"
)

// follower is a consumer that stores the last state of each key, and does not look where it comes from.
type follower struct {
	*movestest.Reader
	events int64 // of the running transaction
}

type movedRow struct {
	ID     int
	V, Big string
}

func (f *follower) read(p *output.Payload) error {
	if p.Subject == "" {
		var b struct {
			Status     string
			EventCount int64 `json:"event_count"`
		}
		if err := json.Unmarshal(p.Data, &b); err != nil || b.Status == "BEGIN" {
			return err
		}
		if b.EventCount != f.events {
			return fmt.Errorf("%d events, END says %d", f.events, b.EventCount)
		}
		return nil
	}
	if text := headerOf(*p, wire.HeaderTombstone); text != "" {
		var key movedRow
		err := json.Unmarshal([]byte(headerOf(*p, wire.HeaderKey)), &key)
		f.Take(movestest.Event{Gone: &key.ID})
		return err
	}
	var x struct {
		Op            string
		Before, After *movedRow
		Transaction   struct {
			TotalOrder int64 `json:"total_order"`
		}
	}
	if err := json.Unmarshal(p.Data, &x); err != nil {
		return err
	}
	if f.events++; x.Transaction.TotalOrder != f.events {
		return fmt.Errorf("total_order %d of event %d", x.Transaction.TotalOrder, f.events)
	}
	e := movestest.Event{Emptied: x.Op == "t", Same: headerOf(*p, wire.HeaderUnchanged) != ""}
	switch x.Op {
	case "d":
		e.Gone = &x.Before.ID
	case "c", "u":
		e.ID, e.V, e.Big = &x.After.ID, x.After.V, x.After.Big
		if x.Before != nil && x.Before.ID != x.After.ID && headerOf(*p, wire.HeaderKey) == "" {
			e.Gone = &x.Before.ID
		}
	}
	f.Take(e)
	return nil
}

// TestMoves: a consumer that takes one event after the other has the right rows, whatever moves between shards, in memory or not.
func TestMoves(t *testing.T) {
	for _, o := range []movestest.Options{
		{Identity: 'd', Keys: true, Again: true, Unchanged: true},
		{Identity: 'd', Keys: true, Again: true, Truncate: true},
		{Identity: 'f', Again: true},
	} {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		e, err := New(Config{Subscription: "srv", Shards: []Shard{{"a", "app"}, {"b", "app"}, {"c", "app"}}, Debezium: options(t, []string{"tombstones", "truncate"})})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 500 {
			w := movestest.New(r, o)
			if len(w.Tx.Fragments) == 0 {
				continue
			}
			if n%2 == 0 {
				for _, f := range w.Tx.Fragments {
					f.Content, f.Body = elsewhere(f.Body), nil
				}
			}
			if err := followWorld(e, w); err != nil {
				t.Fatalf("seed %d, world %d, %+v: %v", seed, n, o, err)
			}
		}
	}
}

func followWorld(e *Encoder, w *movestest.World) error {
	payloads, err := e.Encode(&pipeline.Batch{Transactions: []*pipeline.Transaction{w.Tx}})
	if err != nil {
		return err
	}
	f := &follower{Reader: w.Reader(false)}
	for i := range payloads {
		p := &payloads[i]
		if p.Series != nil {
			err = p.Series.Each(f.read)
		} else {
			err = f.read(p)
		}
		if err != nil {
			return err
		}
	}
	for id, x := range w.After { // events do not say to this reader which shard a row is on
		x.Shard = 0
		w.After[id] = x
	}
	for id, x := range f.Rows {
		x.Shard = 0
		f.Rows[id] = x
	}
	return w.Check(f.Rows)
}
