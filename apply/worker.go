package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
)

// Config of a Worker. The zero value of each limit means its default.
type Config struct {
	Subscription string
	Target       Target
	Source       Source

	// Limits of one target transaction; one unit may exceed them. More is faster when there is a backlog; when
	// there is none, a transaction holds what has arrived while the one before was on its way.
	GroupBytes   int // 4 MiB
	GroupChanges int // 20,000
	GroupUnits   int // 256

	// QueueBytes and QueueUnits limit what is read ahead of the target; one unit may exceed the bytes.
	QueueBytes int // 32 MiB
	QueueUnits int // 4,096

	RetryBlocked time.Duration // between attempts while the target refuses; 1 s
	RetryLarge   time.Duration // at most, where an attempt takes longer than RetryBlocked; 1 min
	RetryMin     time.Duration // first delay after another error, then doubled; 100 ms
	RetryMax     time.Duration // 10 s
	OpenTimeout  time.Duration // for connecting and reading the progress; 30 s
	// Idle: after this time without transactions the stream is looked at again (it may have been replaced), and
	// a progress that moved over heartbeats alone is written. 5 s.
	Idle time.Duration

	// Skips gives the transactions that are to be left out; asked at the beginning of every attempt, so that a worker
	// that is stuck sees them. Nil: none.
	Skips func(ctx context.Context) ([]Skip, error)
	// Spill makes a file for rows of a unit that is larger than memory and has to be known whole before its first row can
	// be applied, or whose first attempt failed. Nil: such a unit is Blocked.
	Spill func() (SpillFile, error)

	Observer Observer
	Now      func() time.Time // time.Now
}

