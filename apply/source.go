package apply

import (
	"context"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// Source is a subscription's stream.
type Source interface {
	// Describe says what stream there is now. ErrNoStream when there is none.
	Describe(ctx context.Context) (StreamInfo, error)

	// Stamp says when the server stored a message, in ns since 1970; 0 when the message is not there any more. A sequence
	// number alone does not tell a message from another one that took its place in a stream that was set back.
	Stamp(ctx context.Context, seq pipeline.Seq) (int64, error)

	// Open reads the messages behind sequence after, which must be a unit's end or 0. A Fatal error when some of
	// them are gone.
	Open(ctx context.Context, after pipeline.Seq) (Reader, error)
}

// Reader gives a stream's units in order. A lost connection is mended inside, without gap or repetition, or
// ends in an error.
type Reader interface {
	// Next waits for the next unit. Its error is Fatal when the stream has a hole or holds what cannot be read.
	// After a unit that is still Arriving, it must not be called before Finish. Its ctx is good for the reading of such
	// a unit, too.
	Next(ctx context.Context) (Unit, error)
	// Close ends the reader. It may be called while Next runs, and makes it return.
	Close()
}

// StreamInfo describes a stream.
type StreamInfo struct {
	// ID tells streams of the same name apart: a stream that was deleted and made again, or restored from
	// elsewhere, has another.
	ID          string
	First, Last pipeline.Seq // of its messages; Last = First - 1 when it is empty
}

// Unit is the next thing in a stream: whole transactions, or only news about the stream.
type Unit struct {
	*wire.Unit // nil: no transactions, a heartbeat or a message that is not for apply

	End
	Bytes int // of its payload that are in memory

	// Arriving is set when the unit is too large for memory: its rows are still in the stream, and End is not known
	// before they were read. The fragments' Content can be opened once each, in order.
	Arriving Arriving
}

// End is where a unit ends.
type End struct {
	Seq       pipeline.Seq // of its last message
	Stamp     int64        // when the server stored that, in ns since 1970
	Watermark pipeline.CSN // 0: not said
	Pending   uint64       // messages that were behind it when it was delivered
}

// Arriving is a unit whose rows are still in the stream. Reading it waits for the stream as Next does; errors of the
// fragments' Content are ReadErrors.
type Arriving interface {
	// Finish passes over what was not read, checks the unit to its last byte, and returns where it ends. The error is,
	// like that of reading the rows, an *Abandoned when the unit has no end.
	Finish() (End, error)
}

// Finish makes sure that the unit is in the stream to its end. What was not read of it cannot be read any more.
func (u *Unit) Finish() (err error) {
	if u.Arriving != nil {
		u.End, err = u.Arriving.Finish()
		u.Arriving = nil
	}
	return err
}

// transactions calls fn with every transaction.
func (u *Unit) transactions(fn func(*pipeline.Transaction) error) error {
	if u.Unit == nil {
		return nil
	}
	for _, tx := range u.Unit.Transactions {
		if err := fn(tx); err != nil {
			return err
		}
	}
	return nil
}

// fragments calls fn with every fragment.
func (u *Unit) fragments(fn func(*pipeline.Fragment) error) error {
	return u.transactions(func(tx *pipeline.Transaction) error {
		for _, f := range tx.Fragments {
			if err := fn(f); err != nil {
				return err
			}
		}
		return nil
	})
}

// changes is the number of changes in all transactions.
func (u *Unit) changes() (n int) {
	_ = u.transactions(func(tx *pipeline.Transaction) error { n += tx.Changes(); return nil })
	return n
}
