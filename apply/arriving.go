package apply

import (
	"context"
	"errors"
	"fmt"
	"io"

	"shardcdc/pipeline/wire"
)

// arriving is a unit whose rows are still in the stream. Reading its fragments reads messages; nothing is kept, so the
// consumer goes as fast as the target.
type arriving struct {
	ctx   context.Context // that of Next, which handed the stream over
	r     *streamReader
	parts *parts

	pieces []wire.Piece // of the last message, what was not read
	last   *message     // the last part
	err    error        // what ended the reading; stays
}

// arrive makes the contents of a unit whose head is complete with message m.
func arrive(ctx context.Context, r *streamReader, p *parts, pieces []wire.Piece, m *message) *arriving {
	a := &arriving{ctx: ctx, r: r, parts: p, pieces: pieces, last: m}
	for t, tx := range p.assembly.Head().Transactions {
		for i, f := range tx.Fragments {
			if f.Content != nil {
				f.Content = &arrivingBody{a: a, transaction: t, fragment: i, left: f.Content.Size(), size: f.Content.Size()}
			}
		}
	}
	return a
}

// fetch waits for the next part.
func (a *arriving) fetch() error {
	if a.err != nil {
		return a.err
	}
	if a.parts.k == a.parts.of {
		a.err = &ReadError{errors.New("all parts of the unit were read")}
		return a.err
	}
	for {
		m, err := a.receive()
		if err != nil {
			a.err = &ReadError{fmt.Errorf("read the stream: %w", err)}
			return a.err
		}
		took, err := a.take(m)
		if err != nil {
			a.err = &ReadError{fmt.Errorf("stream sequence %d: %w", m.seq, err)}
			return a.err
		}
		if took {
			return nil
		}
	}
}

// receive waits for the next message for as long as it may still come. Nobody else looks at the stream meanwhile.
func (a *arriving) receive() (*message, error) {
	for {
		ctx, cancel := context.WithTimeout(a.ctx, a.r.stream.stall)
		m, err := a.r.receive(ctx)
		stalled := ctx.Err() != nil && a.ctx.Err() == nil
		cancel()
		if err == nil || !stalled {
			return m, err
		}
		if err := a.r.stillThere(a.ctx); err != nil {
			return nil, err
		}
	}
}

// take takes a message, if it is the next part. A writer that goes on behind a dead one begins with an epoch, a first
// part, or a payload in one message; all else on the subject of units is damage.
func (a *arriving) take(m *message) (bool, error) {
	part := m.header.Get(wire.HeaderPart)
	if m.subject == a.r.epochs || m.subject == a.r.subject && part == "" {
		return false, a.abandon(m)
	}
	if m.subject != a.r.subject {
		return false, nil
	}
	k, n, err := wire.ParsePart(part)
	if err != nil {
		return false, damaged(err)
	}
	if k == 1 {
		return false, a.abandon(m)
	}
	if a.pieces, err = a.parts.add(k, n, m.data); err != nil {
		return false, err
	}
	a.last = m
	return true, nil
}

// abandon: m is the first message behind the dead parts, and for Next again.
func (a *arriving) abandon(m *message) error {
	a.r.hold(m)
	return &Abandoned{Seq: a.r.last.seq, Stamp: a.r.last.stamp}
}

// Finish is described by Arriving.
func (a *arriving) Finish() (End, error) {
	for a.parts.k < a.parts.of {
		if err := a.fetch(); err != nil {
			return End{}, err
		}
	}
	if a.err != nil {
		return End{}, a.err
	}
	a.pieces = nil
	a.err = &ReadError{errors.New("the unit is finished")}
	return a.parts.end(a.last)
}

// arrivingBody is one fragment's rows.
type arrivingBody struct {
	a                     *arriving
	transaction, fragment int
	left, size            int64
	opened                bool
}

func (b *arrivingBody) Size() int64 { return b.size }

func (b *arrivingBody) Release() {}

// Open passes over what was not read of the fragments before.
func (b *arrivingBody) Open() (io.ReadCloser, error) {
	if b.opened {
		return nil, &ReadError{errors.New("rows that are still arriving can be read once only")}
	}
	b.opened = true
	return io.NopCloser(b), nil
}

func (b *arrivingBody) Read(p []byte) (int, error) {
	for b.left > 0 {
		if len(b.a.pieces) == 0 {
			if err := b.a.fetch(); err != nil {
				return 0, err
			}
			continue
		}
		piece := &b.a.pieces[0]
		switch {
		case piece.Transaction < b.transaction || piece.Transaction == b.transaction && piece.Fragment < b.fragment:
			b.a.pieces = b.a.pieces[1:]
			continue
		case piece.Transaction != b.transaction || piece.Fragment != b.fragment:
			return 0, &ReadError{errors.New("the rows have passed: fragments that are still arriving are read in order")}
		}
		n := copy(p, piece.Data)
		piece.Data = piece.Data[n:]
		b.left -= int64(n)
		if len(piece.Data) == 0 {
			b.a.pieces = b.a.pieces[1:]
		}
		return n, nil
	}
	return 0, io.EOF
}
