package verify

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// stream is the subscription's stream, to be read from any place.
type stream struct {
	subscription string
	js           jetstream.JetStream
	source       *apply.Stream
	handle       jetstream.Stream
	id           string
}

func openStream(ctx context.Context, js jetstream.JetStream, subscription string) (*stream, error) {
	s := &stream{subscription: subscription, js: js, source: apply.NewStream(js, subscription)}
	info, err := s.source.Describe(ctx)
	if err != nil {
		return nil, err
	}
	s.id = info.ID
	if s.handle, err = js.Stream(ctx, wire.StreamName(subscription)); err != nil {
		return nil, fmt.Errorf("stream %s: %w", wire.StreamName(subscription), err)
	}
	return s, nil
}

// unitEnd is a place between two units.
type unitEnd struct {
	seq pipeline.Seq            // 0: the stream's beginning
	csn pipeline.CSN            // of the last transaction before it
	msg *jetstream.RawStreamMsg // nil at the stream's beginning
}

// endAt finds the last end of a unit at or before a sequence; nil: it has left the stream.
func (s *stream) endAt(ctx context.Context, seq pipeline.Seq) (*unitEnd, error) {
	for seq > 0 {
		m, err := s.message(ctx, seq)
		if err != nil || m == nil {
			return nil, err
		}
		if m.Header.Get(wire.HeaderCheckpoint) != "" {
			csn, err := pipeline.ParseCSN(m.Header.Get(wire.HeaderCSN))
			if err != nil {
				return nil, fmt.Errorf("stream sequence %d: %w", seq, err)
			}
			return &unitEnd{seq: seq, csn: csn, msg: m}, nil
		}
		before := m.Header.Get(wire.HeaderUnit)
		if before == "" { // of a writer's epoch
			seq--
			continue
		}
		n, err := strconv.ParseUint(before, 10, 64)
		if err != nil || pipeline.Seq(n) >= seq {
			return nil, fmt.Errorf("stream sequence %d: header %s %q names no unit before", seq, wire.HeaderUnit, before)
		}
		seq = pipeline.Seq(n)
	}
	return &unitEnd{}, nil
}

// message reads one; nil: it has left the stream.
func (s *stream) message(ctx context.Context, seq pipeline.Seq) (*jetstream.RawStreamMsg, error) {
	m, err := s.handle.GetMsg(ctx, uint64(seq))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream sequence %d: %w", seq, err)
	}
	return m, nil
}

// end is the end of the stream's last unit.
func (s *stream) end(ctx context.Context) (*unitEnd, error) {
	info, err := s.handle.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", wire.StreamName(s.subscription), err)
	}
	e, err := s.endAt(ctx, pipeline.Seq(info.State.LastSeq))
	if err == nil && e == nil {
		err = fmt.Errorf("stream %s has no unit. Try: cdcctl status %s", wire.StreamName(s.subscription), s.subscription)
	}
	return e, err
}

// before finds a unit's end, at or before from, such that every unit up to it has lower CSNs than bound. whole is
// false when the stream does not reach back that far: then it is the first end that there is.
func (s *stream) before(ctx context.Context, from pipeline.Seq, bound pipeline.CSN) (at *unitEnd, whole bool, err error) {
	seq := from
	for step := pipeline.Seq(1); ; step *= 2 {
		e, err := s.endAt(ctx, seq)
		if err != nil {
			return nil, false, err
		}
		if e == nil {
			at, err := s.first(ctx)
			return at, false, err
		}
		if e.seq == 0 || e.csn < bound {
			return e, true, nil
		}
		seq = e.seq - min(e.seq, step)
	}
}

// first is the end of the first unit whose end is still in the stream.
func (s *stream) first(ctx context.Context) (*unitEnd, error) {
	info, err := s.handle.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", wire.StreamName(s.subscription), err)
	}
	for seq := pipeline.Seq(info.State.FirstSeq); seq <= pipeline.Seq(info.State.LastSeq); seq++ {
		m, err := s.message(ctx, seq)
		if err != nil {
			return nil, err
		}
		if m != nil && m.Header.Get(wire.HeaderCheckpoint) != "" {
			return s.endAt(ctx, seq)
		}
	}
	return nil, fmt.Errorf("stream %s holds no whole unit. Try: cdcctl status %s", wire.StreamName(s.subscription), s.subscription)
}

// open lists, by shard, the transactions that were in the stream at a unit's end while their second phase on that shard
// had not been read.
func (s *stream) open(ctx context.Context, e *unitEnd, shards int) ([]map[pipeline.XID]bool, error) {
	all := make([]map[pipeline.XID]bool, shards)
	for i := range all {
		all[i] = map[pipeline.XID]bool{}
	}
	if e.msg == nil {
		return all, nil
	}
	c, err := s.checkpoint(ctx, e.msg)
	if err != nil {
		return nil, fmt.Errorf("stream sequence %d: %w", e.seq, err)
	}
	if len(c.Shards) != shards {
		return nil, fmt.Errorf("stream sequence %d: its checkpoint is of %d shards, the subscription has %d", e.seq, len(c.Shards), shards)
	}
	for i := range c.Shards {
		for _, o := range c.Shards[i].Open {
			all[i][o.XID] = true
		}
	}
	return all, nil
}

func (s *stream) checkpoint(ctx context.Context, end *jetstream.RawStreamMsg) (pipeline.Checkpoint, error) {
	c, _, err := wire.ReadCheckpoint(end.Header.Get(wire.HeaderCheckpoint), func(at pipeline.Seq) (part string, data []byte, err error) {
		m, err := s.message(ctx, at)
		if err == nil && m == nil {
			err = fmt.Errorf("its checkpoint, stream sequence %d, is gone", at)
		}
		if err != nil {
			return "", nil, err
		}
		return m.Header.Get(wire.HeaderPart), m.Data, nil
	})
	return c, err
}

// read calls fn with every fragment behind after, up to the unit that ends at or behind upTo.
func (s *stream) read(ctx context.Context, after, upTo pipeline.Seq, fn func(csn pipeline.CSN, f *pipeline.Fragment) error) error {
	if after >= upTo {
		return nil
	}
	reader, err := s.source.Open(ctx, after)
	if err != nil {
		return fmt.Errorf("read the stream behind sequence %d: %w", after, err)
	}
	defer reader.Close()
	for {
		u, err := reader.Next(ctx)
		if err == nil {
			err = unit(&u, fn)
		}
		var (
			abandoned *apply.Abandoned
			fatal     *apply.Fatal
		)
		switch {
		case errors.As(err, &fatal): // what it says to try is for a worker
			return fmt.Errorf("read the stream: %s. Try: again", fatal.Problem)
		case errors.As(err, &abandoned): // its transactions follow in another unit
		case err != nil:
			return fmt.Errorf("read the stream: %w", err)
		case u.Seq >= upTo:
			return nil
		}
	}
}

// unit calls fn with a unit's fragments, and reads on to its end.
func unit(u *apply.Unit, fn func(csn pipeline.CSN, f *pipeline.Fragment) error) error {
	if u.Unit != nil {
		for _, tx := range u.Transactions {
			for _, f := range tx.Fragments {
				if err := fn(tx.CSN, f); err != nil {
					return err
				}
			}
		}
	}
	return u.Finish()
}
