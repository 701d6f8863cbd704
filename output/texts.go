package output

import (
	"io"

	"shardcdc/pipeline"
)

// Texts makes payloads of one transaction each, for an encoder that appends what it writes to a buffer of its own.
type Texts struct {
	buffers  Buffers
	payloads [2][]Payload // used in turn, as the buffers
	ends     []int        // scratch: where payloads end in the buffer
}

// Encode has every transaction of a batch written into *buf, one behind the other. It is nil again when it returns.
func (t *Texts) Encode(b *pipeline.Batch, buf *[]byte, write func(tx *pipeline.Transaction, previous pipeline.CSN) error) ([]Payload, error) {
	*buf = t.buffers.Take(0)
	defer func() { // also after an error: the next Encode must not use what the payloads before are in
		t.buffers.Keep(*buf)
		*buf = nil
		t.payloads[0], t.payloads[1] = t.payloads[1], t.payloads[0]
	}()
	clear(t.payloads[0])
	t.ends = t.ends[:0]
	previous := b.Previous
	for _, tx := range b.Transactions {
		if err := write(tx, previous); err != nil {
			return nil, err
		}
		previous, t.ends = tx.CSN, append(t.ends, len(*buf))
	}
	payloads, start := t.payloads[0][:0], 0
	for i, end := range t.ends { // only now: the buffer has stopped moving
		payloads = append(payloads, Payload{Data: (*buf)[start:end:end], CSN: b.Transactions[i].CSN, Transactions: 1})
		start = end
	}
	t.payloads[0] = payloads
	return payloads, nil
}

// FlushBytes is how much of a large payload an encoder keeps before it is written; the row that exceeds it is kept whole.
const FlushBytes = 64 << 10

// Written makes a Large of what write writes, the same each time. Its size is found by writing it to nowhere, which also finds
// every error that its rows have.
func Written(write func(w io.Writer) error) (Large, error) {
	l := &written{write: write}
	var err error
	l.size, err = l.WriteTo(io.Discard)
	return l, err
}

type written struct {
	write func(w io.Writer) error
	size  int64
}

func (l *written) Size() int64 { return l.size }

func (l *written) WriteTo(w io.Writer) (int64, error) {
	out := &counted{w: w}
	err := l.write(out)
	return out.n, err
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
