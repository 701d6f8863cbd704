package dumper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
)

// TestFrames: however the bytes arrive and however small the buffer, the same messages come out.
func TestFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bodies := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 300)).Draw(t, "bodies")
		var wire []byte
		for _, body := range bodies {
			wire = binary.BigEndian.AppendUint32(append(wire, 'd'), uint32(4+len(body)))
			wire = append(wire, body...)
		}
		var from io.Reader = bytes.NewReader(wire)
		if rapid.Bool().Draw(t, "one byte at a time") {
			from = iotest.OneByteReader(from)
		}
		f := newFrames(rapid.IntRange(1, 400).Draw(t, "buffer"))
		var got [][]byte
		for {
			kind, body, ok, err := f.next()
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				if kind != 'd' {
					t.Fatalf("kind %q", kind)
				}
				got = append(got, bytes.Clone(body))
				continue
			}
			if _, err := f.fill(from); err != nil {
				break
			}
		}
		if len(got) != len(bodies) {
			t.Fatalf("%d messages of %d", len(got), len(bodies))
		}
		for i := range got {
			if !bytes.Equal(got[i], bodies[i]) {
				t.Fatalf("message %d is %x, want %x", i, got[i], bodies[i])
			}
		}
	})
}

// TestFrameLengths: a length alone neither makes the buffer grow nor passes when it cannot be.
func TestFrameLengths(t *testing.T) {
	for _, n := range []uint32{0, 3, frameBytesMax + 1, 1 << 31, 1<<32 - 1} {
		f := newFrames(64)
		if _, err := f.fill(bytes.NewReader(binary.BigEndian.AppendUint32([]byte{'d'}, n))); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := f.next(); err == nil {
			t.Errorf("a length of %d passes", n)
		}
	}
	f := newFrames(64)
	from := iotest.OneByteReader(bytes.NewReader(append(binary.BigEndian.AppendUint32([]byte{'d'}, frameBytesMax), make([]byte, 1000)...)))
	for {
		if _, err := f.fill(from); err != nil {
			break
		}
		if _, _, ok, err := f.next(); ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if len(f.buf) > 4096 {
		t.Errorf("the buffer is %d bytes for 1005 that came", len(f.buf))
	}
}

func TestStatusUpdate(t *testing.T) {
	got := statusUpdate(0x1122, 0x33, 5, true)
	want := append([]byte{'d', 0, 0, 0, 38, 'r'}, bytes.Join([][]byte{
		{0, 0, 0, 0, 0, 0, 0x11, 0x22},
		{0, 0, 0, 0, 0, 0, 0, 0x33},
		{0, 0, 0, 0, 0, 0, 0, 0x33},
		{0, 0, 0, 0, 0, 0, 0, 5},
		{1},
	}, nil)...)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func kMessage(end pipeline.LSN) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(end))
	return append(binary.BigEndian.AppendUint64(b, 0), 0)
}

func wMessage(msg []byte) []byte { return append(append([]byte{'w'}, make([]byte, 24)...), msg...) }

func beginMessage(final pipeline.LSN) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(final))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, 0), 7)
}

func commitMessage(l, end pipeline.LSN) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(l))
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(end)), 0)
}

// TestPosition: a keepalive counts, but not into a transaction half received; a record at or below the position is a
// broken promise.
func TestPosition(t *testing.T) {
	d := New(Source{Start: 0x100}, nil, Options{})
	s := &session{d: d}
	feed := func(want pipeline.LSN, body []byte) {
		t.Helper()
		if err := s.copyData(t.Context(), body); err != nil {
			t.Fatal(err)
		}
		if d.position != want {
			t.Errorf("position %s, want %s", d.position, want)
		}
	}
	feed(0x100, kMessage(0x50)) // the slot's own position, after a reconnect
	feed(0x180, kMessage(0x180))
	feed(0x180, wMessage(beginMessage(0x200)))
	feed(0x200, kMessage(0x300)) // more than can be true
	feed(0x230, wMessage(commitMessage(0x200, 0x230)))
	feed(0x300, kMessage(0x300))
	if len(s.batch) != 1 {
		t.Errorf("%d records", len(s.batch))
	}
	feed(0x300, wMessage(beginMessage(0x2a0)))
	err := s.copyData(t.Context(), wMessage(commitMessage(0x2a0, 0x300)))
	var protocol *protocolError
	if !errors.As(err, &protocol) || !strings.Contains(err.Error(), "ends at 0/300, but the stream had come to 0/300 before") {
		t.Errorf("error %v", err)
	}
}

func TestStrangeCopyData(t *testing.T) {
	for _, body := range [][]byte{nil, {'w'}, wMessage(nil), {'k'}, kMessage(1)[:17], append(kMessage(1), 0), {'x', 1, 2}} {
		s := &session{d: New(Source{}, nil, Options{})}
		var protocol *protocolError
		if err := s.copyData(t.Context(), body); !errors.As(err, &protocol) {
			t.Errorf("%x: error %v", body, err)
		}
	}
}

// TestUpdatesDue: what is due at once, after a while, and when nobody asks.
func TestUpdatesDue(t *testing.T) {
	now := time.Now()
	d := New(Source{Start: 0x10}, nil, Options{})
	d.feedback.interval = time.Second
	d.heard = now
	check := func(what string, at time.Duration, due bool, wait time.Duration) {
		t.Helper()
		msg, w, err := d.nextUpdate(now.Add(at), now)
		if err != nil || (msg != nil) != due || w != wait {
			t.Errorf("%s: due %v in %s, error %v; want %v in %s", what, msg != nil, w, err, due, wait)
		}
	}
	check("nothing", 10*time.Millisecond, false, 990*time.Millisecond)
	d.handed = 0x20
	d.Confirm(0x20)
	check("a confirmation", 10*time.Millisecond, false, 90*time.Millisecond)
	check("a confirmation, later", 100*time.Millisecond, true, time.Second)
	check("told already", 110*time.Millisecond, false, 890*time.Millisecond)
	d.askForKeepalive()
	check("a question", 0, true, time.Second)
	check("the interval", time.Second, true, time.Second)
	if _, _, err := d.nextUpdate(now.Add(2*time.Minute), now); !errors.Is(err, errSilent) {
		t.Errorf("silence: %v", err)
	}
	d.busy = now
	check("silence while the reader is at work", 2*time.Minute, true, time.Second)
}

// TestBackoff: grows, is bounded, differs.
func TestBackoff(t *testing.T) {
	d := New(Source{}, nil, Options{})
	for attempt := range 100 {
		if wait := d.backoff(attempt); wait < 50*time.Millisecond || wait > 5*time.Second || attempt > 10 && wait < 2500*time.Millisecond {
			t.Errorf("attempt %d waits %s", attempt, wait)
		}
	}
}
