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

	// Open reads the messages behind sequence after, which must be a unit's end or 0. A Fatal error when some of
	// them are gone.
	Open(ctx context.Context, after pipeline.Seq) (Reader, error)
}

// Reader gives a stream's units in order. A lost connection is mended inside, without gap or repetition, or
// ends in an error.
type Reader interface {
	// Next waits for the next unit. Its error is Fatal when the stream has a hole or holds what cannot be read.
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

	Seq       pipeline.Seq // of its last message
	Watermark pipeline.CSN // 0: not said
	Bytes     int          // of its payload
	Pending   uint64       // messages that were behind it when it was delivered
}

// changes is the number of changes in all transactions.
func (u *Unit) changes() (n int) {
	if u.Unit == nil {
		return 0
	}
	for _, tx := range u.Unit.Transactions {
		n += tx.Changes()
	}
	return n
}
