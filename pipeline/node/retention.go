package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"shardcdc/output/jetstream"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// retention finds out which messages of the stream nobody needs any more, beside the publisher; the publisher
// removes them between two units (capture.trim), because it alone writes to the stream. (When that is full, it asks itself.)
type retention struct {
	keep    atomic.Uint64 // the first message that has to stay, as far as is known
	trimmed pipeline.Seq  // owned by the publisher
}

// watchRetention looks again and again. Not knowing is no error: then everything stays.
func (c *capture) watchRetention(ctx context.Context) error {
	if c.sub.Retain == 0 {
		return nil
	}
	tick := time.NewTicker(c.node.conf.TrimEvery)
	defer tick.Stop()
	for {
		keep, err := c.obsolete(ctx)
		if err == nil {
			c.retention.keep.Store(uint64(keep))
		} else if ctx.Err() == nil && !errors.Is(err, control.ErrNobody) {
			c.node.conf.Log.Warn("cannot find out what the stream need not keep", "subscription", c.sub.Name, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// obsolete finds the first message that is not old enough to be removed, or that some target of the catalog has
// not applied.
func (c *capture) obsolete(ctx context.Context) (pipeline.Seq, error) {
	keep, err := jetstream.Before(ctx, c.node.bus.JS, c.sub.Name, time.Now().Add(-time.Duration(c.sub.Retain)))
	if err != nil {
		return 0, err
	}
	for _, t := range c.sub.Targets {
		st, err := control.AskApply(ctx, c.node.bus.NC, c.sub.Name, t.Name)
		if err != nil {
			return 0, err // a worker that does not run may need everything
		}
		keep = min(keep, st.AppliedSeq+1)
	}
	return keep, nil
}

// trim removes what watchRetention found.
func (c *capture) trim(ctx context.Context) error {
	keep := pipeline.Seq(c.retention.keep.Load())
	if keep <= c.retention.trimmed {
		return nil
	}
	if err := c.pub.Trim(ctx, keep); err != nil {
		return err
	}
	c.retention.trimmed = keep
	return nil
}
