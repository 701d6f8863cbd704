package apply

import (
	"sync"
	"time"

	"shardcdc/pipeline"
)

// State is what a worker is doing.
type State string

const (
	Connecting State = "connecting" // to the target or to the stream
	Applying   State = "applying"
	CaughtUp   State = "caught up" // everything that the stream held at the last look is applied
	Stuck      State = "blocked"   // by a Blocked error, which Status shows; tried again
	Stopped    State = "stopped"
)

// Status is a picture of a worker.
type Status struct {
	Subscription string
	State        State
	Applied      Progress
	Watermark    pipeline.CSN  // every transaction up to it that the stream held is applied
	CommitTime   time.Time     // on the source, of the last transaction applied; zero: none since the start
	Lag          time.Duration // age of CommitTime while there is more to apply, else 0
	Transactions uint64        // applied since the start
	Rows         uint64        // changes applied since the start
	Err          string        // why it is not going on; empty: it is
	ErrSince     time.Time     // when that began
}

// Observer is called at the events of a worker, from its goroutine; every function is optional and must be quick.
type Observer struct {
	// OnApplied is called after each commit on the target. The units are valid until it returns.
	OnApplied func(Applied)
	// OnState is called when the state or the error changes.
	OnState func(Status)
}

// Applied is one committed target transaction.
type Applied struct {
	Progress    Progress
	Units       []Unit
	CommittedAt time.Time // when the commit was known
}

// status is the part of a Worker that others read.
type status struct {
	mu sync.Mutex
	s  Status
}

func (w *Worker) Status() Status {
	w.status.mu.Lock()
	defer w.status.mu.Unlock()
	s := w.status.s
	if s.State != CaughtUp && !s.CommitTime.IsZero() {
		s.Lag = max(0, w.cfg.Now().Sub(s.CommitTime))
	}
	return s
}

// state changes state and error, and tells the observer when that is news.
func (w *Worker) state(state State, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	w.status.mu.Lock()
	s := &w.status.s
	news := s.State != state || s.Err != text
	s.State = state
	switch {
	case text == "":
		s.ErrSince = time.Time{}
	case s.ErrSince.IsZero():
		s.ErrSince = w.cfg.Now()
	}
	s.Err = text
	seen := *s
	w.status.mu.Unlock()
	if news && w.cfg.Observer.OnState != nil {
		w.cfg.Observer.OnState(seen)
	}
}

func (w *Worker) update(fn func(*Status)) {
	w.status.mu.Lock()
	defer w.status.mu.Unlock()
	fn(&w.status.s)
}
