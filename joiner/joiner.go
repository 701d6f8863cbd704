// Package joiner is the shell around joiner/merge: it lets the dumpers of all shards, the prober and the
// publisher work on one merge at the same time, and it makes those wait who have to.
//
//	dumper i  ──Offer──►┌────────┐
//	dumper j  ──Offer──►│ merge  │──Next──► encode, publish ──► Durable
//	prober    ──Probed─►└───┬────┘
//	                        └─► ask(shard, probe)
//
// Offer blocks while the merge is full and nothing waits for the shard that offers; a shard that others wait
// for is never blocked. AwaitRoom blocks until something that was moved out of memory may be gone. Next blocks until
// transactions may leave. Every other method returns at once.
//
// # Memory
//
// The merge holds BytesMax. A shard that is admitted although it is full (others wait for it, or only reading on can free
// memory) has the bodies of what it offers moved to Spill first, small ones together. So what is in memory is at most
//
//	BytesMax + for each shard what one Offer brings + FragmentBytes for each fragment that was moved out
//
// The last term is what fragments, and their places in the merge, take themselves; it grows with transactions in doubt and
// with what a stream that is waited for brings meanwhile: 500 MB for a million of them. Without Spill there is no bound.
//
// What the merge drops is released here; what Next handed out is released by who publishes it: before Durable, so that who
// waits in AwaitRoom finds the room.
package joiner

import (
	"context"
	"errors"
	"sync"
	"time"

	"shardcdc/joiner/merge"
	"shardcdc/pipeline"
)

// Joiner merges the streams of a subscription's shards.
type Joiner struct {
	// Spill takes the bodies that memory has no room for; nil: they stay. Set it before the first Offer.
	Spill Spill

	ask func(pipeline.ShardID, uint64)
	max int // BytesMax

	mu      sync.Mutex
	merger  *merge.Merger
	flying  [][]pipeline.LSN // per batch handed out and not durable: where each shard was settled
	settled []pipeline.LSN   // per shard: every commit and second phase up to here is durable in the stream
	err     error            // the merge's fatal error
	probes  []merge.Probe    // scratch
	room    chan struct{}    // closed and replaced when something changed; those who wait for room listen
	waiting int              // listeners of room
	freed   uint64           // times that something may have been released
	ready   chan struct{}    // holds one token when Next should look again
}

// New makes a joiner. ask is called to have a shard probed; it must return at once and must not call back.
func New(c merge.Config, ask func(shard pipeline.ShardID, probe uint64)) (*Joiner, error) {
	m, err := merge.New(c)
	if err != nil {
		return nil, err
	}
	j := &Joiner{ask: ask, max: c.BytesMax, merger: m, room: make(chan struct{}), ready: make(chan struct{}, 1)}
	for i := range c.Start.Shards {
		j.settled = append(j.settled, c.Start.Shards[i].Safe())
	}
	return j, nil
}

