package json

import (
	"fmt"
	"io"

	"shardcdc/output"
	"shardcdc/pipeline"
)

// flushBytes is how much of a large payload is kept before it is written; the row that exceeds it is kept whole.
const flushBytes = 64 << 10

// large is the payload of a transaction that is not in memory, written row by row.
type large struct {
	e        *Encoder
	tx       *pipeline.Transaction
	known    known
	previous pipeline.CSN
	size     int64
}

var _ output.Large = (*large)(nil)

// large prepares the payload of a batch that is one transaction. Its size is found by writing it to nowhere, which also
// finds every error that its rows have.
func (e *Encoder) large(b *pipeline.Batch) ([]output.Payload, error) {
	tx := b.Transactions[0]
	if len(b.Transactions) > 1 {
		return nil, fmt.Errorf("encode csn %s as json: %d transactions in a batch that is not in memory", b.Last(), len(b.Transactions))
	}
	k, err := e.know(tx)
	if err != nil {
		return nil, fmt.Errorf("encode csn %s as json: %w", tx.CSN, err)
	}
	l := &large{e: e, tx: tx, known: k, previous: b.Previous}
	if l.size, err = l.WriteTo(io.Discard); err != nil {
		return nil, err
	}
	return []output.Payload{{Large: l, CSN: tx.CSN, Transactions: 1}}, nil
}

func (l *large) Size() int64 { return l.size }

func (l *large) WriteTo(w io.Writer) (int64, error) {
	out := &counted{w: w}
	l.e.out, l.e.buf = out, make([]byte, 0, 2*flushBytes)
	defer func() { l.e.out, l.e.buf = nil, nil }()
	err := l.e.payload(l.tx, l.previous, l.known)
	if err == nil {
		err = l.e.flush()
	}
	if err != nil {
		err = fmt.Errorf("encode csn %s as json: %w", l.tx.CSN, err)
	}
	return out.n, err
}

func (e *Encoder) flush() error {
	_, err := e.out.Write(e.buf)
	e.buf = e.buf[:0]
	return err
}

// counted counts what is written.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
