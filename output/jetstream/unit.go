package jetstream

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

const (
	headersMax  = 60 << 10 // the server's limit for all headers of a message is 64 kB
	togetherMax = 4000     // messages of a batch that is a part of one transaction: more cost no less
	batchBytes  = 8 << 20  // of such a batch

	// MessageBytesMax bounds a message where the server would take a larger one. Readers ask for so many bytes at a time, and a
	// message that does not fit what is left of that makes them ask again: with messages of half of what is asked for (4 of
	// 8 MB) they stood still for seconds, with a quarter there is nothing to be seen.
	MessageBytesMax = 2<<20 - headersMax

	// A larger checkpoint has messages of its own. One of no prepared fragments takes some hundred bytes, each
	// prepared fragment some 30.
	checkpointHeaderMax = 16 << 10
)

// MessageBytes is how much of a payload goes into one message at the server that nc is connected to.
func MessageBytes(nc *nats.Conn) int { return min(int(nc.MaxPayload())-headersMax, MessageBytesMax) }

// Publish stores the batch as one unit and returns when it is durable. It tries again on its own while the
// server cannot be reached, has no leader or has no room. Other errors are final: ErrFenced, or what the
// server refuses. A payload that is not in memory is read while it is published, at most a batch of it is kept; when
// that fails the unit has no end, and what was stored of it means nothing: an epoch comes before whatever is published next, so
// readers do not take it for the beginning of that.
func (p *Publisher) Publish(ctx context.Context, b *pipeline.Batch) (err error) {
	if p.torn {
		err = p.renewEpoch(ctx)
	}
	if err == nil {
		before := p.last
		err = p.publish(ctx, b)
		p.torn = err != nil && p.last != before
	}
	if err != nil {
		return fmt.Errorf("publish csn %s to %s: %w", b.Previous, b.Last(), err)
	}
	return nil
}

func (p *Publisher) publish(ctx context.Context, b *pipeline.Batch) error {
	u, err := p.newUnit(b)
	if err != nil {
		return err
	}
	if len(b.Transactions) == 0 {
		return u.end(ctx, []message{{subject: p.subjects.watermark, csn: b.Previous.String(), data: p.watermark(b)}})
	}
	payloads, err := p.conf.Encoder.Encode(b)
	if err != nil {
		return err
	}
	switch {
	case payloads[0].Large != nil:
		return u.large(ctx, payloads)
	case payloads[0].Series != nil:
		return u.series(ctx, payloads)
	}
	return u.resident(ctx, payloads)
}

func (p *Publisher) watermark(b *pipeline.Batch) []byte {
	if p.conf.Watermark == nil {
		return nil
	}
	return p.conf.Watermark(b.Checkpoint.Watermark)
}

// message is one that is on its way into the stream.
type message struct {
	subject   string
	csn, part string // headers; empty: without
	headers   []output.Header
	data      []byte
}

// group is stored all or none: a unit, or a part of one.
type group struct {
	msgs        []message
	epoch, unit string // headers of all of them; empty: it belongs to no unit
	checkpoint  string // header of the last one; empty: the unit goes on
	watermark   string // likewise
	taken       string // likewise
}

// unit is a batch on its way into the stream.
type unit struct {
	p          *Publisher
	csn        pipeline.CSN // of csnText: payloads of a transaction come together
	csnText    string
	single     bool // one transaction: its parts may be in several batches
	epoch, seq string
	watermark  string
	taken      string // when publishing it began
	header     string // the checkpoint as a header; empty: it is too large for one
	checkpoint []byte // then it is here
}

func (p *Publisher) newUnit(b *pipeline.Batch) (*unit, error) {
	u := &unit{
		p: p, single: len(b.Transactions) <= 1, watermark: b.Checkpoint.Watermark.String(),
		epoch: strconv.FormatUint(uint64(p.epoch), 10), seq: strconv.FormatUint(uint64(p.lastUnit), 10),
		header: wire.CheckpointHeader(&b.Checkpoint), taken: strconv.FormatInt(time.Now().UnixMicro(), 10),
	}
	if len(u.header) > checkpointHeaderMax {
		u.header, u.checkpoint = "", wire.AppendCheckpoint(nil, &b.Checkpoint)
	}
	if len(u.checkpoint) > wire.CheckpointBytesMax {
		return nil, fmt.Errorf("the checkpoint takes %d bytes, at most %d are possible: too many prepared transactions are in doubt. Try: cdcctl status, and commit or roll back the prepared transactions that it lists", len(u.checkpoint), wire.CheckpointBytesMax)
	}
	return u, nil
}

