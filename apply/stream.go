package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// formatInternal is the only format that can be replayed.
const formatInternal = "internal"

// Limits of reading a stream.
const (
	pullBytes = 8 << 20 // in flight; a limit in messages hangs on large ones
	// unitBytesMax bounds one unit put together from parts. It guards against a damaged header only: what capture took
	// (it refuses a transaction by its size on one shard) must be readable, or the target could never go on.
	unitBytesMax = 64 << 30
)

// Stream is the Source in JetStream. It uses ordered consumers, which keep nothing on the server: the position
// is the target's progress. It reads every subject of the stream, so sequence numbers without a gap prove that
// nothing is missing.
type Stream struct {
	js           jetstream.JetStream
	subscription string
}

// NewStream makes the Source of a subscription.
func NewStream(js jetstream.JetStream, subscription string) *Stream {
	return &Stream{js: js, subscription: subscription}
}

var _ Source = (*Stream)(nil)

// Describe asks the server for the stream's identity and borders.
func (s *Stream) Describe(ctx context.Context) (StreamInfo, error) {
	stream, err := s.js.Stream(ctx, wire.StreamName(s.subscription))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return StreamInfo{}, fmt.Errorf("%s: %w", wire.StreamName(s.subscription), ErrNoStream)
	}
	if err != nil {
		return StreamInfo{}, fmt.Errorf("stream %s: %w", wire.StreamName(s.subscription), err)
	}
	info := stream.CachedInfo()
	id := info.Created.UTC().Format(time.RFC3339Nano)
	if incarnation := info.Config.Metadata[wire.MetadataIncarnation]; incarnation != "" {
		id += " " + incarnation
	}
	return StreamInfo{
		ID: id, First: pipeline.Seq(max(1, info.State.FirstSeq)), Last: pipeline.Seq(info.State.LastSeq),
	}, nil
}

// Open begins to read behind a sequence.
func (s *Stream) Open(ctx context.Context, after pipeline.Seq) (Reader, error) {
	consumer, err := s.js.OrderedConsumer(ctx, wire.StreamName(s.subscription), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   uint64(after) + 1,
		// Rarely used up: a worker that stops deletes nothing on the server.
		InactiveThreshold: time.Minute,
		// A consumer that cannot be made again is an error for the worker, which waits and opens a new one: the
		// library's own attempts do not end with a context.
		MaxResetAttempts: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(pullBytes))
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	return &streamReader{
		subscription: s.subscription, messages: messages, last: after,
		subject: wire.Subject(s.subscription), epochs: wire.EpochSubject(s.subscription), collector: wire.NewCollector(unitBytesMax),
	}, nil
}

type streamReader struct {
	subscription string
	subject      string // of units
	epochs       string // of writers' epochs
	messages     jetstream.MessagesContext
	last         pipeline.Seq // of the last message
	collector    *wire.Collector
	decoder      wire.Decoder
}

func (r *streamReader) Close() {
	r.messages.Stop()
}

func (r *streamReader) Next(ctx context.Context) (Unit, error) {
	for {
		msg, err := r.messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return Unit{}, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return Unit{}, fmt.Errorf("message behind sequence %d: %w", r.last, err)
		}
		seq := pipeline.Seq(meta.Sequence.Stream)
		if seq != r.last+1 {
			return Unit{}, &Fatal{
				Problem: fmt.Sprintf("stream sequence %d follows %d: messages between were deleted", seq, r.last), Try: startOver,
			}
		}
		r.last = seq
		u, complete, err := r.message(msg)
		if err != nil {
			return Unit{}, fmt.Errorf("stream sequence %d: %w", seq, err)
		}
		if complete {
			u.Seq, u.Pending = seq, meta.NumPending
			return u, nil
		}
	}
}

// message takes one message; a unit is complete with its last part. Everything that is not a transaction moves
// the position, unless it stands between the parts of a unit: a position is always a unit's end.
func (r *streamReader) message(msg jetstream.Msg) (u Unit, complete bool, err error) {
	header := msg.Headers()
	if text := header.Get(wire.HeaderWatermark); text != "" {
		if u.Watermark, err = pipeline.ParseCSN(text); err != nil {
			return u, false, &Fatal{Problem: "header " + wire.HeaderWatermark, Err: err}
		}
	}
	if msg.Subject() == r.epochs {
		r.collector.Reset() // a new writer: whatever the one before left unfinished stays so
	}
	if msg.Subject() != r.subject {
		return u, !r.collector.Pending(), nil
	}
	if format := header.Get(wire.HeaderFormat); format != "" && format != formatInternal {
		return u, false, &Fatal{
			Problem: fmt.Sprintf("the stream's format is %s, and only %s can be applied", format, formatInternal),
			Try:     "create a subscription with --format internal for this target",
		}
	}
	payload, complete, err := r.collector.Add(header.Get(wire.HeaderPart), msg.Data())
	if err != nil {
		return u, false, &Fatal{Problem: "unit in parts", Err: err, Try: startOver}
	}
	if !complete {
		return u, false, nil
	}
	if header.Get(wire.HeaderCheckpoint) == "" {
		return u, false, &Fatal{Problem: fmt.Sprintf("a unit ends without header %s: it was not written by this product", wire.HeaderCheckpoint)}
	}
	u.Bytes = len(payload)
	if u.Unit, err = r.decoder.DecodeUnit(payload); err != nil {
		return u, false, &Fatal{Problem: "unit", Err: err, Try: "run a version that reads this format; if it is damaged, restore the stream"}
	}
	return u, true, nil
}
