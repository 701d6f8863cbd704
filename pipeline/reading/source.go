package reading

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// Message is a message of a subscription's stream.
type Message struct {
	Seq     pipeline.Seq
	Time    time.Time // when the server stored it, by its clock
	Subject string
	Header  nats.Header
	Data    []byte
}

// Ends says that the message is the last one of its unit.
func (m *Message) Ends() bool { return m.Header.Get(wire.HeaderCheckpoint) != "" }

// UnitBefore is the sequence of the message that ended the unit before this message's; ok is false for a message that
// belongs to no unit: an epoch.
func (m *Message) UnitBefore() (seq pipeline.Seq, ok bool, err error) {
	text := m.Header.Get(wire.HeaderUnit)
	if text == "" {
		return 0, false, nil
	}
	if _, err := fmt.Sscanf(text, "%d", &seq); err != nil {
		return 0, false, fmt.Errorf("stream sequence %d: header %s %q: want a sequence", m.Seq, wire.HeaderUnit, text)
	}
	return seq, true, nil
}

// Source has a stream's messages.
type Source interface {
	// Borders are the first and the last sequence, as they were when the source was opened. First = Last + 1: it is empty.
	Borders() (first, last pipeline.Seq)
	// Get reads one message; ErrGone when it is not there.
	Get(ctx context.Context, seq pipeline.Seq) (*Message, error)
	// Read calls fn with every message from a sequence on, in order, up to the last one, or with follow also with those
	// that come later. It ends without an error when fn returns ErrStop.
	Read(ctx context.Context, from pipeline.Seq, follow bool, fn func(*Message) error) error
}

var (
	// ErrGone says that a message is not in the stream, or not any more.
	ErrGone = errors.New("the message is gone")
	// ErrStop ends a Read.
	ErrStop = errors.New("stop")
)

// pullBytes is what is in flight of a live stream; a limit in messages hangs on large ones.
const pullBytes = 8 << 20

// quiet is how long nothing comes before Read asks whether something is left.
const quiet = time.Second

// Stream is a Source in JetStream.
type Stream struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	name   string
}

// Live opens the stream of a subscription.
func Live(ctx context.Context, js jetstream.JetStream, subscription string) (*Stream, error) {
	name := wire.StreamName(subscription)
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s is gone. Try: restore it, or cdcctl drop-subscription %s and create it again", name, subscription)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return &Stream{js: js, stream: stream, name: name}, nil
}

// Info is what the server said about the stream when it was opened.
func (s *Stream) Info() *jetstream.StreamInfo { return s.stream.CachedInfo() }

// Borders is the source's.
func (s *Stream) Borders() (first, last pipeline.Seq) {
	state := s.stream.CachedInfo().State
	return pipeline.Seq(max(1, state.FirstSeq)), pipeline.Seq(state.LastSeq)
}

// Get is the source's.
func (s *Stream) Get(ctx context.Context, seq pipeline.Seq) (*Message, error) {
	m, err := s.stream.GetMsg(ctx, uint64(seq))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("stream sequence %d: %w", seq, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("read stream sequence %d: %w", seq, err)
	}
	return &Message{Seq: pipeline.Seq(m.Sequence), Time: m.Time, Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}

// Read is the source's.
func (s *Stream) Read(ctx context.Context, from pipeline.Seq, follow bool, fn func(*Message) error) error {
	_, last := s.Borders()
	if !follow && from > last {
		return nil
	}
	consumer, err := s.js.OrderedConsumer(ctx, s.name, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(from),
	})
	if err != nil {
		return fmt.Errorf("read stream %s: %w", s.name, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(pullBytes))
	if err != nil {
		return fmt.Errorf("read stream %s: %w", s.name, err)
	}
	defer messages.Stop()
	end := last
	if follow {
		end = math.MaxUint64
	}
	for seq := from; seq <= end; {
		m, err := s.next(ctx, messages, seq, end)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", s.name, err)
		}
		if m == nil || m.Seq > end {
			return nil
		}
		seq = m.Seq + 1
		if err := fn(m); errors.Is(err, ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// next is the next message, from a sequence on; nil when there is none up to end. The last ones may be removed while the stream is
// read, and nothing comes then.
func (s *Stream) next(ctx context.Context, messages jetstream.MessagesContext, from, end pipeline.Seq) (*Message, error) {
	for {
		patience, cancel := ctx, context.CancelFunc(func() {})
		if end < math.MaxUint64 {
			patience, cancel = context.WithTimeout(ctx, quiet)
		}
		m, err := received(patience, messages)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return m, err
		}
		if some, err := s.has(ctx, from, end); err != nil || !some {
			return nil, err
		}
	}
}

// has says whether there are messages between two sequences, by the stream's leader: a replica may not know all of them yet.
func (s *Stream) has(ctx context.Context, from, to pipeline.Seq) (bool, error) {
	stream, err := s.js.Stream(ctx, s.name) // this one's Borders stay as they are
	if err != nil {
		return false, err
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return false, err
	}
	from, to = max(from, pipeline.Seq(info.State.FirstSeq)), min(to, pipeline.Seq(info.State.LastSeq))
	if from > to {
		return false, nil
	}
	gone := pipeline.Seq(0)
	for _, seq := range info.State.Deleted {
		if s := pipeline.Seq(seq); s >= from && s <= to {
			gone++
		}
	}
	return gone < to-from+1, nil
}

func received(ctx context.Context, messages jetstream.MessagesContext) (*Message, error) {
	msg, err := messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, err
	}
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	return &Message{
		Seq: pipeline.Seq(meta.Sequence.Stream), Time: meta.Timestamp, Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data(),
	}, nil
}
