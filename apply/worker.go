package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

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

	// Workers is how many groups may be on their way at the same time while there is a backlog, each on a connection of its
	// own; see parallel.go. 1: one after the other. 4.
	Workers int

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
	number(&c.Workers, 4)
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
	defer closeLane(ctx, session)
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
