package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

const (
	headersMax    = 60 << 10 // the server's limit for all headers of a message is 64 kB
	batchMessages = 1000     // the server's limit for an atomic batch
	batchBytes    = 8 << 20  // of a batch that is a part of one transaction
	ackTimeout    = 10 * time.Second
	retryFirst    = 50 * time.Millisecond
	retryMost     = 2 * time.Second
)

// Config says what to publish where.
type Config struct {
	Subscription string
	Incarnation  string // of the stream
	Node         string // written into the epoch message
	Format       string // "internal", "json", "sql"
	Encoder      output.Encoder
	// Stalled, if set, is called when a publish has to be tried again (err) and when it went through (nil).
	Stalled func(err error)
}

// Publisher writes a subscription's stream. It is used by one goroutine.
type Publisher struct {
	conf   Config
	nc     *nats.Conn
	stream natsjs.Stream
	limit  int // bytes of payload in one message

	epoch    pipeline.Seq // sequence of our epoch message: the fencing token
	last     pipeline.Seq // of the stream's last message
	lastUnit pipeline.Seq // of the message that ended the last unit
}

// Open takes the stream over: it writes an epoch message, from which on no earlier writer can publish, and
// reads the checkpoint of the last complete unit. ok is false if the stream has no unit yet.
func Open(ctx context.Context, nc *nats.Conn, js natsjs.JetStream, c Config) (p *Publisher, at pipeline.Checkpoint, ok bool, err error) {
	s, err := openStream(ctx, js, c.Subscription, c.Incarnation)
	if err != nil {
		return nil, at, false, err
	}
	p = &Publisher{conf: c, nc: nc, stream: s, limit: int(nc.MaxPayload()) - headersMax}
	if p.limit < headersMax {
		return nil, at, false, fmt.Errorf("the NATS server's max_payload is %d bytes. Try: set it to 1MB or more", nc.MaxPayload())
	}
	if err := p.takeOver(ctx); err != nil {
		return nil, at, false, fmt.Errorf("take stream %s over: %w", s.CachedInfo().Config.Name, err)
	}
	at, ok, err = p.recover(ctx)
	if err != nil {
		return nil, at, false, fmt.Errorf("read the checkpoint of stream %s: %w", s.CachedInfo().Config.Name, err)
	}
	return p, at, ok, nil
}

// Epoch is the fencing token of this writer.
func (p *Publisher) Epoch() pipeline.Seq { return p.epoch }

// LastSeq is the sequence of the stream's last message.
func (p *Publisher) LastSeq() pipeline.Seq { return p.last }

func (p *Publisher) takeOver(ctx context.Context) error {
	subject := wire.EpochSubject(p.conf.Subscription)
	before, err := lastOn(ctx, p.stream, subject)
	if err != nil {
		return err
	}
	msg := nats.NewMsg(subject)
	msg.Data = []byte(p.conf.Node)
	msg.Header.Set(natsjs.ExpectedLastSubjSeqHeader, strconv.FormatUint(uint64(before), 10))
	ack, err := p.request(ctx, msg)
	if err != nil {
		return err
	}
	p.epoch, p.last = ack, ack
	return nil
}

// lastOn is the sequence of the last message on a subject, 0 if there is none.
func lastOn(ctx context.Context, s natsjs.Stream, subject string) (pipeline.Seq, error) {
	m, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return pipeline.Seq(m.Sequence), nil
}

// recover reads the checkpoint of the last complete unit.
func (p *Publisher) recover(ctx context.Context) (at pipeline.Checkpoint, ok bool, err error) {
	tail, err := p.tail(ctx)
	if err != nil {
		return at, false, err
	}
	if tail == nil {
		return at, false, p.neverPurged(ctx)
	}
	if tail.Header.Get(wire.HeaderCheckpoint) == "" {
		// The beginning of a unit whose writer died. It names the unit before; readers discard it.
		seq, err := strconv.ParseUint(tail.Header.Get(wire.HeaderUnit), 10, 64)
		if err != nil {
			return at, false, fmt.Errorf("message %d: header %s: %w", tail.Sequence, wire.HeaderUnit, err)
		}
		if seq == 0 {
			return at, false, nil
		}
		tail, err = p.stream.GetMsg(ctx, seq)
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			return at, false, p.purged(seq)
		}
		if err != nil {
			return at, false, fmt.Errorf("message %d: %w", seq, err)
		}
	}
	at, err = wire.ParseCheckpointHeader(tail.Header.Get(wire.HeaderCheckpoint))
	if err != nil {
		return at, false, fmt.Errorf("message %d: %w", tail.Sequence, err)
	}
	p.lastUnit = pipeline.Seq(tail.Sequence)
	return at, true, nil
}

