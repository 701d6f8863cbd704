// Package await waits until what was committed has come through: what cdcctl wait does behind its flags, for reading one's
// own writes, for a cut-over, and for tests.
//
//	marks, err := await.Marks(ctx, sub)                  // on every shard: a position behind everything committed so far
//	seq, err := await.Published(ctx, bus, sub, marks)    // all of that is durable in the stream, at or below seq
//	err = await.Applied(ctx, bus, sub, target, seq)      // and on the target
//
// A mark (subscribe.Mark) is a logical message in a transaction of its own, of which the stream's reader learns whether or
// not any table changed: everything acknowledged before lies before it in the shard's WAL. A transaction that is prepared
// and not decided is not waited for.
package await

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/wire"
)

// every is the time between two questions.
const every = 20 * time.Millisecond

// NotYet is the error of a wait that was given up.
type NotYet struct {
	Missing []string // what was still waited for, a sentence each
	Cause   error    // why it was given up
}

func (e *NotYet) Error() string {
	return fmt.Sprintf("%v; it waits for: %s", e.Cause, strings.Join(e.Missing, "; "))
}

func (e *NotYet) Unwrap() error { return e.Cause }

// Marks writes a mark on every shard and returns their positions, by shard.
func Marks(ctx context.Context, sub *control.Subscription) ([]pipeline.LSN, error) {
	marks := make([]pipeline.LSN, len(sub.Shards))
	errs := make([]error, len(sub.Shards))
	var all sync.WaitGroup
	for i, sh := range sub.Shards {
		all.Go(func() {
			var err error
			if marks[i], err = subscribe.Mark(ctx, sh.DSN); err != nil {
				errs[i] = fmt.Errorf("shard %s: %w", sh.Name, err)
			}
		})
	}
	all.Wait()
	return marks, errors.Join(errs...)
}

// Published waits until every shard's marks are published. It returns the sequence of the stream's last transaction,
// which is behind them; 0 if there never was one.
func Published(ctx context.Context, bus *control.Bus, sub *control.Subscription, marks []pipeline.LSN) (pipeline.Seq, error) {
	err := until(ctx, func() ([]string, error) { return unpublished(ctx, bus, sub, marks) })
	if err != nil {
		return 0, err
	}
	name := wire.StreamName(sub.Name)
	s, err := bus.JS.Stream(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", name, err)
	}
	last, err := s.GetLastMsgForSubject(ctx, wire.Subject(sub.Name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", name, err)
	}
	return pipeline.Seq(last.Sequence), nil
}

func unpublished(ctx context.Context, bus *control.Bus, sub *control.Subscription, marks []pipeline.LSN) ([]string, error) {
	c, err := control.AskCapture(ctx, bus.NC, sub.Name)
	if errors.Is(err, control.ErrNobody) {
		return []string{"a node to run it: none does. Try: cdcd node, or cdcd all"}, nil
	}
	if err != nil {
		return []string{"an answer of the node"}, err
	}
	at := map[string]control.ShardStatus{}
	for _, s := range c.Shards {
		at[s.Name] = s
	}
	var missing []string
	for i, s := range sub.Shards {
		st := at[s.Name]
		if st.Published >= marks[i] {
			continue
		}
		text := fmt.Sprintf("shard %s (%s): published up to %s, wanted %s", s.Name, st.State, st.Published, marks[i])
		if st.Error != "" {
			text += ": " + st.Error
		}
		missing = append(missing, text)
	}
	if len(missing) > 0 {
		if c.Error != "" {
			missing = append(missing, "node "+c.Node+": "+c.Error)
		}
		missing = append(missing, c.WaitsFor...)
	}
	return missing, nil
}

// Applied waits until the target has replayed the stream up to a sequence.
func Applied(ctx context.Context, bus *control.Bus, sub *control.Subscription, target string, seq pipeline.Seq) error {
	return until(ctx, func() ([]string, error) {
		a, err := control.AskApply(ctx, bus.NC, sub.Name, target)
		if errors.Is(err, control.ErrNobody) {
			return []string{"target " + target + ": no apply worker runs. Try: cdcd apply, or cdcd all"}, nil
		}
		if err != nil {
			return []string{"an answer of the apply worker of target " + target}, err
		}
		if a.AppliedSeq >= seq {
			return nil, nil
		}
		text := fmt.Sprintf("target %s (%s): applied up to stream sequence %d, wanted %d", target, a.State, a.AppliedSeq, seq)
		if a.Error != "" {
			text += ": " + a.Error
		}
		return []string{text}, nil
	})
}

// until asks again and again until nothing is missing, or ctx ends. An answer that does not come is waited for too:
// servers restart.
func until(ctx context.Context, ask func() (missing []string, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last []string
	for {
		missing, err := ask()
		if len(missing) == 0 && err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // not what the end itself interrupted
			last = missing
			if err != nil {
				last = append(last, err.Error())
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &NotYet{Missing: last, Cause: context.Cause(ctx)}
		}
	}
}
