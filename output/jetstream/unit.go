package jetstream

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

const (
	headersMax    = 60 << 10 // the server's limit for all headers of a message is 64 kB
	batchMessages = 1000     // the server's limit for an atomic batch
	batchBytes    = 8 << 20  // of a batch that is a part of one transaction

	// A larger checkpoint has messages of its own. One of no prepared fragments takes some hundred bytes, each
	// prepared fragment some 30.
	checkpointHeaderMax = 16 << 10
)

// Publish stores the batch as one unit and returns when it is durable. It tries again on its own while the
// server cannot be reached, has no leader or has no room. Other errors are final: ErrFenced, or what the
// server refuses. A payload that is not in memory is read while it is published, at most a batch of it is kept; when
// that fails the unit has no end, and what was stored of it means nothing.
func (p *Publisher) Publish(ctx context.Context, b *pipeline.Batch) error {
	if err := p.publish(ctx, b); err != nil {
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
		m := u.message(wire.WatermarkSubject(p.conf.Subscription), nil)
		m.Header.Set(wire.HeaderCSN, b.Previous.String())
		return u.end(ctx, []*nats.Msg{m})
	}
	payloads, err := p.conf.Encoder.Encode(b)
	if err != nil {
		return err
	}
	if payloads[0].Large != nil {
		return u.large(ctx, payloads)
	}
	return u.resident(ctx, payloads)
}

// unit is a batch on its way into the stream.
type unit struct {
	p          *Publisher
	single     bool // one transaction: its parts may be in several batches
	epoch, seq string
	watermark  string
	header     string // the checkpoint as a header; empty: it is too large for one
	checkpoint []byte // then it is here
}

func (p *Publisher) newUnit(b *pipeline.Batch) (*unit, error) {
	u := &unit{
		p: p, single: len(b.Transactions) <= 1, watermark: b.Checkpoint.Watermark.String(),
		epoch: strconv.FormatUint(uint64(p.epoch), 10), seq: strconv.FormatUint(uint64(p.lastUnit), 10),
		header: wire.CheckpointHeader(&b.Checkpoint),
	}
	if len(u.header) > checkpointHeaderMax {
		u.header, u.checkpoint = "", wire.AppendCheckpoint(nil, &b.Checkpoint)
	}
	if len(u.checkpoint) > wire.CheckpointBytesMax {
		return nil, fmt.Errorf("the checkpoint takes %d bytes, at most %d are possible: too many prepared transactions are in doubt. Try: cdcctl status, and commit or roll back the prepared transactions that it lists", len(u.checkpoint), wire.CheckpointBytesMax)
	}
	return u, nil
}

// message is one with the headers that all messages of a unit have.
func (u *unit) message(subject string, data []byte) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = data
	m.Header.Set(wire.HeaderFormat, u.p.conf.Format)
	m.Header.Set(wire.HeaderEpoch, u.epoch)
	m.Header.Set(wire.HeaderUnit, u.seq)
	return m
}

// part is part k of n of a payload.
func (u *unit) part(subject string, data []byte, k, n int) *nats.Msg {
	m := u.message(subject, data)
	if n > 1 {
		m.Header.Set(wire.HeaderPart, wire.PartHeader(k, n))
	}
	return m
}

func (u *unit) transactionPart(csn string, data []byte, k, n int) *nats.Msg {
	m := u.part(wire.Subject(u.p.conf.Subscription), data, k, n)
	m.Header.Set(wire.HeaderCSN, csn)
	return m
}

// resident publishes payloads that are in memory.
func (u *unit) resident(ctx context.Context, payloads []output.Payload) error {
	var msgs []*nats.Msg
	for _, pl := range payloads {
		parts := wire.Split(pl.Data, u.p.limit)
		csn := pl.CSN.String()
		for k, part := range parts {
			msgs = append(msgs, u.transactionPart(csn, part, k+1, len(parts)))
		}
	}
	for u.single {
		n := chunk(msgs)
		if n == len(msgs) {
			break
		}
		if err := u.p.store(ctx, msgs[:n]); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return u.end(ctx, msgs) // several transactions: all or none
}

// chunk is how many messages of a single transaction go into the next atomic batch. A server stages a batch and copies
// it when it commits, a replicated one in memory and in one proposal, so a batch has to be small in bytes as well.
func chunk(msgs []*nats.Msg) int {
	n, size := 0, 0
	for n < len(msgs) && fits(n, size, len(msgs[n].Data)) {
		size += len(msgs[n].Data)
		n++
	}
	return n
}

// fits says whether a message goes into a batch of n messages and size bytes.
func fits(n, size, message int) bool {
	return n == 0 || n < batchMessages && size+message <= batchBytes
}

// end stores the last messages of the unit, and with them that it is complete.
func (u *unit) end(ctx context.Context, msgs []*nats.Msg) error {
	value, needed := u.header, u.p.last+pipeline.Seq(len(msgs))
	if value == "" {
		// Before the messages, so that the end mark stays the unit's last message. The publish demands the stream's
		// last sequence, so the sequences are known.
		needed = u.p.last + 1
		value = wire.CheckpointReference(needed)
		msgs = append(u.checkpointMessages(), msgs...)
	}
	if len(msgs) > batchMessages {
		return fmt.Errorf("a unit that must be stored at once has %d messages, and an atomic batch holds %d", len(msgs), batchMessages)
	}
	end := msgs[len(msgs)-1].Header
	end.Set(wire.HeaderCheckpoint, value)
	end.Set(wire.HeaderWatermark, u.watermark)
	if err := u.p.store(ctx, msgs); err != nil {
		return err
	}
	u.p.lastUnit, u.p.needed = u.p.last, needed
	return nil
}

func (u *unit) checkpointMessages() []*nats.Msg {
	parts := wire.Split(u.checkpoint, u.p.limit)
	msgs := make([]*nats.Msg, len(parts))
	for k, part := range parts {
		msgs[k] = u.part(wire.CheckpointSubject(u.p.conf.Subscription), part, k+1, len(parts))
	}
	return msgs
}
