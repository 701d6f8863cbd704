package apply

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// streamReader makes units of messages. While a unit is Arriving, whoever reads that one owns it.
type streamReader struct {
	stream      *Stream
	id          string // of the stream; see StreamInfo
	subject     string // of units
	epochs      string // of writers' epochs
	checkpoints string // that are too large for a header
	memoryBytes int64
	messages    jetstream.MessagesContext
	decoder     wire.Decoder

	last, before message  // the last two that were received, without their data
	held         *message // received, and to be received again
	unit         *parts   // an unfinished payload, in memory
}

// message of the stream.
type message struct {
	seq     pipeline.Seq
	stamp   int64
	pending uint64
	subject string
	header  nats.Header
	data    []byte
}

func (m *message) end(watermark pipeline.CSN) End {
	return End{Seq: m.seq, Stamp: m.stamp, Pending: m.pending, Watermark: watermark}
}

func (r *streamReader) Close() { r.messages.Stop() }

func (r *streamReader) Next(ctx context.Context) (Unit, error) {
	for {
		m, err := r.receive(ctx)
		if err != nil {
			return Unit{}, err
		}
		u, complete, err := r.take(ctx, m)
		if err != nil {
			return Unit{}, fmt.Errorf("stream sequence %d: %w", m.seq, err)
		}
		if complete {
			return u, nil
		}
	}
}

// receive waits for the next message. Sequence numbers without a gap prove that nothing is missing.
func (r *streamReader) receive(ctx context.Context) (*message, error) {
	if m := r.held; m != nil {
		r.held, r.before, r.last = nil, r.last, message{seq: m.seq, stamp: m.stamp}
		return m, nil
	}
	msg, err := r.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, err
	}
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("message behind sequence %d: %w", r.last.seq, err)
	}
	seq := pipeline.Seq(meta.Sequence.Stream)
	if seq != r.last.seq+1 {
		return nil, &Fatal{
			Problem: fmt.Sprintf("stream sequence %d follows %d: messages between were deleted", seq, r.last.seq), Try: startOver,
		}
	}
	m := &message{
		seq: seq, stamp: meta.Timestamp.UnixNano(), pending: meta.NumPending,
		subject: msg.Subject(), header: msg.Headers(), data: msg.Data(),
	}
	r.before, r.last = r.last, message{seq: m.seq, stamp: m.stamp}
	return m, nil
}

// stillThere looks whether the stream is the one that was opened, and holds what was read.
func (r *streamReader) stillThere(ctx context.Context) error {
	info, err := r.stream.Describe(ctx)
	if err != nil {
		return err
	}
	if info.ID != r.id || info.Last < r.last.seq {
		return fmt.Errorf("the stream was replaced or lost its end: it is %s up to sequence %d, and was %s up to %d at least", info.ID, info.Last, r.id, r.last.seq)
	}
	return nil
}

// hold gives the last message back: it belongs to what comes next.
func (r *streamReader) hold(m *message) {
	r.held, r.last = m, r.before
}

// take takes one message; a unit is complete with its last part. Everything that is not a transaction moves
// the position, unless it stands between the parts of a unit: a position is always a unit's end.
func (r *streamReader) take(ctx context.Context, m *message) (u Unit, complete bool, err error) {
	watermark, err := m.watermark()
	if err != nil {
		return u, false, err
	}
	if m.subject == r.epochs {
		r.unit = nil // a new writer: whatever the one before left unfinished stays so
	}
	if m.subject != r.subject {
		return Unit{End: m.end(watermark)}, r.unit == nil && m.subject != r.checkpoints, nil
	}
	if err := m.checkFormat(); err != nil {
		return u, false, err
	}
	part := m.header.Get(wire.HeaderPart)
	if part == "" {
		r.unit = nil
		if err := m.checkEnd(); err != nil {
			return u, false, err
		}
		if u.Unit, err = r.decoder.DecodeUnit(m.data); err != nil {
			return u, false, damaged(err)
		}
		u.Bytes, u.End = len(m.data), m.end(watermark)
		return u, true, nil
	}
	return r.part(ctx, m, part)
}