// neverPurged tells a new stream, where the subscription begins, from one whose checkpoint was purged.
func (p *Publisher) neverPurged(ctx context.Context) error {
	info, err := p.stream.Info(ctx)
	if err != nil {
		return err
	}
	if info.State.FirstSeq > 1 {
		return p.purged(info.State.FirstSeq - 1)
	}
	return nil
}

func (p *Publisher) purged(seq uint64) error {
	return &FatalError{
		What: fmt.Sprintf("stream %s was purged up to its end (message %d is gone), and with it the position to go on from", p.stream.CachedInfo().Config.Name, seq),
		Try:  fmt.Sprintf("cdcctl drop-subscription %s, fill the targets again, and create it again; when purging, keep the last transaction", p.conf.Subscription),
	}
}

// tail is the last message that is not an epoch, nil if there is none.
func (p *Publisher) tail(ctx context.Context) (*natsjs.RawStreamMsg, error) {
	var tail *natsjs.RawStreamMsg
	for _, subject := range []string{wire.Subject(p.conf.Subscription), wire.WatermarkSubject(p.conf.Subscription)} {
		m, err := p.stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if tail == nil || m.Sequence > tail.Sequence {
			tail = m
		}
	}
	return tail, nil
}

// Publish stores the batch as one unit and returns when it is durable. It tries again on its own while the
// server cannot be reached, has no leader or has no room. Other errors are final: ErrFenced, or what the
// server refuses.
func (p *Publisher) Publish(ctx context.Context, b *pipeline.Batch) error {
	msgs, err := p.messages(b)
	if err != nil {
		return fmt.Errorf("publish after csn %s: %w", b.Previous, err)
	}
	for len(msgs) > 0 {
		n := len(msgs) // several transactions: all or none
		if len(b.Transactions) <= 1 {
			n = chunk(msgs)
		}
		if err := p.store(ctx, msgs[:n]); err != nil {
			return fmt.Errorf("publish csn %s: %w", b.Last(), err)
		}
		msgs = msgs[n:]
	}
	p.lastUnit = p.last
	return nil
}

// chunk is how many messages of a single transaction go into the next atomic batch. A server stages a batch and copies
// it when it commits, a replicated one in memory and in one proposal, so a batch has to be small in bytes as well.
func chunk(msgs []*nats.Msg) int {
	n, size := 0, 0
	for n < min(len(msgs), batchMessages) && (n == 0 || size+len(msgs[n].Data) <= batchBytes) {
		size += len(msgs[n].Data)
		n++
	}
	return n
}

// messages encodes a batch.
func (p *Publisher) messages(b *pipeline.Batch) ([]*nats.Msg, error) {
	var msgs []*nats.Msg
	if len(b.Transactions) == 0 {
		msgs = append(msgs, nats.NewMsg(wire.WatermarkSubject(p.conf.Subscription)))
		msgs[0].Header.Set(wire.HeaderCSN, b.Previous.String())
	} else {
		payloads, err := p.conf.Encoder.Encode(b)
		if err != nil {
			return nil, err
		}
		for _, pl := range payloads {
			msgs = p.appendParts(msgs, pl)
		}
	}
	if len(msgs) > batchMessages && len(b.Transactions) > 1 {
		return nil, fmt.Errorf("%d transactions in %d messages: a unit of several transactions must fit a batch of %d messages", len(b.Transactions), len(msgs), batchMessages)
	}
	checkpoint := wire.CheckpointHeader(&b.Checkpoint)
	if len(checkpoint) > headersMax-1024 {
		return nil, fmt.Errorf("the checkpoint takes %d bytes: too many prepared transactions are in doubt. Try: cdcctl status, and commit or roll back the prepared transactions that it lists", len(checkpoint))
	}
	unit := strconv.FormatUint(uint64(p.lastUnit), 10)
	epoch := strconv.FormatUint(uint64(p.epoch), 10)
	for _, m := range msgs {
		m.Header.Set(wire.HeaderFormat, p.conf.Format)
		m.Header.Set(wire.HeaderEpoch, epoch)
		m.Header.Set(wire.HeaderUnit, unit)
	}
	end := msgs[len(msgs)-1].Header
	end.Set(wire.HeaderCheckpoint, checkpoint)
	end.Set(wire.HeaderWatermark, b.Checkpoint.Watermark.String())
	return msgs, nil
}

func (p *Publisher) appendParts(msgs []*nats.Msg, pl output.Payload) []*nats.Msg {
	parts := wire.Split(pl.Data, p.limit)
	for k, part := range parts {
		m := nats.NewMsg(wire.Subject(p.conf.Subscription))
		m.Data = part
		m.Header.Set(wire.HeaderCSN, pl.CSN.String())
		if len(parts) > 1 {
			m.Header.Set(wire.HeaderPart, wire.PartHeader(k+1, len(parts)))
		}
		msgs = append(msgs, m)
	}
	return msgs
}
