package sql

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// kept is a body that is elsewhere.
type kept []byte

func (k kept) Size() int64                  { return int64(len(k)) }
func (k kept) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(k)), nil }
func (k kept) Release()                     {}

// elsewhere moves every second body out of memory.
func elsewhere(b *pipeline.Batch) {
	for _, tx := range b.Transactions {
		for i, f := range tx.Fragments {
			if i%2 == 0 {
				f.Content, f.Body = kept(f.Body), nil
			}
		}
	}
}

// bulk is a batch of transactions, each with so many inserts.
func bulk(transactions, inserts int) *pipeline.Batch {
	r := &pipeline.Relation{ID: 1, Namespace: "public", Name: "t", Identity: 'd', Columns: []pipeline.Column{
		{Name: "id", Key: true, Type: 23}, {Name: "name", Type: 25}, {Name: "n", Type: 1700}, {Name: "at", Type: 1184}, {Name: "data", Type: 17},
	}}
	b := &pipeline.Batch{}
	for tx := range transactions {
		f := &pipeline.Fragment{End: 1, Relations: []pipeline.RelationUse{{Relation: r}}}
		for range inserts {
			f.Append(appendTuples([]byte{'I', 0, 0, 0, 1}, []string{"N", "1", "it's a name", "12.50", "2026-11-20 19:00:00+00", "\\x00ff"}))
		}
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: pipeline.CSN(tx + 1), Fragments: []*pipeline.Fragment{f}})
	}
	return b
}

func newEncoder() *Encoder {
	return New(Config{Shards: []string{"a"}, Options: format.SQLOptions{Dialect: format.PostgreSQL}})
}

func TestLargeIsThePayload(t *testing.T) {
	e := newEncoder()
	want, err := e.Encode(bulk(1, 3000))
	if err != nil {
		t.Fatal(err)
	}
	b := bulk(1, 3000)
	elsewhere(b)
	got, err := e.Encode(b)
	if err != nil || len(got) != 1 || got[0].Data != nil || got[0].CSN != 1 || got[0].Transactions != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	for range 2 { // a retry writes the same
		var b bytes.Buffer
		n, err := got[0].Large.WriteTo(&b)
		if err != nil || n != got[0].Large.Size() || !bytes.Equal(b.Bytes(), want[0].Data) {
			t.Fatalf("%d of %d bytes, %v", n, got[0].Large.Size(), err)
		}
	}
	r, w := io.Pipe()
	r.Close()
	if _, err := got[0].Large.WriteTo(w); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if again, err := e.Encode(bulk(1, 3000)); err != nil || !bytes.Equal(again[0].Data, want[0].Data) { // the encoder is not spoiled
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	e := newEncoder()
	for _, large := range []bool{false, true} {
		b := bulk(1, 3)
		b.Transactions[0].Fragments[0].Changes++
		if large {
			elsewhere(b)
		}
		if p, err := e.Encode(b); p != nil || err == nil || !strings.Contains(err.Error(), "encode csn 1 as sql: fragment shard 0 0/1 xid 0: 3 changes in the body, 4 announced") {
			t.Error(p, err)
		}
	}
	b := bulk(2, 1)
	elsewhere(b)
	if p, err := e.Encode(b); p != nil || err == nil || !strings.Contains(err.Error(), "2 transactions in a batch") {
		t.Error(p, err)
	}
	if p, err := e.Encode(&pipeline.Batch{Previous: 1, Transactions: bulk(1, 1).Transactions}); p != nil || err == nil || !strings.Contains(err.Error(), "CSNs must rise") {
		t.Error(p, err)
	}
}

// In the long run nothing is allocated for a row.
func TestRowsAllocateNothing(t *testing.T) {
	e := newEncoder()
	few, many := bulk(1, 1), bulk(1, 1000)
	for range 4 {
		if _, err := e.Encode(many); err != nil {
			t.Fatal(err)
		}
	}
	count := func(b *pipeline.Batch) float64 {
		return testing.AllocsPerRun(20, func() {
			if _, err := e.Encode(b); err != nil {
				t.Error(err)
			}
		})
	}
	if one, all := count(few), count(many); all > one {
		t.Errorf("%v allocations for 1000 rows, %v for one", all, one)
	}
}

func BenchmarkInserts(b *testing.B) {
	e, batch := newEncoder(), bulk(1, 1000)
	b.ReportAllocs()
	for b.Loop() {
		p, err := e.Encode(batch)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(p[0].Data)))
	}
}
