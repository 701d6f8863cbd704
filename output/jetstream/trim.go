package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// Before finds the first message of a subscription's stream that is not older than t: everything below it is.
func Before(ctx context.Context, js natsjs.JetStream, subscription string, t time.Time) (pipeline.Seq, error) {
	stream, err := js.Stream(ctx, wire.StreamName(subscription))
	if err != nil {
		return 0, fmt.Errorf("look at the stream: %w", err)
	}
	info := stream.CachedInfo()
	low, high := max(info.State.FirstSeq, 1), info.State.LastSeq+1 // the answer is in low..high
	for low < high {
		middle := low + (high-low)/2
		m, err := stream.GetMsg(ctx, middle)
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			low = middle + 1 // removed meanwhile, and so is everything before it
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look at message %d: %w", middle, err)
		}
		if m.Time.Before(t) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return pipeline.Seq(low), nil
}

// Trim removes the messages below keep. The end of the last unit always stays, and its checkpoint. If the
// epoch would be removed, a new one is written first, since a publish demands that it is there.
func (p *Publisher) Trim(ctx context.Context, keep pipeline.Seq) error {
	keep = min(keep, p.needed)
	if keep <= 1 {
		return nil
	}
	if p.epoch < keep {
		if err := p.renewEpoch(ctx); err != nil {
			return fmt.Errorf("write an epoch before trimming: %w", err)
		}
	}
	if err := p.stream.Purge(ctx, natsjs.WithPurgeSequence(uint64(keep))); err != nil {
		return fmt.Errorf("trim the stream up to %d: %w", keep, err)
	}
	return nil
}

// renewEpoch writes another epoch message of this writer. It is fenced as every publish is: to take the stream over, as
// Open does, would take it from a writer that took it over meanwhile.
func (p *Publisher) renewEpoch(ctx context.Context) error {
	if err := p.store(ctx, &group{msgs: []message{{subject: p.subjects.epoch, data: []byte(p.conf.Node)}}}); err != nil {
		return err
	}
	p.epoch, p.torn = p.last, false
	return nil
}

// makeRoom removes what nobody needs any more from a full stream, and says whether there was something: Trim comes after a
// publish, and none succeeds. Epochs stay, because there may be no room for a new one; they take nothing.
func (p *Publisher) makeRoom(ctx context.Context) (removed bool, err error) {
	if p.conf.Keep == nil {
		return false, nil
	}
	keep, err := p.conf.Keep(ctx)
	if err != nil {
		return false, err
	}
	if keep = min(keep, p.needed); keep <= p.roomUpTo {
		return false, nil
	}
	subjects, err := p.inUse(ctx)
	if err != nil {
		return false, fmt.Errorf("look for what nobody needs in the full stream: %w", err)
	}
	for _, subject := range subjects {
		if err := p.stream.Purge(ctx, natsjs.WithPurgeSubject(subject), natsjs.WithPurgeSequence(uint64(keep))); err != nil {
			return false, fmt.Errorf("remove from the full stream what nobody needs: %w", err)
		}
	}
	p.roomUpTo = keep
	return true, nil
}

// inUse are the subjects with messages, but for that of epochs. Those of tables are named by a wildcard for each schema, of which
// there are few.
func (p *Publisher) inUse(ctx context.Context) (subjects []string, err error) {
	info, err := p.stream.Info(ctx, natsjs.WithSubjectFilter(wire.AllSubjects(p.conf.Subscription)))
	if err != nil {
		return nil, err
	}
	control := []string{p.subjects.epoch, p.subjects.watermark, p.subjects.checkpoint}
	start := len(wire.SubjectOf(p.conf.Subscription, ""))
	seen := map[string]bool{p.subjects.epoch: true}
	for subject := range info.State.Subjects {
		if i := strings.IndexByte(subject[start:], '.'); i >= 0 && !slices.Contains(control, subject) {
			subject = subject[:start+i] + ".>"
		}
		if !seen[subject] {
			seen[subject] = true
			subjects = append(subjects, subject)
		}
	}
	return subjects, nil
}
