package bank

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"shardcdc/pipeline/pause"
)

// mark writes one marker after the other: a distributed transaction over every shard. A marker begins when the one before
// is acknowledged on all shards.
func (b *Bank) mark(ctx context.Context) error {
	c := &coordinator{bank: b, sessions: b.sessions(), rand: rand.New(rand.NewPCG(b.conf.Seed, 1<<32))}
	defer closeAll(c.sessions)
	tick := time.NewTicker(b.conf.Markers)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		err := b.markOnce(ctx, c)
		switch {
		case err == nil:
		case broken(err) || gaveWay(err):
			if pause.For(ctx, 50*time.Millisecond) != nil {
				return nil
			}
		default:
			return err
		}
	}
}

func (b *Bank) markOnce(ctx context.Context, c *coordinator) error {
	id := b.marker + 1
	d := &distributed{gid: b.newGID("marker")}
	for shard := range c.sessions {
		d.parts = append(d.parts, part{shard: shard, sql: fmt.Sprintf("INSERT INTO markers VALUES (%d, %d, clock_timestamp())", id, shard)})
	}
	if err := c.prepare(ctx, d); err != nil {
		// A part that could not be rolled back yet holds its key: the next try waits for it, and gives way.
		return err
	}
	for _, i := range c.rand.Perm(len(d.parts)) {
		for {
			err := secondPhase(ctx, c.sessions[d.parts[i].shard], d.gid, true)
			if err == nil {
				break
			}
			if !broken(err) && !gaveWay(err) {
				return err
			}
			// It is decided: nobody gives up, not even when the traffic has ended.
			if pause.For(context.WithoutCancel(ctx), 50*time.Millisecond) != nil {
				return err
			}
		}
	}
	b.meter.acknowledged(id, time.Now())
	b.marker = id
	b.stats.markers.Add(1)
	b.stats.transactions.Add(1)
	if len(d.parts) > 1 {
		b.stats.distributed.Add(1)
	}
	return nil
}

// Meter knows when each marker was acknowledged on the source and when it was first seen on the target, by the clock of
// this process.
type Meter struct {
	mu          sync.Mutex
	acked, seen []time.Time // by marker - 1
}

func (m *Meter) acknowledged(id int64, at time.Time) { m.set(&m.acked, id, at) }

func (m *Meter) set(list *[]time.Time, id int64, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for int64(len(*list)) < id {
		*list = append(*list, at) // Markers come in order: whoever sees one sees those before.
	}
}

func (m *Meter) sawUpTo(id int64, at time.Time) { m.set(&m.seen, id, at) }

// Delays are the times from acknowledgement to visibility, in rising order.
type Delays []time.Duration

// Delays of the markers that were seen and, if choose is not nil, whose times of acknowledgement and of first sight it
// chooses. A marker that was seen before its acknowledgement arrived counts as no delay.
func (m *Meter) Delays(choose func(acked, seen time.Time) bool) Delays {
	m.mu.Lock()
	defer m.mu.Unlock()
	var d Delays
	for i := range min(len(m.acked), len(m.seen)) {
		if choose == nil || choose(m.acked[i], m.seen[i]) {
			d = append(d, max(0, m.seen[i].Sub(m.acked[i])))
		}
	}
	slices.Sort(d)
	return d
}

// Quantile returns the delay that the given part of all delays, 0 to 1, does not exceed; 0 when there is none.
func (d Delays) Quantile(q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// Seen is how many markers were seen on the target.
func (m *Meter) Seen() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.seen))
}

// Gap is the longest time without news on the target between two instants.
func (m *Meter) Gap(from, to time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var longest time.Duration
	last := from
	for _, at := range m.seen {
		if at.Before(from) || at.After(to) {
			continue
		}
		longest, last = max(longest, at.Sub(last)), at
	}
	return longest
}

// Lag is how long the oldest marker that is acknowledged and was not seen has been waiting; 0: there is none.
func (m *Meter) Lag(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.seen) >= len(m.acked) {
		return 0
	}
	return now.Sub(m.acked[len(m.seen)])
}

// CaughtUp is the first time after an instant at which a marker acknowledged after that instant was seen within the given
// delay; the instant itself if there was none.
func (m *Meter) CaughtUp(after time.Time, within time.Duration) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range min(len(m.acked), len(m.seen)) {
		if m.acked[i].After(after) && m.seen[i].Sub(m.acked[i]) <= within {
			return m.seen[i]
		}
	}
	return after
}
