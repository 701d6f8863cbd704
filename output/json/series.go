package json

import (
	"fmt"

	"shardcdc/output"
	"shardcdc/pipeline"
)

// series are the payloads of a transaction that is not in memory.
type series struct {
	e        *Rows
	tx       *pipeline.Transaction
	known    known
	previous pipeline.CSN
}

var _ output.Series = (*series)(nil)

func (e *Rows) series(b *pipeline.Batch) ([]output.Payload, error) {
	tx := b.Transactions[0]
	err := e.check(tx, b.Previous)
	if err == nil && len(b.Transactions) > 1 {
		err = fmt.Errorf("%d transactions in a batch that is not in memory", len(b.Transactions))
	}
	var k known
	if err == nil {
		k, err = e.know(tx)
	}
	if err != nil {
		return nil, failed(tx, err)
	}
	s := &series{e: e, tx: tx, known: k, previous: b.Previous}
	return []output.Payload{{Series: s, CSN: tx.CSN, Transactions: 1}}, nil
}

// Each makes the payloads. One of them is in memory.
func (s *series) Each(fn func(*output.Payload) error) error {
	e := s.e
	e.to, e.buf, e.ends, e.ids = fn, make([]byte, 0, output.FlushBytes), e.ends[:0], e.ids[:0]
	defer func() { e.to, e.buf, e.one = nil, nil, made{} }()
	if err := e.rows(s.tx, s.previous, s.known); err != nil {
		return failed(s.tx, err)
	}
	return nil
}

// pass hands on the payload that is in the buffer.
func (e *Rows) pass() error {
	if err := e.to(&e.payloads(&e.one)[0]); err != nil {
		return err
	}
	if cap(e.buf) > output.BufferMax { // of a rare row
		e.buf = make([]byte, 0, output.FlushBytes)
	}
	e.buf, e.ends, e.ids = e.buf[:0], e.ends[:0], e.ids[:0]
	return nil
}
