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

// Config says what to publish where.
type Config struct {
	Subscription string
	Incarnation  string // of the stream
	Node         string // written into the epoch message
	Format       string // "internal", "json", "sql"
	Encoder      output.Encoder
	BatchMax     int // messages that the server takes in an atomic batch
	// Watermark, if set, makes the data of the messages that tell a watermark alone; without it they have none.
	Watermark func(pipeline.CSN) []byte
	// Stalled, if set, is called when a publish has to be tried again (err) and when it went through (nil).
	Stalled func(err error)
	// Keep, if set, finds the first message that somebody still needs. It is asked when there is no room for a publish, and
	// what is below is removed.
	Keep func(ctx context.Context) (pipeline.Seq, error)
}

// Publisher writes a subscription's stream. It is used by one goroutine.
type Publisher struct {
	conf   Config
	nc     *nats.Conn
	stream natsjs.Stream
	limit  int // bytes of payload in one message
	// together is how many messages of one transaction are a batch at most. A server that takes 1000 at once has room for a checkpoint
	// beside them.
	together int

	epoch    pipeline.Seq // sequence of our epoch message: the fencing token
	last     pipeline.Seq // of the stream's last message
	lastUnit pipeline.Seq // of the message that ended the last unit
	needed   pipeline.Seq // from here on the last unit's end and checkpoint; at most lastUnit
	torn     bool         // the stream ends with the beginning of a unit

	roomUpTo pipeline.Seq // what is before was removed when the stream was full

	patience time.Duration // how long to wait for the next answer

	subjects subjects
	letter   letter    // the message that is being sent
	msgs     []message // scratch: those of a unit
}

// subjects of the subscription.
type subjects struct {
	subscription                               string
	transactions, watermark, checkpoint, epoch string

	byTokens map[string]string // what payloads ask for
	tokens   string            // the last one, and
	full     string            // its subject: rows of a table come together
}

// subjectsMax bounds byTokens; when it is reached it starts anew.
const subjectsMax = 10_000

func subjectsOf(subscription string) subjects {
	return subjects{
		subscription: subscription,
		transactions: wire.Subject(subscription), watermark: wire.WatermarkSubject(subscription),
		checkpoint: wire.CheckpointSubject(subscription), epoch: wire.EpochSubject(subscription),
	}
}

// of is the subject that a payload goes to.
func (s *subjects) of(tokens string) string {
	switch tokens {
	case "":
		return s.transactions
	case s.tokens:
		return s.full
	}
	full, ok := s.byTokens[tokens]
	if !ok {
		if s.byTokens == nil || len(s.byTokens) >= subjectsMax {
			s.byTokens = map[string]string{}
		}
		full = wire.SubjectOf(s.subscription, tokens)
		s.byTokens[tokens] = full
	}
	s.tokens, s.full = tokens, full
	return full
}

// Open takes the stream over: it writes an epoch message, from which on no earlier writer can publish, and
// reads the checkpoint of the last complete unit. ok is false if the stream has no unit yet.
func Open(ctx context.Context, nc *nats.Conn, js natsjs.JetStream, c Config) (p *Publisher, at pipeline.Checkpoint, ok bool, err error) {
	s, err := openStream(ctx, js, c.Subscription, c.Incarnation)
	if err != nil {
		return nil, at, false, err
	}
	p = &Publisher{
		conf: c, nc: nc, stream: s, limit: MessageBytes(nc), together: min(c.BatchMax*4/5, togetherMax), patience: patienceMin,
		subjects: subjectsOf(c.Subscription),
	}
	if p.limit < headersMax {
		return nil, at, false, fmt.Errorf("the NATS server's max_payload is %d bytes. Try: set it to 1MB or more", nc.MaxPayload())
	}
	err = p.takeOver(ctx)
	if Full(err) { // not even an epoch has room
		if _, _, err := p.recover(ctx); err != nil { // it says what is needed
			return nil, at, false, fmt.Errorf("read the checkpoint of stream %s: %w", s.CachedInfo().Config.Name, err)
		}
		removed, lookErr := p.makeRoom(ctx)
		if removed {
			err = p.takeOver(ctx)
		} else {
			err = errors.Join(err, lookErr)
		}
	}
	if err != nil {
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

// Replicas is how many servers keep the stream.
func (p *Publisher) Replicas() int { return p.stream.CachedInfo().Config.Replicas }

func (p *Publisher) takeOver(ctx context.Context) error {
	before, err := lastOn(ctx, p.stream, p.subjects.epoch)
	if err != nil {
		return err
	}
	msg := nats.NewMsg(p.subjects.epoch)
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
	p.lastUnit = pipeline.Seq(tail.Sequence)
	if at, err = p.checkpointOf(ctx, tail); err != nil {
		return at, false, err
	}
	return at, true, nil
}

// checkpointOf reads the checkpoint of the unit that a message ends.
func (p *Publisher) checkpointOf(ctx context.Context, end *natsjs.RawStreamMsg) (pipeline.Checkpoint, error) {
	at, own, err := wire.ReadCheckpoint(end.Header.Get(wire.HeaderCheckpoint), func(seq pipeline.Seq) (part string, data []byte, err error) {
		return p.checkpointPart(ctx, seq)
	})
	var fatal *FatalError
	if err != nil && !errors.As(err, &fatal) {
		return at, fmt.Errorf("message %d: %w", end.Sequence, err)
	}
	p.needed = p.lastUnit
	if own > 0 {
		p.needed = own
	}
	return at, err
}

// checkpointPart reads a message of a checkpoint that has messages of its own.
func (p *Publisher) checkpointPart(ctx context.Context, seq pipeline.Seq) (part string, data []byte, err error) {
	m, err := p.stream.GetMsg(ctx, uint64(seq))
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return "", nil, p.purged(uint64(seq))
	}
	if err != nil {
		return "", nil, fmt.Errorf("checkpoint in message %d: %w", seq, err)
	}
	if want := p.subjects.checkpoint; m.Subject != want {
		return "", nil, fmt.Errorf("checkpoint in message %d: its subject is %s, want %s", seq, m.Subject, want)
	}
	return m.Header.Get(wire.HeaderPart), m.Data, nil
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
	for _, subject := range []string{p.subjects.transactions, p.subjects.watermark} {
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
