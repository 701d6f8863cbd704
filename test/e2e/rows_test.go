package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"shardcdc/pipeline"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

var rowByRow = format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow}}

// rowReader makes transactions of rows, by the documented rules: a row belongs to the end with its CSN and its epoch, and counts when
// that has come. It does not look at epochs' messages, nor at checkpoints.
type rowReader struct {
	t       *testing.T
	pending []json.RawMessage
	of      string // the CSN and the epoch of pending
	torn    int    // transactions that had no end
	to      []consumer
}

func (r *rowReader) message(m *jetstream.RawStreamMsg, data []byte, isEnd bool) {
	r.t.Helper()
	of := m.Header.Get(wire.HeaderCSN) + " " + m.Header.Get(wire.HeaderEpoch)
	if of != r.of {
		if len(r.pending) > 0 {
			r.torn++
		}
		r.pending, r.of = nil, of
	}
	if !isEnd {
		r.pending = append(r.pending, bytes.Clone(data))
		return
	}
	payload := r.transaction(data)
	for _, to := range r.to {
		to.payload(payload)
		to.end()
	}
	r.pending = nil
}

// transaction is what the other layout has for it.
func (r *rowReader) transaction(end []byte) []byte {
	r.t.Helper()
	var tx map[string]json.RawMessage
	if err := json.Unmarshal(end, &tx); err != nil {
		r.t.Fatal(err)
	}
	r.complete(end)
	changes, last := []map[string]json.RawMessage{}, -1
	for _, row := range r.pending {
		var c struct {
			Index             int
			Op, Schema, Table string
		}
		var change map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(row, &c), json.Unmarshal(row, &change)); err != nil {
			r.t.Fatal(err)
		}
		if c.Op == "truncate" { // it is there for each of its tables
			table := fmt.Sprintf(`{"schema":%q,"table":%q}`, c.Schema, c.Table)
			if c.Index == last {
				of := changes[len(changes)-1]
				of["tables"] = append(bytes.TrimSuffix(of["tables"], []byte("]")), ","+table+"]"...)
				continue
			}
			change["tables"] = json.RawMessage("[" + table + "]")
		}
		if c.Index != last+1 {
			r.t.Fatalf("csn %s: index %d follows %d", tx["csn"], c.Index, last)
		}
		last = c.Index
		changes = append(changes, change)
	}
	all, err := json.Marshal(changes)
	if err != nil {
		r.t.Fatal(err)
	}
	tx["changes"] = all
	payload, err := json.Marshal(tx)
	if err != nil {
		r.t.Fatal(err)
	}
	return payload
}

// complete: each table has as many messages as the end says.
func (r *rowReader) complete(end []byte) {
	r.t.Helper()
	have, said := map[string]int{}, map[string]int{}
	for _, row := range r.pending {
		var c struct{ Schema, Table string }
		if err := json.Unmarshal(row, &c); err != nil {
			r.t.Fatal(err)
		}
		if c.Table != "" {
			have[c.Schema+"."+c.Table]++
		}
	}
	var tx struct {
		Tables []struct {
			Schema, Table string
			Changes       int
		}
	}
	if err := json.Unmarshal(end, &tx); err != nil {
		r.t.Fatal(err)
	}
	for _, t := range tx.Tables {
		said[t.Schema+"."+t.Table] = t.Changes
	}
	if fmt.Sprint(have) != fmt.Sprint(said) {
		r.t.Fatalf("there are %v messages, and the end tells of %v", have, said)
	}
}

// readRows reads rows, and what ends their transactions, up to a sequence.
func readRows(t *testing.T, c *harness.Cluster, last pipeline.Seq, to ...consumer) *rowReader {
	t.Helper()
	r := &rowReader{t: t, to: to}
	eachPayload(t, c, last, func(m *jetstream.RawStreamMsg, data []byte) {
		r.message(m, data, m.Subject == wire.Subject(c.Sub.Name))
	})
	return r
}

// eachPayload reads the stream up to a sequence, but for what the writer tells itself.
func eachPayload(t *testing.T, c *harness.Cluster, last pipeline.Seq, fn func(m *jetstream.RawStreamMsg, data []byte)) {
	t.Helper()
	stream, err := c.Bus.JS.Stream(c.Ctx, wire.StreamName(c.Sub.Name))
	if err != nil {
		t.Fatal(err)
	}
	collector := wire.NewCollector(1 << 30)
	control := wire.SubjectOf(c.Sub.Name, "_ctl.")
	for seq := uint64(1); seq <= uint64(last); seq++ {
		m, err := stream.GetMsg(c.Ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Fatalf("message %d is missing", seq)
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Subject, control) {
			continue
		}
		data, whole, err := collector.Add(m.Header.Get(wire.HeaderPart), m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			fn(m, data)
		}
	}
}