// part is part k of n of a payload.
func part(subject string, data []byte, k, n int) message {
	m := message{subject: subject, data: data}
	if n > 1 {
		m.part = wire.PartHeader(k, n)
	}
	return m
}

// messages appends those of a payload that is in memory.
func (u *unit) messages(to []message, pl *output.Payload) []message {
	if pl.CSN != u.csn {
		u.csn, u.csnText = pl.CSN, pl.CSN.String()
	}
	m := message{subject: u.p.subjects.of(pl.Subject), csn: u.csnText, headers: pl.Headers, data: pl.Data}
	if len(pl.Data) <= u.p.limit { // nearly always
		return append(to, m)
	}
	parts := wire.Split(pl.Data, u.p.limit)
	for k, data := range parts {
		m.data, m.part = data, wire.PartHeader(k+1, len(parts))
		to = append(to, m)
		m.headers = nil
	}
	return to
}

// resident publishes payloads that are in memory.
func (u *unit) resident(ctx context.Context, payloads []output.Payload) error {
	msgs := u.p.msgs[:0]
	for i := range payloads {
		msgs = u.messages(msgs, &payloads[i])
	}
	defer func() { clear(msgs); u.p.msgs = msgs }()
	rest := msgs
	for u.single {
		n := u.p.chunk(rest)
		if n == len(rest) {
			break
		}
		if err := u.store(ctx, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return u.end(ctx, rest) // several transactions: all or none
}

// store stores messages of the unit that are not its end.
func (u *unit) store(ctx context.Context, msgs []message) error {
	return u.p.store(ctx, &group{msgs: msgs, epoch: u.epoch, unit: u.seq})
}

// chunk is how many messages of a single transaction go into the next atomic batch. A server stages a batch and copies
// it when it commits, a replicated one in memory and in one proposal, so a batch has to be small in bytes as well.
func (p *Publisher) chunk(msgs []message) int {
	n, size := 0, 0
	for n < len(msgs) && p.fits(n, size, len(msgs[n].data)) {
		size += len(msgs[n].data)
		n++
	}
	return n
}

// fits says whether a message goes into a batch of n messages and size bytes. Large ones are better stored alone: the server
// writes them once, not twice.
func (p *Publisher) fits(n, size, message int) bool {
	const large = batchBytes / 8
	return n == 0 || n < p.together && size+message <= batchBytes && message <= large && size <= n*large
}

// end stores the last messages of the unit, and with them that it is complete.
func (u *unit) end(ctx context.Context, msgs []message) error {
	g := group{msgs: msgs, epoch: u.epoch, unit: u.seq, checkpoint: u.header, watermark: u.watermark, taken: u.taken}
	needed := u.p.last + pipeline.Seq(len(msgs))
	if g.checkpoint == "" {
		// Before the messages, so that the end mark stays the unit's last message. The publish demands the stream's
		// last sequence, so the sequences are known.
		needed = u.p.last + 1
		g.checkpoint = wire.CheckpointReference(needed)
		g.msgs = append(u.checkpointMessages(), msgs...)
	}
	if len(g.msgs) > u.p.conf.BatchMax && u.single && len(msgs) > 1 { // messages are small here: the checkpoint takes many
		if err := u.store(ctx, msgs[:len(msgs)-1]); err != nil {
			return err
		}
		return u.end(ctx, msgs[len(msgs)-1:])
	}
	if len(g.msgs) > u.p.conf.BatchMax {
		return fmt.Errorf("a unit that must be stored at once has %d messages, and an atomic batch holds %d", len(g.msgs), u.p.conf.BatchMax)
	}
	if err := u.p.store(ctx, &g); err != nil {
		return err
	}
	u.p.lastUnit, u.p.needed = u.p.last, needed
	return nil
}

func (u *unit) checkpointMessages() []message {
	parts := wire.Split(u.checkpoint, u.p.limit)
	msgs := make([]message, len(parts))
	for k, data := range parts {
		msgs[k] = part(u.p.subjects.checkpoint, data, k+1, len(parts))
	}
	return msgs
}
