package json

import (
	"bytes"
	"errors"
	"io"
	"runtime"
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
func elsewhere(b *pipeline.Batch) *pipeline.Batch {
	for _, tx := range b.Transactions {
		for i, f := range tx.Fragments {
			if i%2 == 0 {
				f.Content, f.Body = kept(f.Body), nil
			}
		}
	}
	return b
}

func several() *pipeline.Batch {
	b := bulk(1, 3000)
	b.Transactions[0].Fragments = append(b.Transactions[0].Fragments, bulk(1, 2).Transactions[0].Fragments[0])
	b.Transactions[0].GID = "tx7"
	return b
}

func TestLargeIsThePayload(t *testing.T) {
	e := New([]string{"a"}, format.JSONOptions{})
	want, err := e.Encode(several())
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Encode(elsewhere(several()))
	if err != nil || len(got) != 1 || got[0].Data != nil || got[0].CSN != want[0].CSN || got[0].Transactions != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	for range 2 { // a retry writes the same
		var b bytes.Buffer
		n, err := got[0].Large.WriteTo(&b)
		if err != nil || n != got[0].Large.Size() || !bytes.Equal(b.Bytes(), want[0].Data) {
			t.Fatalf("%d of %d bytes, %v", n, got[0].Large.Size(), err)
		}
	}
	again, err := e.Encode(several()) // the encoder is not spoiled
	if err != nil || !bytes.Equal(again[0].Data, want[0].Data) {
		t.Fatal(err)
	}
}

func TestLargeRefuses(t *testing.T) {
	e := New([]string{"a"}, format.JSONOptions{})
	b := elsewhere(several())
	b.Transactions[0].Fragments[0].Changes++
	if p, err := e.Encode(b); p != nil || err == nil || err.Error() != "encode csn 1 as json: 3004 changes in the bodies, 3005 announced" {
		t.Error(p, err)
	}
	if p, err := e.Encode(elsewhere(bulk(2, 1))); p != nil || err == nil || !strings.Contains(err.Error(), "2 transactions in a batch") {
		t.Error(p, err)
	}
	p, err := e.Encode(elsewhere(several()))
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	r.Close()
	if _, err := p[0].Large.WriteTo(w); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// A large payload takes memory by its rows, not by its size.
func TestLargeKeepsNothing(t *testing.T) {
	b := elsewhere(bulk(1, 100_000))
	e := New([]string{"a"}, format.JSONOptions{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p, err := e.Encode(b)
	if err == nil {
		_, err = p[0].Large.WriteTo(io.Discard)
	}
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 2<<20 {
		t.Errorf("%d bytes allocated for a payload of %d", taken, p[0].Large.Size())
	}
}