// The same as TestJSON, row by row.
func TestJSONRows(t *testing.T) { testJSON(t, rowByRow) }

// A consumer of rows ends equal to the source, and sees whole transactions, each once, in order, although nodes are killed while
// tables are copied, and in the middle of transactions that are larger than a batch of the server.
func TestRows(t *testing.T) {
	const largeRows, perRow = 8000, 2000
	s := harness.NewCopied(t, 6000, harness.Options{
		Format: format.Format{Name: format.JSON}, CopyArgs: []string{"--json-layout", "row", "--copy-rate", "2MB"}, Tables: "CREATE TABLE large (id int PRIMARY KEY, v text);\n",
	})
	s.Churn.Truncates()
	node := s.Node("node")
	for n := int64(1); n <= 2 && s.Copied(n*1500); n++ {
		s.Kill(node)
		node = s.Node("node")
	}
	s.CopyEnds()
	for round := range 2 {
		before := s.StreamInfo().State.LastSeq
		s.Transact(true, func(shard int) []string {
			from := (round*harness.Shards + shard) * largeRows
			return []string{fmt.Sprintf("INSERT INTO large SELECT i, repeat('x', %d) FROM generate_series(%d, %d) i", perRow, from, from+largeRows-1)}
		})
		harness.Until(s.Ctx, t, "some of the large transaction is in the stream", func() (bool, string) {
			now := s.StreamInfo().State.LastSeq
			return now > before+3000, fmt.Sprint(now - before)
		})
		s.Kill(node)
		node = s.Node("node")
		s.Running()
	}
	s.Churn.Changed(100)
	s.Churn.Stop()
	s.Bank.StopTraffic()
	last := s.WaitPublished()
	r := newReplica(t, map[string][]string{
		"public.rows": {"id"}, "public.short": {"b", "a"}, "public.heap": nil, "public.large": {"id"},
		"public.accounts": {"id"}, "public.history": {"id"}, "public.journal": nil, "public.markers": {"id", "shard"},
	})
	order := &jsonReader{t: t, last: "0", fragments: map[string]bool{}, copied: true}
	read := readRows(t, s.Cluster, last, r, order)
	if !r.ended {
		t.Error("the copy's end is not in the stream")
	}
	for name := range r.keys {
		r.same(s.Cluster, name)
	}
	t.Logf("%d transactions, %d of them on several shards; %d were begun and not ended", order.transactions, order.distributed, read.torn)
	if read.torn == 0 {
		t.Error("no transaction was torn: the test proves nothing about that")
	}
}

// An idle stream tells that nothing is missing.
func TestIdleWatermark(t *testing.T) {
	c := harness.New(t, harness.Options{Format: rowByRow})
	c.Node("node")
	c.Running()
	b := c.OpenBank(bank.Config{})
	b.Committed(20)
	b.StopTraffic()
	c.WaitPublished()
	marks := map[string]bool{}
	harness.Until(c.Ctx, t, "watermarks rise while nothing happens", func() (bool, string) {
		s, err := c.Bus.JS.Stream(c.Ctx, wire.StreamName(c.Sub.Name))
		if err != nil {
			return false, err.Error()
		}
		m, err := s.GetLastMsgForSubject(c.Ctx, wire.WatermarkSubject(c.Sub.Name))
		if err != nil {
			return false, err.Error()
		}
		var w struct{ Watermark, Time string }
		if err := json.Unmarshal(m.Data, &w); err != nil {
			t.Fatalf("%v: %s", err, m.Data)
		}
		if w.Watermark != m.Header.Get(wire.HeaderWatermark) {
			t.Fatalf("%s, and its header says %s", m.Data, m.Header.Get(wire.HeaderWatermark))
		}
		marks[w.Watermark] = true
		return len(marks) == 2, fmt.Sprint(w)
	})
}

// What real servers send of every type and shape of table is what the published schema says, in both layouts.
func TestMatrixSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/native.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, layout := range []string{format.ByTransaction, format.ByRow} {
		t.Run(layout, func(t *testing.T) {
			m, o := harness.NewMatrix(t)
			o.Format = format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: layout, Types: true}}
			c := harness.New(t, o)
			c.Node("node")
			c.Running()
			c.Transact(true, func(i int) []string { return m.Fill(i, harness.Shards) })
			for round := 1; round <= matrixRounds; round++ {
				c.Transact(round%2 == 0, func(i int) []string { return m.Change(i, harness.Shards, round) })
			}
			n := 0
			eachPayload(t, c, c.WaitPublished(), func(m *jetstream.RawStreamMsg, data []byte) {
				doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
				if err == nil {
					err = schema.Validate(doc)
				}
				if err != nil {
					t.Errorf("%s: %.500s: %v", m.Subject, data, err)
				}
				n++
			})
			t.Logf("%d messages", n)
			if n < 4 {
				t.Error("too few")
			}
		})
	}
}
