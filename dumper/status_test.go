package dumper

import (
	"testing"
	"time"

	"shardcdc/pipeline"
)

// The most certain measurement of the last minute counts, unless a later one proves that a clock was set.
func TestMeasured(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s Status
	measure := func(after, offset, roundTrip time.Duration, want time.Duration) {
		t.Helper()
		sent := now.Add(after)
		s.measured(pipeline.TimestampOf(sent.Add(roundTrip/2+offset)), sent, sent.Add(roundTrip))
		if s.ClockOffset != want {
			t.Fatalf("after %s: offset %s, want %s", after, s.ClockOffset, want)
		}
	}
	const ms, sec = time.Millisecond, time.Second
	measure(0, 20*ms, 10*ms, 20*ms)
	measure(1*sec, 22*ms, 2*ms, 22*ms)   // more certain
	measure(2*sec, 25*ms, 8*ms, 22*ms)   // less certain
	measure(3*sec, 60*ms, 80*ms, 22*ms)  // less certain, and no contradiction
	measure(4*sec, 6*sec, 80*ms, 6*sec)  // set
	measure(5*sec, 6*sec, 90*ms, 6*sec)  // less certain
	measure(6*sec, 20*ms, 300*ms, 20*ms) // set back
	measure(70*sec, 30*ms, 400*ms, 30*ms)
}
