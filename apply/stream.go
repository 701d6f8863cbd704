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
	PullBytes = 8 << 20 // in flight; a limit in messages hangs on large ones
	// memoryBytesDefault: two of the batches in which a large unit is published.
	memoryBytesDefault = 16 << 20
	// stallDefault: when the rest of a unit does not come for so long, the stream is looked at again.
	stallDefault = 30 * time.Second
)

// Stream is the Source in JetStream. It uses ordered consumers, which keep nothing on the server: the position
// is the target's progress. It reads every subject of the stream, so sequence numbers without a gap prove that
// nothing is missing.
type Stream struct {
	// MemoryBytes: a unit in parts with more bytes of rows is not put together in memory; its rows are Arriving. Set it
	// before Open. Default 16 MiB.
	MemoryBytes int64

	js           jetstream.JetStream
	subscription string
	stall        time.Duration
}

// NewStream makes the Source of a subscription.
func NewStream(js jetstream.JetStream, subscription string) *Stream {
	return &Stream{js: js, subscription: subscription, MemoryBytes: memoryBytesDefault, stall: stallDefault}
}

var _ Source = (*Stream)(nil)

// requestMax bounds one request to the server. A cluster that elects a leader drops requests, and the worker asks again.
const requestMax = 3 * time.Second

// Describe asks the server for the stream's identity and borders.
func (s *Stream) Describe(ctx context.Context) (StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
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

// Stamp asks for a message's time.
func (s *Stream) Stamp(ctx context.Context, seq pipeline.Seq) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	stream, err := s.js.Stream(ctx, wire.StreamName(s.subscription))
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", wire.StreamName(s.subscription), err)
	}
	m, err := stream.GetMsg(ctx, uint64(seq))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("message %d of stream %s: %w", seq, wire.StreamName(s.subscription), err)
	}
	return m.Time.UnixNano(), nil
}

// Open begins to read behind a sequence.
func (s *Stream) Open(ctx context.Context, after pipeline.Seq) (Reader, error) {
	info, err := s.Describe(ctx)
	if err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	consumer, err := s.js.OrderedConsumer(opening, wire.StreamName(s.subscription), jetstream.OrderedConsumerConfig{
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
	messages, err := consumer.Messages(jetstream.PullMaxBytes(PullBytes))
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	return &streamReader{
		stream: s, id: info.ID,
		messages: messages, last: message{seq: after}, memoryBytes: s.MemoryBytes,
		subject: wire.Subject(s.subscription), epochs: wire.EpochSubject(s.subscription),
		checkpoints: wire.CheckpointSubject(s.subscription),
	}, nil
}
