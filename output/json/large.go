package json

import (
	"fmt"
	"io"

	"shardcdc/output"
	"shardcdc/pipeline"
)

// large prepares the payload of a batch that is one transaction, which is not in memory.
func (e *Encoder) large(b *pipeline.Batch) ([]output.Payload, error) {
	tx := b.Transactions[0]
	if len(b.Transactions) > 1 {
		return nil, fmt.Errorf("encode csn %s as json: %d transactions in a batch that is not in memory", b.Last(), len(b.Transactions))
	}
	k, err := e.know(tx)
	if err != nil {
		return nil, failed(tx, err)
	}
	previous := b.Previous
	l, err := output.Written(func(w io.Writer) error {
		e.out, e.buf = w, make([]byte, 0, 2*output.FlushBytes)
		defer func() { e.out, e.buf = nil, nil }()
		err := e.payload(tx, previous, k)
		if err == nil {
			err = e.flush()
		}
		return failed(tx, err)
	})
	if err != nil {
		return nil, err
	}
	return []output.Payload{{Large: l, CSN: tx.CSN, Transactions: 1}}, nil
}

func (e *Encoder) flush() error {
	_, err := e.out.Write(e.buf)
	e.buf = e.buf[:0]
	return err
}
