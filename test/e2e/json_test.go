package e2e

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

// transaction is what a consumer of the JSON format reads, as far as this test needs it.
type transaction struct {
	CSN       string `json:"csn"`
	Previous  string `json:"previous"`
	GID       string `json:"gid"`
	Fragments []struct {
		Shard   string `json:"shard"`
		LSN     string `json:"lsn"`
		Changes int    `json:"changes"`
	} `json:"fragments"`
	Total   int `json:"total"`
	Changes []struct {
		Op    string `json:"op"`
		Table string `json:"table"`
		After struct {
			ID       json.Number `json:"id"`
			Transfer json.Number `json:"transfer"`
			Sides    json.Number `json:"sides"`
			Shard    json.Number `json:"shard"`
		} `json:"after"`
	} `json:"changes"`
}

// A consumer that knows nothing but the documented format sees whole transactions, in rising CSN, without a gap, each once,
// although the node is killed on the way.
func TestJSON(t *testing.T) { testJSON(t, format.Format{Name: format.JSON}) }

func testJSON(t *testing.T, f format.Format) {
	c := harness.New(t, harness.Options{Format: f})
	node := c.Node("node")
	b := c.OpenBank(bank.Config{AbandonEvery: 100})
	for range 3 {
		b.Committed(300)
		c.Kill(node)
		node = c.Node("node")
		c.Running()
	}
	b.Committed(300)
	b.StopTraffic()
	last := c.WaitPublished()

	r := &jsonReader{t: t, last: "0", fragments: map[string]bool{}}
	if f.JSON.Layout == format.ByRow {
		readRows(t, c, last, r)
	} else {
		readJSON(t, c, last, r)
	}
	st := b.Stats()
	t.Logf("%d transactions read, %d of them on several shards; the bank committed %d", r.transactions, r.distributed, st.Transactions)
	if r.transactions != st.Transactions || r.distributed < st.Distributed {
		t.Errorf("the bank committed %d transactions, %d of them on several shards", st.Transactions, st.Distributed)
	}
}

// consumer takes what is in a JSON stream.
type consumer interface {
	newWriter()     // what the one before left unfinished comes again
	payload([]byte) // a transaction
	end()           // of a unit: what came since the last one is valid
}

// readJSON reads the stream up to a sequence.
func readJSON(t *testing.T, c *harness.Cluster, last pipeline.Seq, to consumer) {
	t.Helper()
	stream, err := c.Bus.JS.Stream(c.Ctx, wire.StreamName(c.Sub.Name))
	if err != nil {
		t.Fatal(err)
	}
	collector := wire.NewCollector(1 << 30)
	for seq := uint64(1); seq <= uint64(last); seq++ {
		m, err := stream.GetMsg(c.Ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Fatalf("message %d is missing", seq)
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject == wire.EpochSubject(c.Sub.Name) {
			to.newWriter()
		}
		if m.Subject != wire.Subject(c.Sub.Name) {
			continue
		}
		payload, complete, err := collector.Add(m.Header.Get(wire.HeaderPart), m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if complete {
			to.payload(payload)
		}
		if m.Header.Get(wire.HeaderCheckpoint) != "" {
			to.end()
		}
	}
}

// jsonReader acts on a unit's transactions when its end mark is there.
type jsonReader struct {
	t                         *testing.T
	unit                      []transaction
	last                      string
	fragments                 map[string]bool
	transactions, distributed int64
	copied                    bool // the stream began amid traffic: what was half done then is not whole
}

func (r *jsonReader) newWriter() { r.unit = nil }

func (r *jsonReader) payload(data []byte) {
	r.t.Helper()
	var tx transaction
	if err := json.Unmarshal(data, &tx); err != nil {
		r.t.Fatalf("%v: %s", err, data)
	}
	r.unit = append(r.unit, tx)
}

func (r *jsonReader) end() {
	r.t.Helper()
	for _, tx := range r.unit {
		r.transaction(&tx)
	}
	r.unit = nil
}

func (r *jsonReader) transaction(tx *transaction) {
	r.t.Helper()
	if tx.Previous != r.last {
		r.t.Fatalf("csn %s follows %s, and the one read before is %s", tx.CSN, tx.Previous, r.last)
	}
	csn, err := pipeline.ParseCSN(tx.CSN)
	if err != nil {
		r.t.Fatal(err)
	}
	before, err := pipeline.ParseCSN(r.last)
	if err != nil {
		r.t.Fatal(err)
	}
	if csn <= before {
		r.t.Fatalf("csn %s comes after %s", tx.CSN, r.last)
	}
	r.last = tx.CSN
	for _, f := range tx.Fragments {
		id := f.Shard + " " + f.LSN
		if r.fragments[id] {
			r.t.Fatalf("fragment %s is there twice, now in csn %s", id, tx.CSN)
		}
		r.fragments[id] = true
	}
	if len(tx.Changes) != tx.Total {
		r.t.Fatalf("csn %s has %d changes of %d", tx.CSN, len(tx.Changes), tx.Total)
	}
	r.transactions++
	if len(tx.Fragments) > 1 {
		r.distributed++
	}
	if !r.copied {
		r.whole(tx)
	}
}

// whole: every side of a transfer, and every shard's row of a marker, is in the same transaction.
func (r *jsonReader) whole(tx *transaction) {
	r.t.Helper()
	var rows, sides, markers int64
	for _, ch := range tx.Changes {
		switch {
		case ch.Op == "insert" && ch.Table == "history":
			n, err := ch.After.Sides.Int64()
			if err != nil {
				r.t.Fatal(err)
			}
			rows, sides = rows+1, n
		case ch.Op == "insert" && ch.Table == "markers":
			markers++
		}
	}
	if rows != sides {
		r.t.Fatalf("csn %s, gid %q has %d of %d sides", tx.CSN, tx.GID, rows, sides)
	}
	if markers != 0 && markers != harness.Shards {
		r.t.Fatalf("csn %s, gid %q has %d rows of a marker", tx.CSN, tx.GID, markers)
	}
}
