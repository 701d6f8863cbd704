package node

import (
	"context"
	"fmt"
	"time"

	"shardcdc/dumper"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
)

const (
	skewCheck  = time.Second
	clocksPoll = 5 * time.Millisecond // until every clock is known
)

// watchClocks stops the subscription when two shards' clocks differ by more than it allows, also while nothing is
// published.
func (c *capture) watchClocks(ctx context.Context) error {
	tick := time.NewTicker(skewCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := c.checkClocks(); err != nil {
			return err
		}
	}
}

// agree returns when all clocks are known and agree, if there are transactions to publish. The merge takes a record that is
// dated late enough for proof that a shard has nothing more of a transaction; with a clock that is wrong it would be none,
// and the unit at hand might be torn. Looking now and then is not enough: each attempt to go on would publish until the
// next look.
func (c *capture) agree(ctx context.Context, b *pipeline.Batch) error {
	if len(b.Transactions) == 0 {
		return nil
	}
	for {
		known, err := c.checkClocks()
		if known || err != nil {
			return err
		}
		if err := pause.For(ctx, clocksPoll); err != nil {
			return err
		}
	}
}

// checkClocks compares the clocks that are known so far.
func (c *capture) checkClocks() (known bool, err error) {
	known = true
	var ahead, behind *dumper.Status // at least so far ahead, and at least so far behind
	for _, d := range c.dumpers {
		s := d.Status()
		if s.ClockUncertainty == 0 {
			known = false
			continue
		}
		if ahead == nil || s.ClockOffset-s.ClockUncertainty > ahead.ClockOffset-ahead.ClockUncertainty {
			ahead = &s
		}
		if behind == nil || s.ClockOffset+s.ClockUncertainty < behind.ClockOffset+behind.ClockUncertainty {
			behind = &s
		}
	}
	if ahead == nil {
		return known, nil
	}
	apart := ahead.ClockOffset - ahead.ClockUncertainty - behind.ClockOffset - behind.ClockUncertainty
	if apart > time.Duration(c.sub.MaxClockSkew) {
		return known, fmt.Errorf("the clocks of shards %s and %s are %s apart, more than max_clock_skew %s. Try: synchronise them (NTP); the subscription goes on by itself then",
			ahead.Name, behind.Name, apart.Round(time.Millisecond), c.sub.MaxClockSkew)
	}
	return known, nil
}
