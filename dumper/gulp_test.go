package dumper

import (
	"encoding/binary"
	"testing"
	"time"

	"shardcdc/pipeline"
)

// The socket is left to fill in a backlog only: inside a transaction that is large already, or behind old records; and only
// when it is empty.
func TestBacklog(t *testing.T) {
	now := pipeline.TimestampOf(time.Now())
	record := func(age time.Duration) []pipeline.Record {
		return []pipeline.Record{{Time: now - microseconds(time.Hour)}, {Time: now - microseconds(age)}}
	}
	var b backlog
	for i, step := range []struct {
		n       int
		inside  bool
		records []pipeline.Record
		want    bool
	}{
		{100, false, nil, false},
		{100, false, record(time.Millisecond), false},      // caught up
		{100, true, nil, false},                            // a small transaction, in two reads
		{100, false, record(time.Millisecond), false},      //
		{100, false, record(50 * time.Millisecond), true},  // behind
		{100, false, nil, true},                            // still
		{gulpBytes, false, record(time.Second), false},     // there is more already
		{100, false, record(30 * time.Millisecond), false}, // a commit that waited for a slow disk
		{gulpBytes / 2, true, nil, false},                  // a large transaction
		{gulpBytes / 2, true, record(time.Second), true},   //
		{100, true, record(time.Millisecond), true},        //
		{100, false, record(time.Millisecond), false},      // its end
		{gulpBytes - 1, true, nil, false},                  // the next begins anew
		{gulpBytes - 1, false, record(-time.Hour), false},  // a clock that is ahead
	} {
		if b.read(step.n, step.inside, step.records, now); b.pauses(step.n) != step.want {
			t.Errorf("step %d: %t, want %t", i, !step.want, step.want)
		}
	}
}

func microseconds(d time.Duration) pipeline.Timestamp {
	return pipeline.Timestamp(d / time.Microsecond)
}

// When a message was sent stands in its header.
func TestSent(t *testing.T) {
	s := &session{d: New(Source{}, nil, Options{})}
	body := append([]byte{'w'}, make([]byte, xlogDataHeader-1)...)
	binary.BigEndian.PutUint64(body[17:], 4711)
	begin := append([]byte{'B'}, make([]byte, 8+8+4)...)
	if err := s.copyData(t.Context(), append(body, begin...)); err != nil || s.sent != 4711 {
		t.Fatalf("sent at %d, %v", s.sent, err)
	}
}
