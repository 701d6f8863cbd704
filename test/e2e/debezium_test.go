package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

var debeziumEvents = format.Format{
	Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow, Flavour: format.Debezium}, Debezium: format.DebeziumOptions{Tombstones: true},
}

// debeziumReader follows accounts by Debezium's rules: what stands between BEGIN and END counts when END has come.
type debeziumReader struct {
	t        *testing.T
	balances map[int64]int64 // by account
	pending  []debeziumEvent
	open     string // transaction that has begun
	ended    pipeline.CSN
	sum      int64 // of all balances
	counts   map[string]int

	ends, severalShards, torn, tombstones, large int
}

type debeziumEvent struct {
	Op            string
	Before, After *struct{ ID, Balance int64 }
	Source        struct{ Schema, Table, Shard, Db, CSN string }
	Transaction   *struct {
		ID         string
		TotalOrder int `json:"total_order"`
	}
	Key string
}

type debeziumBoundary struct {
	Status, ID, CSN, Previous string
	EventCount                *int `json:"event_count"`
	DataCollections           []struct {
		DataCollection string `json:"data_collection"`
		EventCount     int    `json:"event_count"`
	} `json:"data_collections"`
}

func (r *debeziumReader) boundary(b debeziumBoundary) {
	r.t.Helper()
	if b.Status == "BEGIN" {
		if r.open != "" {
			r.torn++
		}
		r.open, r.pending = b.ID, nil
		return
	}
	csn, err := pipeline.ParseCSN(b.CSN)
	if err != nil {
		r.t.Fatal(err)
	}
	if b.Status != "END" || b.ID != r.open || csn <= r.ended || b.Previous != r.ended.String() && r.ends > 0 {
		r.t.Fatalf("%+v, while %s is open and %s ended last", b, r.open, r.ended)
	}
	r.counts = map[string]int{}
	shards := map[string]bool{}
	for i, e := range r.pending {
		if e.Transaction == nil || e.Transaction.ID != b.ID || e.Transaction.TotalOrder != i+1 || e.Source.CSN != b.CSN {
			r.t.Fatalf("event %d of %s: %+v", i+1, b.ID, e)
		}
		r.counts[e.Source.Schema+"."+e.Source.Table]++
		if e.Source.Table == "large" {
			r.large++
		}
		shards[e.Source.Shard] = true
		r.apply(e)
	}
	said := map[string]int{}
	for _, c := range b.DataCollections {
		said[c.DataCollection] = c.EventCount
	}
	if fmt.Sprint(said) != fmt.Sprint(r.counts) || *b.EventCount != len(r.pending) {
		r.t.Fatalf("%s: %v events, END says %v", b.ID, r.counts, said)
	}
	if len(shards) > 1 {
		r.severalShards++
	}
	r.ends++
	r.open, r.ended, r.pending = "", csn, nil
}

func (r *debeziumReader) apply(e debeziumEvent) {
	r.t.Helper()
	if e.Source.Table != "accounts" {
		return
	}
	switch e.Op {
	case "c", "u", "r":
		if e.Key != fmt.Sprintf(`{"id":%d}`, e.After.ID) {
			r.t.Fatalf("key %s of account %d", e.Key, e.After.ID)
		}
		r.sum += e.After.Balance - r.balances[e.After.ID]
		r.balances[e.After.ID] = e.After.Balance
	case "d":
		r.sum -= r.balances[e.Before.ID]
		delete(r.balances, e.Before.ID)
	default:
		r.t.Fatalf("op %q", e.Op)
	}
}

