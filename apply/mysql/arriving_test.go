package mysql_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// once is a body that can be read once only, as one whose rows still arrive.
type once struct {
	body []byte
	read bool
}

func (o *once) Size() int64 { return int64(len(o.body)) }
func (o *once) Release()    {}
func (o *once) Open() (io.ReadCloser, error) {
	if o.read {
		return nil, errors.New("it was read before")
	}
	o.read = true
	return io.NopCloser(bytes.NewReader(o.body)), nil
}

// elsewhere takes the bodies of transactions out of memory.
func elsewhere(txs []*pipeline.Transaction) []*pipeline.Transaction {
	var all []*pipeline.Transaction
	for _, tx := range txs {
		moved := *tx
		moved.Fragments = nil
		for _, f := range tx.Fragments {
			g := *f
			g.Content, g.Body = &once{body: f.Body}, nil
			moved.Fragments = append(moved.Fragments, &g)
		}
		all = append(all, &moved)
	}
	return all
}

// Rows that still arrive are read once, and count only when their end is known to be good.
func TestArriving(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.ChunkBytes = 1000
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.source("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 500) n; UPDATE t SET v = v || id; DELETE FROM t WHERE id > 400")
	txs := w.capture()
	cut := errors.New("the end never came")
	for _, end := range []error{cut, nil} {
		s, at := w.open()
		w.at = at
		g := w.group(elsewhere(txs))
		if !s.Streams(g.Units[0].Unit.Transactions[0]) {
			t.Fatal("it does not stream")
		}
		to := g.To
		g.To = apply.Progress{}
		g.End = func() (apply.Progress, error) { return to, end }
		if err := s.Apply(t.Context(), g); !errors.Is(err, end) {
			t.Fatalf("%v, want %v", err, end)
		}
		s.Close(t.Context())
		if end != nil {
			w.want("SELECT COUNT(*) FROM t", "0")
		}
	}
	w.same("t")
}
