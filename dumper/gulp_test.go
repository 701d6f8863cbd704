package dumper

import (
	"testing"
	"time"

	"shardcdc/pipeline"
)

// The socket is left to fill in a backlog only: inside a transaction that is large already, or behind old records; and only
// when it is empty.
func TestBacklog(t *testing.T) {
	now := time.Now()
	record := func(age time.Duration) []pipeline.Record {
		return []pipeline.Record{{Time: pipeline.TimestampOf(now.Add(-time.Hour))}, {Time: pipeline.TimestampOf(now.Add(-age))}}
	}
	var b backlog
	for i, step := range []struct {
		n       int
		inside  bool
		records []pipeline.Record
		want    bool
	}{
		{100, false, nil, false},
		{100, false, record(time.Millisecond), false},     // caught up
		{100, true, nil, false},                           // a small transaction, in two reads
		{100, false, record(time.Millisecond), false},     //
		{100, false, record(time.Second), true},           // behind
		{100, false, nil, true},                           // still
		{gulpBytes, false, record(time.Second), false},    // there is more already
		{100, false, record(time.Millisecond), false},     // caught up
		{gulpBytes / 2, true, nil, false},                 // a large transaction
		{gulpBytes / 2, true, record(time.Second), true},  //
		{100, true, record(time.Millisecond), true},       //
		{100, false, record(time.Millisecond), false},     // its end
		{gulpBytes - 1, true, nil, false},                 // the next begins anew
		{gulpBytes - 1, false, record(-time.Hour), false}, // a clock that is ahead
	} {
		if b.read(step.n, step.inside, step.records, now); b.pauses(step.n) != step.want {
			t.Errorf("step %d: %t, want %t", i, !step.want, step.want)
		}
	}
}
