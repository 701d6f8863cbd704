package apply

import (
	"errors"
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
	Applied      Progress      // as the target's row says: the stream need not keep what is before
	Watermark    pipeline.CSN  // every transaction up to it that the stream held is applied
	CommitTime   time.Time     // on the source, of the last transaction applied; zero: none since the start
	Lag          time.Duration // age of CommitTime while there is more to apply, else 0
	Transactions uint64        // applied since the start
	Rows         uint64        // changes applied since the start
	Err          string        // why it is not going on; empty: it is
	ErrSince     time.Time     // when that began
	Blocked      BlockedAt     // while the state is Stuck
	Waiting      string        // what the target does that takes it so long; empty: it answers
	Large        Large         // the transactions larger than memory that are being applied; zero: there are none

	Copying        []string     // tables that are being copied; see Copies
	Incomplete     bool         // there are such tables, so the target is not what the source ever was
	ConsistentFrom pipeline.CSN // when not Incomplete: from here on it is; 0: nothing was ever copied
	CopiedRows     uint64       // applied since the start; they are among Rows, too

	Statements []Statement // DDL that not every shard has run; see Session

	StartSeq  pipeline.Seq // Applied.Seq when the worker began
	StreamSeq pipeline.Seq // of the last message that the stream is known to hold
}

func (s *Status) copies(c Copies) {
	s.Copying, s.Incomplete, s.ConsistentFrom = c.Tables, len(c.Tables) > 0, c.ConsistentFrom
}

// BlockedAt is where a worker is stuck; each may be unknown.
type BlockedAt struct {
	CSN   pipeline.CSN
	Table string // on the target, quoted where it must be
	Row   string // the row's key
}

// Large is how far a unit is that is larger than memory.
type Large struct {
	CSN               pipeline.CSN // of the unit's last transaction, mostly its only one
	Spooling          bool         // being read into files; else being sent to the target, where nobody sees it yet
	Rows, RowsTotal   int
	Bytes, BytesTotal int64
}

// Observer is called at the events of a worker, from its goroutine; every function is optional and must be quick.
type Observer struct {
	// OnApplied is called after each commit on the target. The units are valid until it returns, but
	// for the rows of one that was larger than memory.
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
	text, at := "", BlockedAt{}
	if err != nil {
		text = err.Error()
	}
	var blocked *Blocked
	if state == Stuck && errors.As(err, &blocked) {
		at = BlockedAt{blocked.CSN, blocked.Table, blocked.Row}
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
	s.Err, s.Blocked = text, at
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
