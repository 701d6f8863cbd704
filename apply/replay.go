package apply

import (
	"context"
	"fmt"
	"time"

	"shardcdc/pipeline"
)

// run is the state of one attempt.
type run struct {
	*Worker
	session  Session
	flights  *flights
	progress Progress // how far we are
	written  Progress // how far the target's row says we are; behind progress only by heartbeats
	stream   StreamInfo
	skips    map[pipeline.CSN]Skip
}

// skips are those that are still to come.
func (w *Worker) skips(ctx context.Context, at pipeline.CSN) (map[pipeline.CSN]Skip, error) {
	if w.cfg.Skips == nil {
		return nil, nil
	}
	list, err := w.cfg.Skips(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for transactions to skip: %w", err)
	}
	skips := map[pipeline.CSN]Skip{}
	for _, s := range list {
		if s.CSN > at {
			skips[s.CSN] = s
		}
	}
	return skips, nil
}

// replay reads on one goroutine and applies on this one.
func (r *run) replay(ctx context.Context, reader Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	q := newQueue(r.cfg.QueueBytes, r.cfg.QueueUnits)
	done := make(chan struct{})
	finished := make(chan struct{}) // with a unit that was Arriving
	go func() {
		defer close(done)
		for {
			u, err := reader.Next(ctx)
			if err != nil {
				q.fail(fmt.Errorf("read the stream: %w", err))
				return
			}
			if q.put(ctx, u) != nil {
				return
			}
			if u.Arriving == nil {
				continue
			}
			select { // the stream is in the hands of whoever applies the unit
			case <-finished:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		reader.Close()
		<-done
	}()
	if r.progress.Seq == r.stream.Last {
		r.caughtUp()
	}
	r.flights = newFlights(ctx, r)
	defer r.flights.end()
	idle := time.NewTimer(r.cfg.Idle)
	defer idle.Stop()
	for {
		if err := r.flights.arrivals(q); err != nil {
			return err
		}
		filled := q.filled
		if !r.flights.room() {
			filled = nil
		} else if took, err := r.next(ctx, q, finished); err != nil {
			return err
		} else if took {
			if r.written == r.progress {
				idle.Reset(r.cfg.Idle)
			}
			continue
		}
		var err error
		select {
		case <-filled:
		case f := <-r.flights.ended:
			err = r.flights.landed(f, q)
		case <-r.flights.tick.C:
			err = r.flights.untie()
		case <-idle.C:
			err = r.idle(ctx)
			idle.Reset(r.cfg.Idle)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// next deals with what is next in the queue, if there is something. While groups are on their way that is a full group: less
// becomes more until they are committed. What came before the end of the stream is applied first.
func (r *run) next(ctx context.Context, q *queue, finished chan<- struct{}) (took bool, err error) {
	bytesMax, changesMax, unitsMax := r.groupLimits(q)
	if !r.flights.none() && !q.full(bytesMax, unitsMax) {
		return false, nil
	}
	units, err := q.take(bytesMax, changesMax, unitsMax)
	if err != nil {
		if landing := r.flights.land(q); landing != nil {
			err = landing
		}
		return false, err
	}
	if len(units) == 0 {
		return false, nil
	}
	return true, r.take(ctx, units, q, finished)
}

// groupLimits: a backlog is cut so that every worker has something to do.
func (r *run) groupLimits(q *queue) (bytes, changes, units int) {
	if r.alone {
		return r.cfg.GroupBytes, r.cfg.GroupChanges, 1
	}
	bytes = min(r.cfg.GroupBytes, max(q.size()/r.cfg.Workers, shareBytes))
	return bytes, r.cfg.GroupChanges, r.cfg.GroupUnits
}

// shareBytes is the least that a backlog is cut into: with less, beginning and commit would cost more than is gained.
const shareBytes = 512 << 10

// take deals with units: applies them when there are transactions among them, else remembers the position.
func (r *run) take(ctx context.Context, units []Unit, q *queue, finished chan<- struct{}) error {
	if units[0].Arriving != nil {
		if err := r.flights.land(q); err != nil {
			return err
		}
		if err := r.large(ctx, units); err != nil {
			return err
		}
		select {
		case finished <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.dealtWith(units, true, q)
		return nil
	}
	group := r.group(units)
	work := false
	for i := range units {
		if err := follows(&units[i], &group.To); err != nil {
			return err
		}
		work = work || units[i].Unit != nil && len(units[i].Transactions) > 0
	}
	switch {
	case !work && !r.flights.none():
		r.flights.pass(units, group.To)
		return nil
	case work:
		flies, err := r.fly(ctx, group, q)
		if flies || err != nil {
			return err
		}
		if err := r.apply(ctx, group, &group.To); err != nil {
			return err
		}
	}
	r.progress = group.To
	r.dealtWith(units, work, q)
	return nil
}

// fly makes the group a flight, or, when it does not, waits until there is none.
func (r *run) fly(ctx context.Context, g Group, q *queue) (flies bool, err error) {
	if r.flights.none() && !r.flights.helps(q) {
		return false, nil
	}
	var alone bool
	if r.flights.keys, alone = r.session.Touches(ctx, &g, r.flights.keys[:0]); alone {
		return false, r.flights.land(q)
	}
	r.flights.add(g)
	return true, nil
}

// flown shows a flight that is committed.
func (r *run) flown(f *flight, q *queue) {
	r.applied(&f.group, f.group.To)
	r.progress = f.after
	r.dealtWith(append(f.group.Units, f.more...), true, q)
}

func (r *run) group(units []Unit) Group {
	written, progress := r.flights.at()
	return Group{From: written, To: progress, Units: units, Skips: r.skips, Careful: r.alone, Report: Report{Waiting: r.waiting}}
}

func (r *run) waiting(why string) { r.update(func(s *Status) { s.Waiting = why }) }

// dealtWith shows how far the worker is.
func (r *run) dealtWith(units []Unit, work bool, q *queue) {
	r.seen(units)
	if units[len(units)-1].Pending == 0 && q.empty() && r.flights.none() && !r.flights.landing {
		r.caughtUp()
	} else if work {
		r.state(Applying, nil)
	}
}

// follows moves the progress over a unit, or says why that would be wrong.
func follows(u *Unit, at *Progress) error {
	if err := continues(u, at); err != nil {
		return err
	}
	return ends(u, at)
}

// continues moves the progress over a unit's transactions.
func continues(u *Unit, at *Progress) error {
	if u.Unit == nil {
		return nil
	}
	// The first unit of a stream may continue the CSNs of one before it. Everything from this stream's first
	// message on was read, so nothing is missing.
	if first := at.CSN == 0; !first {
		if err := u.Unit.Follows(at.CSN); err != nil {
			where := fmt.Sprintf("stream sequence %d", u.Seq)
			if u.Arriving != nil {
				where = fmt.Sprintf("behind stream sequence %d", at.Seq)
			}
			return &Fatal{Problem: where, Err: err, Try: startOver}
		}
	}
	at.CSN = u.Unit.Last
	return nil
}

// ends moves the progress to a unit's end.
func ends(u *Unit, at *Progress) error {
	if u.Seq <= at.Seq {
		return &Fatal{Problem: fmt.Sprintf("the stream gave sequence %d behind %s", u.Seq, *at), Try: startOver}
	}
	at.Seq, at.Stamp = u.Seq, u.Stamp
	return nil
}

// apply replays a group; to is where it ends, known at the latest then.
func (r *run) apply(ctx context.Context, g Group, to *Progress) error {
	if err := r.session.Apply(ctx, g); err != nil {
		return err
	}
	r.applied(&g, *to)
	return nil
}

// applied shows that a group is committed.
func (r *run) applied(g *Group, to Progress) {
	r.written, r.progress = to, to
	r.failures, r.alone = 0, false
	at, copies, statements := r.cfg.Now(), r.session.Copies(), r.session.Statements()
	r.update(func(s *Status) {
		s.Applied = to
		s.copies(copies)
		s.Statements = statements
		_ = g.Transactions(func(tx *pipeline.Transaction) error {
			s.Transactions++
			s.Rows += uint64(tx.Changes())
			s.CopiedRows += copiedRows(tx)
			s.CommitTime = tx.CommitTime.Time()
			return nil
		})
	})
	if r.cfg.Observer.OnApplied != nil {
		r.cfg.Observer.OnApplied(Applied{Progress: to, Units: g.Units, CommittedAt: at})
	}
}

// copiedRows counts them: in a fragment that has any, all but the mark are such rows.
func copiedRows(tx *pipeline.Transaction) (n uint64) {
	for _, f := range tx.Fragments {
		if f.Ops.Has(pipeline.Read) {
			n += uint64(max(f.Changes-1, 0))
		}
	}
	return n
}

func (r *run) seen(units []Unit) {
	r.update(func(s *Status) {
		s.Applied = r.written
		for i := range units {
			s.Watermark = max(s.Watermark, units[i].Watermark)
			s.StreamSeq = max(s.StreamSeq, units[i].Seq+pipeline.Seq(units[i].Pending))
		}
	})
}

func (r *run) caughtUp() {
	r.failures = 0
	r.state(CaughtUp, nil)
	r.update(func(s *Status) { s.Lag = 0 })
}

// idle looks at the stream again, closes lanes that there is no work for, and writes a progress that only heartbeats moved, so that the stream may be
// purged up to it.
func (r *run) idle(ctx context.Context) error {
	if !r.flights.none() {
		return nil
	}
	r.flights.close()
	if err := r.checkStream(ctx); err != nil {
		return err
	}
	if r.written == r.progress {
		return nil
	}
	if err := r.session.Apply(ctx, Group{From: r.written, To: r.progress}); err != nil {
		return err
	}
	r.written = r.progress
	r.seen(nil)
	return nil
}
