package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/wire"
)

// store publishes a group, all or none, and returns when it is durable.
func (p *Publisher) store(ctx context.Context, g *group) error {
	n := pipeline.Seq(len(g.msgs))
	for delay := retryFirst; ; delay = next(delay) {
		seq, err := p.send(ctx, g)
		if err == nil {
			if want := p.last + n; seq != want {
				return fmt.Errorf("stored at sequence %d, expected %d: someone else writes to the stream. Try: nats stream report", seq, want)
			}
			p.last = seq // the commit point: the unit, or its next chunk, is durable
			p.stalled(nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.stalled(err)
		if final(err) {
			return err
		}
		if Full(err) {
			delay = retryFull
			removed, lookErr := p.makeRoom(ctx) // what goes wrong here is no worse than no room, and tried again with the publish
			if removed {
				delay = retryFirst
			} else if lookErr != nil {
				p.stalled(errors.Join(err, lookErr))
			}
		}
		stored, err := p.resolve(ctx, g)
		if err != nil {
			return err
		}
		if stored {
			p.last += n
			p.stalled(nil)
			return nil
		}
		if err := pause.For(ctx, delay); err != nil {
			return err
		}
	}
}

func next(delay time.Duration) time.Duration { return min(delay*2, retryMost) }

func (p *Publisher) stalled(err error) {
	if p.conf.Stalled != nil {
		p.conf.Stalled(explained(err, p.conf.Subscription))
	}
}

// explained adds to the answer of a full stream or server what makes room. Other stalls end without anybody's doing.
func explained(err error, subscription string) error {
	var api *natsjs.APIError
	if !errors.As(err, &api) {
		return err
	}
	name := wire.StreamName(subscription)
	switch int(api.ErrorCode) {
	case codeNoSpace:
		return fmt.Errorf("the stream %s is full: %w. Try: cdcctl alter-subscription %s --stream-bytes-max BYTES, with room for the transaction if it alone is too large; or nats stream purge %s --seq N, where N is the SEQUENCE that every reader has reached (keep that message)", name, err, subscription, name)
	case codeServerFull:
		return fmt.Errorf("the NATS server has no room: %w. Try: free disk space or raise the server's limit, or nats stream purge %s --seq N, where N is the SEQUENCE that every reader has reached (keep that message)", err, name)
	}
	return err
}

// resolve finds out what became of a publish without a clear answer: stored, not stored (the stream is where
// it was), or an error: fenced, or a stream that someone else changed.
func (p *Publisher) resolve(ctx context.Context, g *group) (stored bool, err error) {
	limit := lookFirst
	for delay := retryFirst; ; delay = next(delay) {
		err := p.whileConnected(ctx, limit, func(ctx context.Context) (err error) {
			stored, err = p.look(ctx, g)
			return err
		})
		var fatal *FatalError
		if err == nil || errors.Is(err, ErrFenced) || errors.As(err, &fatal) {
			return stored, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		p.stalled(err)
		if errors.Is(err, context.DeadlineExceeded) {
			limit = min(2*limit, lookMost)
			p.revive(ctx)
		}
		if err := pause.For(ctx, delay); err != nil {
			return false, err
		}
	}
}

func (p *Publisher) look(ctx context.Context, g *group) (bool, error) {
	n := pipeline.Seq(len(g.msgs))
	epoch, err := lastOn(ctx, p.stream, p.subjects.epoch)
	if err != nil {
		return false, err
	}
	if epoch != p.epoch {
		return false, ErrFenced
	}
	info, err := p.stream.Info(ctx)
	if err != nil {
		return false, err
	}
	last := pipeline.Seq(info.State.LastSeq)
	switch {
	case last == p.last:
		return false, nil
	case last == p.last+n:
		m, err := p.stream.GetMsg(ctx, uint64(last))
		if err != nil {
			return false, err
		}
		end := &g.msgs[n-1]
		same := m.Subject == end.subject && m.Header.Get(wire.HeaderEpoch) == g.epoch && m.Header.Get(wire.HeaderUnit) == g.unit &&
			m.Header.Get(wire.HeaderCSN) == end.csn && m.Header.Get(wire.HeaderPart) == end.part
		if same {
			return true, nil
		}
	}
	return false, &FatalError{
		What: fmt.Sprintf("stream %s ends at sequence %d, expected %d or %d: it was changed by someone else, or rolled back", info.Config.Name, last, p.last, p.last+n),
		Try:  "cdcctl status; a restart of the node goes on from what the stream holds if the shards' slots still reach back to it",
	}
}

// send publishes one message, or several as an atomic batch, and waits for the acknowledgement.
func (p *Publisher) send(ctx context.Context, g *group) (pipeline.Seq, error) {
	last, batch := len(g.msgs)-1, ""
	if last > 0 {
		batch = nuid.Next()
	}
	unconfirmed := 0
	for i := range last {
		m := p.letter.write(p, g, i, batch)
		unconfirmed += len(m.Data)
		if i > 0 && unconfirmed < batchBytes/2 {
			if err := p.nc.PublishMsg(m); err != nil {
				return 0, err
			}
			continue
		}
		// The first message asks for an answer, so that a refusal is known before the rest is sent; later
		// ones now and then, so that the server's ingest queue does not overflow.
		unconfirmed = 0
		if err := p.staged(ctx, m); err != nil {
			return 0, err
		}
	}
	return p.request(ctx, p.letter.write(p, g, last, batch))
}

// staged sends a message of a batch and waits until the server has taken it in.
func (p *Publisher) staged(ctx context.Context, m *nats.Msg) error {
	data, err := p.ask(ctx, m)
	if err != nil || len(data) == 0 {
		return err
	}
	_, err = parseAck(data)
	return err
}

// request sends a message that commits, and waits until it is durable.
func (p *Publisher) request(ctx context.Context, m *nats.Msg) (pipeline.Seq, error) {
	begun := time.Now()
	data, err := p.ask(ctx, m)
	if err != nil {
		return 0, err
	}
	p.answered(time.Since(begun))
	return parseAck(data)
}

// ask sends a message and waits for its answer.
func (p *Publisher) ask(ctx context.Context, m *nats.Msg) ([]byte, error) {
	var reply *nats.Msg
	err := p.whileConnected(ctx, p.patience, func(ctx context.Context) (err error) {
		reply, err = p.nc.RequestMsgWithContext(ctx, m)
		return err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		p.unanswered()
	}
	if err != nil {
		return nil, err
	}
	return reply.Data, nil
}