// part takes a message of several.
func (r *streamReader) part(ctx context.Context, m *message, header string) (u Unit, complete bool, err error) {
	k, n, err := wire.ParsePart(header)
	if err != nil {
		return u, false, damaged(err)
	}
	if k == 1 {
		r.unit = &parts{assembly: r.decoder.Begin(n), of: n}
	}
	if r.unit == nil {
		return u, false, damaged((*wire.Assembly)(nil).Expect(k, n))
	}
	headed := r.unit.assembly.Head() != nil
	pieces, err := r.unit.add(k, n, m.data)
	if err != nil {
		return u, false, err
	}
	head := r.unit.assembly.Head()
	if head == nil {
		return u, false, nil
	}
	u.Unit = head
	if !headed && bodiesOf(head) > r.memoryBytes {
		u.Arriving = arrive(ctx, r, r.unit, pieces, m)
		r.unit = nil
		return u, true, nil
	}
	r.unit.keep(pieces)
	if k < n {
		return u, false, nil
	}
	u.Bytes = r.unit.bytes
	u.End, err = r.unit.end(m)
	r.unit = nil
	return u, true, err
}

// parts is a payload in parts that is not complete.
type parts struct {
	assembly *wire.Assembly
	k, of    int // parts that have come, and all
	bytes    int
}

func (p *parts) add(k, n int, data []byte) ([]wire.Piece, error) {
	if err := p.assembly.Expect(k, n); err != nil {
		return nil, damaged(err)
	}
	pieces, err := p.assembly.Add(data)
	if err != nil {
		return nil, damaged(err)
	}
	p.k = k
	p.bytes += len(data)
	return pieces, nil
}

// keep puts bodies together in memory.
func (p *parts) keep(pieces []wire.Piece) {
	for _, piece := range pieces {
		f := p.assembly.Head().Transactions[piece.Transaction].Fragments[piece.Fragment]
		if f.Content != nil {
			f.Body = make([]byte, 0, f.Content.Size())
			f.Content = nil
		}
		f.Body = append(f.Body, piece.Data...)
	}
}

// end checks the payload after its last part, which m is.
func (p *parts) end(m *message) (End, error) {
	if err := p.assembly.End(); err != nil {
		return End{}, damaged(err)
	}
	if err := m.checkEnd(); err != nil {
		return End{}, err
	}
	watermark, err := m.watermark()
	return m.end(watermark), err
}

// bodiesOf is the size of all rows.
func bodiesOf(u *wire.Unit) (n int64) {
	for _, tx := range u.Transactions {
		n += tx.Bytes()
	}
	return n
}

func (m *message) watermark() (csn pipeline.CSN, err error) {
	text := m.header.Get(wire.HeaderWatermark)
	if text == "" {
		return 0, nil
	}
	if csn, err = pipeline.ParseCSN(text); err != nil {
		return 0, &Fatal{Problem: "header " + wire.HeaderWatermark, Err: err}
	}
	return csn, nil
}

func (m *message) checkFormat() error {
	if format := m.header.Get(wire.HeaderFormat); format != "" && format != formatInternal {
		return &Fatal{
			Problem: fmt.Sprintf("the stream's format is %s, and only %s can be applied", format, formatInternal),
			Try:     "create a subscription with --format internal for this target",
		}
	}
	return nil
}

// checkEnd: readers act on nothing that has no end mark.
func (m *message) checkEnd() error {
	if m.header.Get(wire.HeaderCheckpoint) == "" {
		return &Fatal{Problem: fmt.Sprintf("a unit ends without header %s: it was not written by this product", wire.HeaderCheckpoint)}
	}
	return nil
}

func damaged(err error) error {
	return &Fatal{Problem: "unit", Err: err, Try: "run a version that reads this format; if it is damaged, restore the stream"}
}
