package dumper

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"
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
		if b.read(step.n, step.inside, step.records, now); (b.pauses(step.n) > 0) != step.want {
			t.Errorf("step %d: %t, want %t", i, !step.want, step.want)
		}
	}
}

// A server that has nothing to send is not behind, however old the last record was: it may have been the last one for long.
func TestNoBacklogOfKeepalives(t *testing.T) {
	s := &session{d: New(Source{}, nil, Options{}), batch: []pipeline.Record{{Time: 1}}}
	keepalive := append([]byte{'k'}, make([]byte, 8+8+1)...)
	message := binary.BigEndian.AppendUint64(append([]byte{'w'}, make([]byte, 8+8)...), uint64(microseconds(time.Hour)))
	message = append(append(message, 'B'), make([]byte, 8+8+4)...)
	read := func(want bool, bodies ...[]byte) {
		t.Helper()
		for _, body := range bodies {
			if err := s.copyData(t.Context(), body); err != nil {
				t.Fatal(err)
			}
		}
		if s.note(100); (s.backlog.pauses(100) > 0) != want {
			t.Errorf("pauses: %t, want %t", !want, want)
		}
	}
	read(true, message) // with an old record
	s.batch = nil
	s.d.assembler.Reset()
	read(true, message, keepalive)
	read(false, keepalive)
	read(false, keepalive)
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

// Pauses become shorter where so much comes that the server stands still, at once; and longer again step by step.
func TestPauses(t *testing.T) {
	b := backlog{old: true}
	step := func(gulp int) time.Duration {
		b.read(gulp, false, nil, 0)
		return b.pauses(1)
	}
	if d := step(100); d != gulpPause {
		t.Fatalf("the first is %s", d)
	}
	if d := step(2 * gulpMax); d != gulpPause/2 {
		t.Errorf("behind twice as much as there may be: %s", d)
	}
	if d := step(1000 * gulpMax); d != pauseMin {
		t.Errorf("behind very much: %s", d)
	}
	if d := step(100); d != pauseMin*5/4 {
		t.Errorf("behind a small gulp: %s", d)
	}
	for range 100 {
		step(gulpMax)
	}
	if d := step(gulpMax); d != gulpPause {
		t.Errorf("behind many small gulps: %s", d)
	}
}

// A server that is near gets a small window. One that is far is left to the kernel, and so is what is no TCP connection.
func TestNarrow(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	size := func() (bytes int) {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { bytes, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF) })
		}
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	before := size()
	if err := errors.Join(narrow(conn, near), narrow(pipe, 0)); err != nil || size() != before {
		t.Fatalf("far: %d bytes instead of %d, %v", size(), before, err)
	}
	if err := narrow(conn, near/2); err != nil || size() < windowBytes || size() > 2*windowBytes {
		t.Errorf("near: %d bytes, %v", size(), err)
	}
}
