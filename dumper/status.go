package dumper

import (
	"time"

	"shardcdc/pipeline"
)

// State says what a Dumper is doing.
type State uint8

const (
	Connecting State = iota
	Streaming
	Waiting // Offer, or a write to a Spill, has been blocked for a while
	Backoff // waiting before the next attempt to connect
	Failed  // Run has returned a *FatalError
)

func (s State) String() string {
	return [...]string{"connecting", "streaming", "waiting for room", "backoff", "failed"}[s]
}

func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// waitingAfter is how long the reader has to be at work to be called waiting.
const waitingAfter = 100 * time.Millisecond

// Status is a Dumper's condition at one moment.
type Status struct {
	Shard      pipeline.ShardID
	Name, Slot string
	State      State
	Received   pipeline.LSN // every record that ends at or below was offered
	Confirmed  pipeline.LSN

	// Transactions half received, most of them because the server streams large ones before they end; the bytes of their
	// changes, and how many of these are not in memory.
	OpenTransactions       int
	OpenBytes, OpenSpilled int64

	Error      string    // the last one, without passwords; it may be over (see State)
	ErrorAt    time.Time // when
	Reconnects uint64

	ServerVersion int          // like 150018
	Flushed       pipeline.LSN // the server's flushed WAL position, when last looked at
	RetainedBytes uint64       // WAL that the slot keeps
	WALStatus     string       // of the slot: reserved, extended, unreserved, lost

	// ClockOffset is the shard's clock minus this machine's, true to within ClockUncertainty (half of the probe's
	// round trip): the best measurement of the last minute, or since one of the two was set. Zero uncertainty: not
	// measured yet.
	ClockOffset, ClockUncertainty time.Duration
	clockAt                       time.Time

	Probes uint64 // answered
	Nudges uint64 // logical messages written
}

// Status returns the present condition.
func (d *Dumper) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	if s.State == Streaming && !d.busy.IsZero() && time.Since(d.busy) >= waitingAfter {
		s.State = Waiting
	}
	return s
}

func (s *Status) fail(err error, now time.Time) {
	s.Error, s.ErrorAt = err.Error(), now
}

const (
	// clockKept is how long a measurement of the clock is better than a less certain one,
	clockKept = time.Minute
	// clockDrift is how far two clocks run apart in that time without being set (0.5 ms a second, as NTP slews), and
	clockDrift = 30 * time.Millisecond
)

// measured takes a measurement of the shard's clock, read between sent and back. One that contradicts the kept one
// counts whatever its certainty: a clock was set, and the merge must not rely on the old offset for another minute.
func (s *Status) measured(clock pipeline.Timestamp, sent, back time.Time) {
	uncertainty := max(back.Sub(sent)/2, time.Microsecond)
	offset := clock.Time().Sub(sent.Add(uncertainty))
	set := (offset - s.ClockOffset).Abs() > uncertainty+s.ClockUncertainty+clockDrift
	if s.ClockUncertainty != 0 && !set && uncertainty > s.ClockUncertainty && back.Sub(s.clockAt) < clockKept {
		return
	}
	s.ClockOffset, s.ClockUncertainty, s.clockAt = offset, uncertainty, back
}

func (d *Dumper) setState(s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.State = s
}
