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
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/wire"
)

// every is the time between two questions.
const every = 20 * time.Millisecond

// Marks writes a mark on every shard and returns their positions, by shard.
func Marks(ctx context.Context, sub *control.Subscription) ([]pipeline.LSN, error) {
	marks := make([]pipeline.LSN, len(sub.Shards))
	group, ctx := errgroup.WithContext(ctx)
	for i, sh := range sub.Shards {
		group.Go(func() (err error) {
			if marks[i], err = subscribe.Mark(ctx, sh.DSN); err != nil {
				return fmt.Errorf("shard %s: %w", sh.Name, err)
			}
			return nil
		})
	}
	return marks, group.Wait()
}

// Published waits until every shard's marks are published. It returns a sequence of the stream that is behind them.
func Published(ctx context.Context, bus *control.Bus, sub *control.Subscription, marks []pipeline.LSN) (pipeline.Seq, error) {
	err := until(ctx, func() (string, error) {
		st, err := control.AskCapture(ctx, bus.NC, sub.Name)
		if err != nil {
			return "no node answers for subscription " + sub.Name, err
		}
		if len(st.Shards) != len(marks) {
			return fmt.Sprintf("the node is %s %s", st.State, st.Error), nil
		}
		for i, sh := range st.Shards {
			if sh.Published < marks[i] {
				return fmt.Sprintf("shard %s is published up to %s, want %s; the node is %s %s %v", sh.Name, sh.Published, marks[i], st.State, st.Error, st.WaitsFor), nil
			}
		}
		return "", nil
	})
	if err != nil {
		return 0, err
	}
	// The stream itself is asked: the status is put together while the node goes on.
	stream, err := bus.JS.Stream(ctx, wire.StreamName(sub.Name))
	if err != nil {
		return 0, fmt.Errorf("stream of subscription %s: %w", sub.Name, err)
	}
	return pipeline.Seq(stream.CachedInfo().State.LastSeq), nil
}

// Applied waits until the target has replayed the stream up to a sequence.
func Applied(ctx context.Context, bus *control.Bus, sub *control.Subscription, target string, seq pipeline.Seq) error {
	return until(ctx, func() (string, error) {
		st, err := control.AskApply(ctx, bus.NC, sub.Name, target)
		if err != nil {
			return fmt.Sprintf("no worker answers for target %s of subscription %s", target, sub.Name), err
		}
		if st.AppliedSeq < seq {
			return fmt.Sprintf("target %s is at stream sequence %d, want %d; the worker is %s %s", target, st.AppliedSeq, seq, st.State, st.Error), nil
		}
		return "", nil
	})
}

// until asks again and again until there is no reason to wait any longer, or ctx ends; the error gives the last reason.
// An answer that does not come is one: servers restart.
func until(ctx context.Context, ask func() (reason string, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		reason, err := ask()
		if reason == "" && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%w: %s", context.Cause(ctx), reason), err)
		}
	}
}
