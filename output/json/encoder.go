package json

import (
	"fmt"
	"io"
	"strconv"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// Encoder writes one payload per transaction; it is an output.Encoder. In the long run it allocates nothing per row, and nothing per
// transaction.
type Encoder struct {
	writer

	texts output.Texts
	write func(tx *pipeline.Transaction, previous pipeline.CSN) error // resident

	// Of the running Encode, or of the large payload that is written.
	out   io.Writer // where the buffer goes when it is full; nil: it grows
	index int       // of the next change in the transaction
}

var _ output.Encoder = (*Encoder)(nil)

// New makes an Encoder. shards are the shards' names, by ShardID.
func New(shards []string, opts format.JSONOptions) *Encoder {
	e := &Encoder{writer: newWriter(shards, opts)}
	e.passes = passes{describe: e.describe, each: e.next}
	e.write = e.resident
	return e
}

// Encode writes the batch's transactions, each as one payload.
func (e *Encoder) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	if len(b.Transactions) == 0 {
		return nil, nil
	}
	for _, tx := range b.Transactions {
		if !tx.Resident() {
			return e.large(b)
		}
	}
	return e.texts.Encode(b, &e.buf, e.write)
}

// resident writes a transaction that is in memory.
func (e *Encoder) resident(tx *pipeline.Transaction, previous pipeline.CSN) error {
	k, err := e.know(tx)
	if err == nil {
		err = e.payload(tx, previous, k)
	}
	return failed(tx, err)
}

// failed names the transaction of an error.
func failed(tx *pipeline.Transaction, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("encode csn %s as json: %w", tx.CSN, err)
}

// payload writes a transaction.
func (e *Encoder) payload(tx *pipeline.Transaction, previous pipeline.CSN, k known) error {
	if err := e.check(tx, previous); err != nil {
		return err
	}
	e.tables.bound()
	e.transaction(tx, previous, k.news)
	e.buf = append(e.buf, `,"changes":[`...)
	e.index = 0
	if err := e.changes(tx, k); err != nil {
		return err
	}
	if total := tx.Changes() + k.news.total(); e.index != total {
		return fmt.Errorf("%d changes in the bodies, %d announced", e.index, total)
	}
	e.buf = append(e.buf, `]}`...)
	return nil
}

// next writes a change, if it is its turn.
func (e *Encoder) next(c *pipeline.Change) error {
	if !e.plain() {
		if turn, err := e.turn(c); err != nil || !turn {
			return err
		}
	}
	return e.change(c)
}

// begin writes what every element of changes begins with.
func (e *Encoder) begin() {
	e.comma(e.index)
	e.buf = append(e.buf, `{"index":`...)
	e.buf = strconv.AppendInt(e.buf, int64(e.index), 10)
	e.index++
	e.buf = append(e.buf, `,"shard":`...)
	e.buf = append(e.buf, e.names[e.of.Shard]...)
}

func (e *Encoder) describe(r *pipeline.Relation) error {
	e.begin()
	if err := e.relation(r); err != nil {
		return e.failed(e.of, "relation", err)
	}
	e.buf = append(e.buf, '}')
	return nil
}

// change writes one change. Its errors name the shard; the column, too, where there is one.
func (e *Encoder) change(c *pipeline.Change) error {
	e.begin()
	var err error
	switch c.Op {
	case pipeline.Insert, pipeline.Read, pipeline.Update, pipeline.Delete:
		err = e.row(c)
	case pipeline.Truncate:
		e.buf = append(e.buf, `,"op":"truncate",`...)
		err = e.truncate(c)
	case pipeline.Message:
		e.message(c)
	default:
		err = fmt.Errorf("%s has no form", c.Op)
	}
	if err != nil {
		return e.failed(e.of, c.Op.String(), err)
	}
	e.buf = append(e.buf, '}')
	if e.out != nil && len(e.buf) >= output.FlushBytes {
		return e.flush()
	}
	return nil
}
