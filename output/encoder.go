// Package output turns batches of whole transactions into payloads of messages. What a format looks like is the
// business of its encoder: the one here (internal), output/json, output/sql; how payloads become durable messages is
// the business of output/jetstream, which knows no format.
//
//	batch from the joiner ─► Encoder ─► payloads ─► publisher: split, pack into a unit, publish, wait for the ack
//
// Encoding is pure: the same batches give the same bytes. A payload is made once, and a publish whose outcome is unknown is
// repeated with it.
package output

import (
	"io"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// Encoder turns a batch into payloads.
//
//   - Order: payloads are in the order of the batch's transactions. A payload holds whole transactions, or a part of one: then
//     those with Transactions 0 come first, and the last one of the transaction has Transactions 1.
//   - A batch without transactions has no payloads; its checkpoint travels without one.
//   - Memory: payloads are good until the second Encode after theirs, which uses their memory again: one unit may be on its
//     way while the next one is encoded. The encoder keeps nothing of the batch but its relations, which are immutable, and which
//     of them it has described. Payloads are as large as their transactions make them; the limit is set where
//     batches are made. A transaction that is not in memory (pipeline.Transaction.Resident) is alone in its batch, and
//     has one payload, which is Large, or a Series: it is made when it is asked for, before the batch is released and before the
//     next Encode.
//   - Concurrency: none. An Encoder has one owner.
//   - Errors are fatal and name the transaction: the same batch would fail again. Nothing was encoded then. Large and
//     Series find some of them only when they are made.
type Encoder interface {
	Encode(b *pipeline.Batch) ([]Payload, error)
}

// Payload is the content of one message, or of several when it is larger than a message may be; or, if it is a Series, of many.
type Payload struct {
	Data         []byte
	Large        Large        // instead of Data: a payload that is not in memory
	Series       Series       // instead of Data: payloads that are not in memory; of this one nothing else counts then
	CSN          pipeline.CSN // of the last transaction in it
	Transactions int          // that end in it
	// Subject is behind the subscription's own (wire.SubjectOf); empty: that of transactions.
	Subject string
	Headers []Header // beside those that every message has
}

// Header is a header of a payload's first message.
type Header struct{ Name, Value string }

// Large is a payload that is made while it is written.
type Large interface {
	// Size is the number of bytes, exactly.
	Size() int64
	// WriteTo writes them. After an error what was written must not be used. It may be called again, and writes
	// the same.
	WriteTo(w io.Writer) (int64, error)
}

// Series are the payloads of a transaction that is not in memory, made one after the other.
type Series interface {
	// Each calls fn with each payload, in order; the last one has Transactions 1. A payload, with what it points to, is good until
	// fn returns, and is never Large or a Series. An error of fn ends it, and is returned, perhaps wrapped. It may be called
	// again, and makes the same.
	Each(fn func(*Payload) error) error
}

// Buffers are two buffers, used in turn: what an Encoder keeps of payloads.
type Buffers struct {
	bufs [2][]byte
	next int
}

// BufferMax is the largest buffer that is kept. A larger one was for a rare batch.
const BufferMax = 8 << 20

// Take returns an empty buffer with room for size bytes, the one that was kept before the last one if that will do.
func (b *Buffers) Take(size int) []byte {
	buf := b.bufs[b.next]
	b.bufs[b.next] = nil
	if cap(buf) < size {
		return make([]byte, 0, size)
	}
	return buf[:0]
}

// Keep keeps what Take returned, with what was appended to it.
func (b *Buffers) Keep(buf []byte) {
	if cap(buf) <= BufferMax {
		b.bufs[b.next] = buf
	}
	b.next = 1 - b.next
}

// NewInternal returns the encoder of the internal format: one payload for the whole batch, a frame of package wire.
func NewInternal() Encoder { return &internal{} }

type internal struct {
	wire    wire.Encoder
	buffers Buffers
}

// descriptionBytes is a guess at what a frame adds to the bodies: relations and the heads of transactions.
const descriptionBytes, headBytes = 1024, 64

func (e *internal) Encode(b *pipeline.Batch) ([]Payload, error) {
	if len(b.Transactions) == 0 {
		return nil, nil
	}
	p := Payload{CSN: b.Last(), Transactions: len(b.Transactions)}
	size, resident := descriptionBytes, true
	for _, tx := range b.Transactions {
		size += headBytes*len(tx.Fragments) + int(tx.Bytes())
		resident = resident && tx.Resident()
	}
	var err error
	if resident {
		p.Data, err = e.wire.AppendUnit(e.buffers.Take(size), b)
		e.buffers.Keep(p.Data)
	} else {
		p.Large, err = e.wire.Frame(b)
	}
	if err != nil {
		return nil, err
	}
	return []Payload{p}, nil
}