func (c *Config) setDefaults() {
	number := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	duration := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	number(&c.GroupBytes, 4<<20)
	number(&c.GroupChanges, 20_000)
	number(&c.GroupUnits, 256)
	number(&c.QueueBytes, 32<<20)
	number(&c.QueueUnits, 4096)
	duration(&c.RetryBlocked, time.Second)
	duration(&c.RetryLarge, time.Minute)
	duration(&c.RetryMin, 100*time.Millisecond)
	duration(&c.RetryMax, 10*time.Second)
	duration(&c.OpenTimeout, 30*time.Second)
	duration(&c.Idle, 5*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Worker replays one subscription on one target.
type Worker struct {
	cfg    Config
	status status

	// Owned by Run.
	failures int  // attempts since the last commit
	alone    bool // the last attempt was blocked: one unit per transaction, so that what comes before gets through
	began    time.Time
	started  bool     // a target was opened
	dead     Progress // behind the parts of an abandoned unit that the last attempt met
}

// New makes a worker; Run starts it.
func New(cfg Config) *Worker {
	cfg.setDefaults()
	w := &Worker{cfg: cfg}
	w.status.s = Status{Subscription: cfg.Subscription, State: Connecting}
	return w
}

// Run replays until ctx ends, and returns ctx's error then, or until a Fatal error, which it returns. Everything
// else is tried again and shown by Status. It is to be called once.
func (w *Worker) Run(ctx context.Context) error {
	for {
		err := w.attempt(ctx)
		if ctx.Err() != nil {
			w.state(Stopped, nil)
			return ctx.Err()
		}
		var abandoned *Abandoned
		if errors.As(err, &abandoned) {
			continue // behind the dead parts; each time further on
		}
		err = fmt.Errorf("apply %s: %w", w.cfg.Subscription, err)
		var fatal *Fatal
		if errors.As(err, &fatal) {
			w.state(Stopped, err)
			return err
		}
		if err := pause.For(ctx, w.failed(err)); err != nil {
			w.state(Stopped, nil)
			return err
		}
	}
}

// failed shows the error and says how long to wait. The first attempt after a success is repeated at once: the
// tables may have changed under the session, which a new one sees.
func (w *Worker) failed(err error) time.Duration {
	w.failures++
	var blocked *Blocked
	if errors.As(err, &blocked) {
		w.alone = true
		if w.failures == 1 {
			return 0
		}
		w.state(Stuck, err)
		// An attempt at a large transaction takes the target's time: at most half of it.
		return max(w.cfg.RetryBlocked, min(w.cfg.Now().Sub(w.began), w.cfg.RetryLarge))
	}
	w.state(Connecting, err)
	delay := w.cfg.RetryMin
	for i := 1; i < w.failures && delay < w.cfg.RetryMax; i++ {
		delay *= 2
	}
	return min(delay, w.cfg.RetryMax)
}

// attempt is one session, from connecting to the first error.
func (w *Worker) attempt(ctx context.Context) error {
	if w.failures == 0 {
		w.state(Connecting, nil)
	}
	w.began = w.cfg.Now()
	opening, cancel := context.WithTimeout(ctx, w.cfg.OpenTimeout)
	defer cancel()
	session, err := w.cfg.Target.Open(opening)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		session.Close(closing)
	}()
	run := &run{Worker: w, session: session}
	if run.progress, err = session.Progress(opening); err != nil {
		return err
	}
	run.written = run.progress
	w.opened(run)
	if err := run.checkStream(opening); err != nil {
		return err
	}
	if run.skips, err = w.skips(opening, run.progress.CSN); err != nil {
		return err
	}
	run.passDead()
	reader, err := w.cfg.Source.Open(opening, run.progress.Seq)
	if err != nil {
		return fmt.Errorf("open the stream behind sequence %d: %w", run.progress.Seq, err)
	}
	return run.replay(ctx, reader)
}

// opened shows where the target is.
func (w *Worker) opened(r *run) {
	if !w.started {
		w.started = true
		w.update(func(s *Status) { s.StartSeq = r.progress.Seq })
	}
	copies, statements := r.session.Copies(), r.session.Statements()
	w.update(func(s *Status) {
		s.Applied = r.progress
		s.copies(copies)
		s.Statements = statements
	})
}

// run is the state of one attempt.
type run struct {
	*Worker
	session  Session
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
	idle := time.NewTimer(r.cfg.Idle)
	defer idle.Stop()
	for {
		units, err := q.take(r.groupLimits())
		if err != nil {
			return err
		}
		if len(units) > 0 {
			if err := r.take(ctx, units, q, finished); err != nil {
				return err
			}
			if r.written == r.progress {
				idle.Reset(r.cfg.Idle)
			}
			continue
		}
		select {
		case <-q.filled:
		case <-idle.C:
			if err := r.idle(ctx); err != nil {
				return err
			}
			idle.Reset(r.cfg.Idle)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *run) groupLimits() (bytes, changes, units int) {
	if r.alone {
		return r.cfg.GroupBytes, r.cfg.GroupChanges, 1
	}
	return r.cfg.GroupBytes, r.cfg.GroupChanges, r.cfg.GroupUnits
}

// take deals with units: applies them when there are transactions among them, else remembers the position.
func (r *run) take(ctx context.Context, units []Unit, q *queue, finished chan<- struct{}) error {
	if units[0].Arriving != nil {
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
	if work {
		if err := r.apply(ctx, group, &group.To); err != nil {
			return err
		}
	}
	r.progress = group.To
	r.dealtWith(units, work, q)
	return nil
}

func (r *run) group(units []Unit) Group {
	return Group{From: r.written, To: r.progress, Units: units, Skips: r.skips, Careful: r.alone, Report: Report{Waiting: r.waiting}}
}

func (r *run) waiting(why string) { r.update(func(s *Status) { s.Waiting = why }) }

// dealtWith shows how far the worker is.
func (r *run) dealtWith(units []Unit, work bool, q *queue) {
	r.seen(units)
	if units[len(units)-1].Pending == 0 && q.empty() {
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
	r.written, r.progress = *to, *to
	r.failures, r.alone = 0, false
	at, copies, statements := r.cfg.Now(), r.session.Copies(), r.session.Statements()
	r.update(func(s *Status) {
		s.Applied = *to
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
		r.cfg.Observer.OnApplied(Applied{Progress: *to, Units: g.Units, CommittedAt: at})
	}
	return nil
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

// idle looks at the stream again and writes a progress that only heartbeats moved, so that the stream may be
// purged up to it.
func (r *run) idle(ctx context.Context) error {
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
