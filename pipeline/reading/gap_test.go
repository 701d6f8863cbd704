package reading

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// What was removed from the beginning leaves epochs and the rest of a unit: the reading begins behind it. Later nothing may be missing.
func TestGap(t *testing.T) {
	p := newPost(t, subscription(format.Format{Name: format.JSON}), 4000)
	tx, body := wire.Subject("s"), [][]byte{payloadOf(t, format.JSON, transfer(1))}
	p.epoch()
	p.seq, p.unit = 5, 3
	p.send(tx, 7, body, 1, true)
	if len(p.got) != 0 {
		t.Fatalf("%d transactions of a unit without its beginning", len(p.got))
	}
	p.seq = 8
	p.epoch()
	p.seq, p.unit = 20, 20
	p.send(tx, 7, body, 1, true)
	if len(p.got) != 1 || p.got[0].First != 21 {
		t.Fatalf("%d transactions of a whole unit", len(p.got))
	}
	for _, seq := range []pipeline.Seq{21, 23, 40} {
		_, err := p.r.Add(&Message{Seq: seq, Subject: wire.EpochSubject("s")})
		if err == nil || !strings.Contains(err.Error(), "follows sequence 21") || !strings.Contains(err.Error(), "--from-seq") {
			t.Errorf("sequence %d behind 21: %v", seq, err)
		}
	}
}

// A reading up to what was the end does not wait for what was removed meanwhile, and passes nothing over.
func TestRemovedWhileRead(t *testing.T) {
	bus := natstest.Bus(t)
	stream, err := bus.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: wire.StreamName("s"), Subjects: []string{wire.AllSubjects("s")}})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := bus.JS.Publish(t.Context(), wire.Subject("s"), nil); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Live(t.Context(), bus.JS, "s")
	if err != nil {
		t.Fatal(err)
	}
	for from := pipeline.Seq(2); from < 4; from++ {
		remove := uint64(7 - from) // the last one, and then the one before
		if err := stream.DeleteMsg(t.Context(), remove); err != nil {
			t.Fatal(err)
		}
		var got []pipeline.Seq
		begun := time.Now()
		if err := s.Read(t.Context(), from, false, func(m *Message) error { got = append(got, m.Seq); return nil }); err != nil {
			t.Fatal(err)
		}
		if n := len(got); n == 0 || got[0] != from || got[n-1] > 4 || time.Since(begun) > time.Minute {
			t.Errorf("from %d, without %d: %d", from, remove, got)
		}
	}
	if _, last := s.Borders(); last != 5 {
		t.Errorf("the source ends at %d now", last)
	}
	for _, want := range []struct {
		from, to pipeline.Seq
		some     bool
	}{{1, 5, true}, {3, 5, true}, {4, 5, false}, {6, 9, false}} {
		if some, err := s.has(t.Context(), want.from, want.to); err != nil || some != want.some {
			t.Errorf("messages from %d to %d: %v %v", want.from, want.to, some, err)
		}
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Read(t.Context(), 1, false, func(m *Message) error { t.Errorf("message %d", m.Seq); return nil }); err != nil {
		t.Fatal(err)
	}
}