// A consumer of Debezium's events sees whole distributed transactions, each once, although nodes are killed, also in the middle of a
// large one: at every END that
// comes when all accounts are there, their sum is the same.
func TestDebezium(t *testing.T) {
	const largeRows, perRow = 8000, 1000
	c := harness.New(t, harness.Options{Format: debeziumEvents, Tables: "CREATE TABLE large (id int PRIMARY KEY, v text);\n"})
	node := c.Node("node")
	c.Running()
	b := c.OpenBank(bank.Config{})
	for range 3 {
		b.Committed(100)
		c.Kill(node)
		node = c.Node("node")
		c.Running()
	}
	before := c.StreamInfo().State.LastSeq
	c.Transact(true, func(shard int) []string {
		from := shard * largeRows
		return []string{fmt.Sprintf("INSERT INTO large SELECT i, repeat('x', %d) FROM generate_series(%d, %d) i", perRow, from, from+largeRows-1)}
	})
	harness.Until(c.Ctx, t, "some of the large transaction is in the stream", func() (bool, string) {
		now := c.StreamInfo().State.LastSeq
		return now > before+5000, fmt.Sprint(now - before)
	})
	c.Kill(node)
	c.Node("node")
	c.Running()
	b.Committed(100)
	b.StopTraffic()
	last := c.WaitPublished()
	want := map[int64]int64{}
	for i := range c.Servers {
		var list []struct{ ID, Balance int64 }
		text := c.Query(c.ShardDSN(i), "SELECT coalesce(json_agg(json_build_object('id', id, 'balance', balance)), '[]')::text FROM accounts")
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			want[a.ID] = a.Balance
		}
	}
	var total int64
	for _, balance := range want {
		total += balance
	}

	stream, err := c.Bus.JS.Stream(c.Ctx, wire.StreamName(c.Sub.Name))
	if err != nil {
		t.Fatal(err)
	}
	r := &debeziumReader{t: t, balances: map[int64]int64{}}
	sums := 0
	for seq := uint64(1); seq <= uint64(last); seq++ {
		m, err := stream.GetMsg(c.Ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		tokens, _ := strings.CutPrefix(m.Subject, wire.SubjectOf(c.Sub.Name, ""))
		switch {
		case m.Header.Get(wire.HeaderPart) != "":
			t.Fatalf("message %d is in parts", seq)
		case tokens == "_ctl.epoch":
			if r.open != "" { // its writer did not end it
				r.torn++
			}
			r.open, r.pending = "", nil
		case strings.HasPrefix(tokens, "_ctl."):
		case tokens == "_tx":
			var boundary debeziumBoundary
			if err := json.Unmarshal(m.Data, &boundary); err != nil {
				t.Fatal(err)
			}
			r.boundary(boundary)
			if len(r.balances) == len(want) {
				if sums++; r.sum != total {
					t.Fatalf("message %d: the sum of all accounts is %d, want %d", seq, r.sum, total)
				}
			}
		case m.Header.Get(wire.HeaderTombstone) != "":
			if r.tombstones++; len(m.Data) > 0 || m.Header.Get(wire.HeaderKey) == "" {
				t.Fatalf("message %d is no tombstone: %v %s", seq, m.Header, m.Data)
			}
		case tokens == wire.MessageTokens || tokens == wire.CopyTokens || tokens == wire.DDLTokens:
		default:
			e := debeziumEvent{Key: m.Header.Get(wire.HeaderKey)}
			if err := json.Unmarshal(m.Data, &e); err != nil {
				t.Fatal(err)
			}
			r.pending = append(r.pending, e)
		}
	}
	if fmt.Sprint(r.balances) != fmt.Sprint(want) || len(want) == 0 {
		t.Errorf("%d accounts, the source has %d, and they differ", len(r.balances), len(want))
	}
	if r.large != largeRows*len(c.Servers) {
		t.Errorf("%d rows of the large transaction, want %d", r.large, largeRows*len(c.Servers))
	}
	t.Logf("%d transactions, %d of several shards, %d torn, %d tombstones, %d sums", r.ends, r.severalShards, r.torn, r.tombstones, sums)
	if r.severalShards == 0 || r.torn == 0 || r.tombstones == 0 || sums < 100 {
		t.Error("the test proves too little")
	}
}
