package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"shardcdc/pipeline"
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
	RetryMin     time.Duration // first delay after another error, then doubled; 100 ms
	RetryMax     time.Duration // 10 s
	OpenTimeout  time.Duration // for connecting and reading the progress; 30 s
	// Idle: after this time without transactions the stream is looked at again (it may have been replaced), and
	// a progress that moved over heartbeats alone is written. 5 s.
	Idle time.Duration

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
		err = fmt.Errorf("apply %s: %w", w.cfg.Subscription, err)
		var fatal *Fatal
		if errors.As(err, &fatal) {
			w.state(Stopped, err)
			return err
		}
		if err := pause(ctx, w.failed(err)); err != nil {
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
		return w.cfg.RetryBlocked
	}
	w.state(Connecting, err)
	delay := w.cfg.RetryMin
	for i := 1; i < w.failures && delay < w.cfg.RetryMax; i++ {
		delay *= 2
	}
	return min(delay, w.cfg.RetryMax)
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt is one session, from connecting to the first error.
func (w *Worker) attempt(ctx context.Context) error {
	if w.failures == 0 {
		w.state(Connecting, nil)
	}
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
	w.update(func(s *Status) { s.Applied = run.progress })
	if err := run.checkStream(opening); err != nil {
		return err
	}
	reader, err := w.cfg.Source.Open(opening, run.progress.Seq)
	if err != nil {
		return fmt.Errorf("open the stream behind sequence %d: %w", run.progress.Seq, err)
	}
	return run.replay(ctx, reader)
}

// run is the state of one attempt.
type run struct {
	*Worker
	session  Session
	progress Progress // how far we are
	written  Progress // how far the target's row says we are; behind progress only by heartbeats
	stream   StreamInfo
}

// checkStream compares the stream with the progress.
func (r *run) checkStream(ctx context.Context) error {
	info, err := r.cfg.Source.Describe(ctx)
	if errors.Is(err, ErrNoStream) && r.progress.StreamID != "" {
		return &Fatal{
			Problem: fmt.Sprintf("%v, but the target is at %s of it", err, r.progress), Try: startOver,
		}
	}
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	r.stream = info
	switch p := r.progress; {
	case p.StreamID == "":
		r.progress.StreamID = info.ID
	case p.StreamID != info.ID:
		return &Fatal{
			Problem: fmt.Sprintf("the stream is another one (%s) than the target was fed from (%s, at %s): its sequence numbers mean nothing here",
				info.ID, p.StreamID, p), Try: startOver,
		}
	}
	if p := r.progress; info.Last < p.Seq {
		return &Fatal{
			Problem: fmt.Sprintf("the stream ends at sequence %d, but the target is at %s: the stream lost its end", info.Last, p), Try: startOver,
		}
	}
	if r.progress.Seq+1 < info.First {
		return &Fatal{
			Problem: fmt.Sprintf("the stream begins at sequence %d, but the target needs %d: what is between was purged", info.First, r.progress.Seq+1),
			Try:     startOver,
		}
	}
	return nil
}

const startOver = "restore the stream; or copy the data anew (drop and create the subscription), because the target misses transactions that this stream no longer holds"

// replay reads on one goroutine and applies on this one.
func (r *run) replay(ctx context.Context, reader Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	q := newQueue(r.cfg.QueueBytes, r.cfg.QueueUnits)
	done := make(chan struct{})
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
			if err := r.take(ctx, units, q); err != nil {
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
func (r *run) take(ctx context.Context, units []Unit, q *queue) error {
	group := Group{From: r.written, To: r.progress, Units: units}
	work := false
	for i := range units {
		if err := r.follows(&units[i], &group.To); err != nil {
			return err
		}
		work = work || units[i].Unit != nil && len(units[i].Transactions) > 0
	}
	if work {
		if err := r.apply(ctx, group); err != nil {
			return err
		}
	}
	r.progress = group.To
	last := &units[len(units)-1]
	r.seen(units)
	if last.Pending == 0 && q.empty() {
		r.caughtUp()
	} else if work {
		r.state(Applying, nil)
	}
	return nil
}

// follows moves the progress over a unit, or says why that would be wrong.
func (r *run) follows(u *Unit, at *Progress) error {
	if u.Seq <= at.Seq {
		return &Fatal{Problem: fmt.Sprintf("the stream gave sequence %d behind %s", u.Seq, *at), Try: startOver}
	}
	if u.Unit != nil {
		// The first unit of a stream may continue the CSNs of one before it. Everything from this stream's first
		// message on was read, so nothing is missing.
		if first := at.CSN == 0; !first {
			if err := u.Unit.Follows(at.CSN); err != nil {
				return &Fatal{Problem: fmt.Sprintf("stream sequence %d", u.Seq), Err: err, Try: startOver}
			}
		}
		at.CSN = u.Unit.Last
	}
	at.Seq = u.Seq
	return nil
}

func (r *run) apply(ctx context.Context, g Group) error {
	if err := r.session.Apply(ctx, g); err != nil {
		return err
	}
	r.written, r.progress = g.To, g.To
	r.failures, r.alone = 0, false
	at := r.cfg.Now()
	r.update(func(s *Status) {
		s.Applied = g.To
		_ = g.Transactions(func(tx *pipeline.Transaction) error {
			s.Transactions++
			s.Rows += uint64(tx.Changes())
			s.CommitTime = tx.CommitTime.Time()
			return nil
		})
	})
	if r.cfg.Observer.OnApplied != nil {
		r.cfg.Observer.OnApplied(Applied{Progress: g.To, Units: g.Units, CommittedAt: at})
	}
	return nil
}

func (r *run) seen(units []Unit) {
	r.update(func(s *Status) {
		s.Applied = r.progress
		for i := range units {
			s.Watermark = max(s.Watermark, units[i].Watermark)
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
	return nil
}