// Offer hands over a shard's records and the position that its stream has reached. It waits for room.
func (j *Joiner) Offer(ctx context.Context, shard pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error {
	full, err := j.admit(ctx, shard, len(records))
	if err == nil && full && j.Spill != nil && resident(records) {
		err = moveOut(func(bodies [][]byte) (pipeline.Content, error) { return j.Spill(ctx, shard, bodies) }, records)
	}
	if err != nil {
		return err
	}
	return j.do(func() error { return j.merger.Offer(shard, records, received) })
}

// admit waits until the shard may offer records. It says whether memory is full nevertheless.
func (j *Joiner) admit(ctx context.Context, shard pipeline.ShardID, records int) (full bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.err == nil && records > 0 && !j.merger.Admits(shard) {
		if err := j.waitForRoom(ctx); err != nil {
			return false, err
		}
	}
	return j.max > 0 && j.merger.Held() >= j.max, j.err
}

// do lets the merge take something, and releases what it dropped.
func (j *Joiner) do(take func() error) error {
	j.mu.Lock()
	if j.err == nil {
		j.err = take()
	}
	err := j.err
	dropped := j.merger.Dropped(nil)
	j.changed()
	j.mu.Unlock()
	if len(dropped) > 0 {
		release(dropped)
		j.mu.Lock()
		j.freed++
		j.changed()
		j.mu.Unlock()
	}
	return err
}

// AwaitRoom waits, for a shard whose next records have to leave memory while there is no room for them, until something
// that was moved out may be gone: a batch became durable, or something was dropped. It returns an error at once when that
// cannot happen before the shard's records are in.
func (j *Joiner) AwaitRoom(ctx context.Context, shard pipeline.ShardID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for before := j.freed; j.freed == before; {
		switch {
		case j.err != nil:
			return j.err
		case len(j.flying) == 0 && !j.merger.Ready() && j.merger.MustAdmit(shard):
			return errNoRoom
		}
		if err := j.waitForRoom(ctx); err != nil {
			return err
		}
	}
	return nil
}

var errNoRoom = errors.New("transactions that are open, undecided or wait for each other exceed spill_bytes_max, and only what is read next can free room. " +
	"Try: cdcctl alter-subscription NAME --spill-bytes-max … with room for it in spill_dir; if cdcctl status names a transaction in doubt, finish it: COMMIT PREPARED or ROLLBACK PREPARED")

// waitForRoom gives up the lock until something has changed.
func (j *Joiner) waitForRoom(ctx context.Context) error {
	room := j.room
	j.waiting++
	j.mu.Unlock()
	var err error
	select {
	case <-room:
	case <-ctx.Done():
		err = ctx.Err()
	}
	j.mu.Lock()
	j.waiting--
	return err
}

// changed wakes who may go on, and has the shards probed that the merge waits for.
func (j *Joiner) changed() {
	if j.waiting > 0 {
		close(j.room)
		j.room = make(chan struct{})
	}
	select {
	case j.ready <- struct{}{}:
	default:
	}
	if j.err != nil {
		return
	}
	j.probes = j.merger.Probes(j.probes[:0])
	for _, p := range j.probes {
		j.ask(p.Shard, p.ID)
	}
}

// Probed takes the answer to a probe: the shard's clock, and then its flushed WAL position.
func (j *Joiner) Probed(shard pipeline.ShardID, probe uint64, clock pipeline.Timestamp, flushed pipeline.LSN) error {
	return j.do(func() error { return j.merger.Probed(shard, probe, clock, flushed) })
}

// Next waits for the next batch: transactions that may leave, about bytesMax bytes of them; or, when none came
// for the time of idle, a batch with only a checkpoint, if that has moved. A transaction that is not in memory is alone in
// its batch.
func (j *Joiner) Next(ctx context.Context, bytesMax int, idle time.Duration) (pipeline.Batch, error) {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	asked := false
	for {
		b, ok, err := j.take(func() (pipeline.Batch, bool) { return j.merger.Take(bytesMax) })
		if err == nil && ok {
			err = bringBack(&b)
		}
		if ok || err != nil {
			return b, err
		}
		select {
		case <-j.ready:
		case <-timer.C:
			if !asked && j.idle() {
				asked = true
				timer.Reset(min(idle, answerTime))
				continue
			}
			if b, ok, err = j.take(j.merger.Heartbeat); ok || err != nil {
				return b, err
			}
			asked = false
			timer.Reset(idle)
		case <-ctx.Done():
			return pipeline.Batch{}, ctx.Err()
		}
	}
}

// answerTime is how long the shards have for telling the time before a checkpoint is handed out without it. An answer that
// comes later is in the next one.
const answerTime = 500 * time.Millisecond

// idle has the shards asked for the time, and says whether there is something to wait for.
func (j *Joiner) idle() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.merger.Idle() {
		return false
	}
	j.changed()
	return true
}

func (j *Joiner) take(from func() (pipeline.Batch, bool)) (pipeline.Batch, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return pipeline.Batch{}, false, j.err
	}
	b, ok := from()
	if ok {
		j.flying = append(j.flying, j.settledNow())
		j.changed() // the next transaction in line may wait for another shard now
	}
	return b, ok, nil
}

// Durable says that the batch with this checkpoint is durable in the stream; in the order of Next. It returns
// what may be confirmed to each shard's slot.
func (j *Joiner) Durable(c *pipeline.Checkpoint) []pipeline.LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.merger.Durable(c)
	j.freed++
	j.settled, j.flying = j.flying[0], j.flying[1:]
	confirmed := make([]pipeline.LSN, len(c.Shards))
	for i := range confirmed {
		confirmed[i] = j.merger.Confirmed(pipeline.ShardID(i))
	}
	j.changed()
	return confirmed
}

func (j *Joiner) settledNow() []pipeline.LSN {
	to := make([]pipeline.LSN, len(j.settled))
	for i := range to {
		to[i] = j.merger.Settled(pipeline.ShardID(i))
	}
	return to
}

// Status is the merge's, and per shard the position up to which every commit and every second phase is
// durable in the stream.
type Status struct {
	merge.Status
	Published []pipeline.LSN
}

// Status reports the present state.
func (j *Joiner) Status() Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := Status{Status: j.merger.Status(), Published: j.settled}
	if len(j.flying) == 0 {
		st.Published = j.settledNow()
	}
	return st
}
