package output

import (
	"bytes"
	"io"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage/garbagetest"
	"shardcdc/pipeline/wire"
)

func batch(previous pipeline.CSN, csns ...pipeline.CSN) *pipeline.Batch {
	b := &pipeline.Batch{Previous: previous}
	for _, csn := range csns {
		f := &pipeline.Fragment{XID: 7}
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{f}})
	}
	return b
}

func TestInternal(t *testing.T) {
	e := NewInternal()
	first, err := e.Encode(batch(1, 2, 5))
	if err != nil {
		t.Fatal(err)
	}
	second, err := e.Encode(batch(5, 6)) // must leave the first payload alone
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != 1 || first[0].CSN != 5 || first[0].Transactions != 2 || second[0].CSN != 6 {
		t.Errorf("%+v %+v", first, second)
	}
	u, err := wire.DecodeUnit(first[0].Data)
	if err != nil || u.Previous != 1 || u.Last != 5 || len(u.Transactions) != 2 {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestInternalWithoutTransactions(t *testing.T) {
	if p, err := NewInternal().Encode(batch(9)); p != nil || err != nil {
		t.Error(p, err)
	}
}

func TestInternalRefuses(t *testing.T) {
	p, err := NewInternal().Encode(batch(9, 9))
	if p != nil || err == nil || err.Error() != "encode unit: transaction csn 9 follows csn 9: CSNs must rise" {
		t.Error(p, err)
	}
}

// elsewhere is a body that is not in memory.
type elsewhere []byte

func (e elsewhere) Size() int64                  { return int64(len(e)) }
func (e elsewhere) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e)), nil }
func (e elsewhere) Release()                     {}

func TestInternalLarge(t *testing.T) {
	b := batch(1, 5)
	f := b.Transactions[0].Fragments[0]
	f.Append([]byte("Mrest"))
	want, err := NewInternal().Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	f.Content, f.Body = elsewhere(f.Body), nil
	got, err := NewInternal().Encode(b)
	if err != nil || got[0].Data != nil || got[0].CSN != 5 || got[0].Transactions != 1 || got[0].Large.Size() != int64(len(want[0].Data)) {
		t.Fatalf("%+v, %v", got, err)
	}
	var w bytes.Buffer
	if _, err := got[0].Large.WriteTo(&w); err != nil || !bytes.Equal(w.Bytes(), want[0].Data) {
		t.Fatal(err)
	}
	b.Previous = 5
	if p, err := NewInternal().Encode(b); p != nil || err == nil {
		t.Error(p, err)
	}
}

// A large value goes from where it is into messages without being in memory.
func TestInternalLargeValue(t *testing.T) {
	b := batch(1, 5)
	f := b.Transactions[0].Fragments[0]
	f.Append(append([]byte("M"), make([]byte, garbagetest.Row)...))
	f.Content, f.Body = elsewhere(f.Body), nil
	garbagetest.AtMost(t, 1<<20, "encode", func() {
		p, err := NewInternal().Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := p[0].Large.WriteTo(io.Discard); err != nil || n < garbagetest.Row {
			t.Error(n, err)
		}
	})
}
