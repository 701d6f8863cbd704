package apply

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"shardcdc/pipeline"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/wire"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.init.0.func1")); code == 0 && err != nil {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

// stream is a real stream on a real server.
type stream struct {
	t    *testing.T
	js   jetstream.JetStream
	enc  wire.Encoder
	last pipeline.CSN

	damage func(k, n int, part []byte) []byte
}

func newStream(t *testing.T) *stream {
	t.Helper()
	s := &stream{t: t}
	stop := s.serve(t.TempDir())
	t.Cleanup(func() { stop() })
	s.create(nil)
	return s
}

// serve starts a server on a folder, until stop.
func (s *stream) serve(dir string) (stop func()) {
	s.t.Helper()
	srv := natstest.Start(s.t, &server.Options{JetStream: true, StoreDir: dir, DontListen: true, SyncAlways: true})
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.js, err = jetstream.New(nc); err != nil {
		s.t.Fatal(err)
	}
	return func() { nc.Close(); srv.Shutdown(); srv.WaitForShutdown() }
}

func (s *stream) create(metadata map[string]string) {
	s.t.Helper()
	if _, err := s.js.CreateStream(s.t.Context(), jetstream.StreamConfig{
		Name: wire.StreamName("sub"), Subjects: []string{wire.AllSubjects("sub")}, Metadata: metadata,
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stream) publish(subject string, header map[string]string, data []byte) {
	s.t.Helper()
	m := nats.NewMsg(subject)
	for k, v := range header {
		m.Header.Set(k, v)
	}
	m.Data = data
	if _, err := s.js.PublishMsg(s.t.Context(), m); err != nil {
		s.t.Fatal(err)
	}
}

// unit publishes one transaction in parts of at most limit bytes, but only the first of them if says less.
func (s *stream) unit(csn pipeline.CSN, limit, only int) {
	s.t.Helper()
	f := &pipeline.Fragment{Start: 1, End: 2}
	f.Append(message1(1))
	s.transaction(&pipeline.Transaction{CSN: csn, Fragments: []*pipeline.Fragment{f}}, limit, only)
}

// message1 is a logical message with n bytes.
func message1(n int) []byte {
	msg := binary.BigEndian.AppendUint32([]byte("M\x01\x00\x00\x00\x00\x00\x00\x00\x01p\x00"), uint32(n))
	return append(msg, bytes.Repeat([]byte{'x'}, n)...)
}

func (s *stream) transaction(tx *pipeline.Transaction, limit, only int) {
	s.t.Helper()
	b := &pipeline.Batch{Previous: s.last, Transactions: []*pipeline.Transaction{tx}}
	frame, err := s.enc.AppendUnit(nil, b)
	if err != nil {
		s.t.Fatal(err)
	}
	parts := wire.Split(frame, limit)
	for i, p := range parts {
		if i == only {
			return
		}
		h := map[string]string{wire.HeaderCSN: tx.CSN.String()}
		if len(parts) > 1 {
			h[wire.HeaderPart] = wire.PartHeader(i+1, len(parts))
		}
		if i == len(parts)-1 {
			h[wire.HeaderCheckpoint] = wire.CheckpointHeader(&b.Checkpoint)
			h[wire.HeaderWatermark] = tx.CSN.String()
		}
		if s.damage != nil {
			p = s.damage(i+1, len(parts), p)
		}
		s.publish(wire.Subject("sub"), h, p)
	}
	s.last = tx.CSN
}

func (s *stream) open(after pipeline.Seq) Reader {
	s.t.Helper()
	return s.openWith(after, memoryBytesDefault)
}

// openWith reads units with more bytes of rows as they come.
func (s *stream) openWith(after pipeline.Seq, memoryBytes int64) Reader {
	s.t.Helper()
	src := NewStream(s.js, "sub")
	src.MemoryBytes = memoryBytes
	r, err := src.Open(s.t.Context(), after)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(r.Close)
	return r
}

// patience is how long the server may take on a busy machine.
const patience = time.Minute

func (s *stream) next(r Reader) (Unit, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel) // a unit that is arriving is read later
	return r.Next(ctx)
}

func TestStreamReadsUnits(t *testing.T) {
	s := newStream(t)
	s.publish(wire.EpochSubject("sub"), nil, []byte("1"))                                       // 1
	s.unit(10, 1<<20, -1)                                                                       // 2
	s.publish(wire.WatermarkSubject("sub"), map[string]string{wire.HeaderWatermark: "15"}, nil) // 3
	s.unit(20, 20, -1)                                                                          // 4..
	info, err := NewStream(s.js, "sub").Describe(t.Context())
	if err != nil || info.First != 1 || info.Last < 6 || info.ID == "" {
		t.Fatalf("got %+v, %v", info, err)
	}
	// A writer dies between the parts of a unit; the next one takes over and packs it anew.
	s.unit(30, 20, 2)
	s.publish(wire.WatermarkSubject("sub"), nil, nil) // not a unit's end, so not a position
	s.publish(wire.EpochSubject("sub"), nil, []byte("2"))
	s.unit(30, 30, -1)
	type seen struct {
		seq       pipeline.Seq
		csn       pipeline.CSN
		watermark pipeline.CSN
	}
	want := []seen{{1, 0, 0}, {2, 10, 10}, {3, 0, 15}, {info.Last, 20, 20}, {info.Last + 4, 0, 0}, {0, 30, 30}}
	last, err := NewStream(s.js, "sub").Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want[5].seq = last.Last
	for from := range want { // from every unit's end on
		after := pipeline.Seq(0)
		if from > 0 {
			after = want[from-1].seq
		}
		r := s.open(after)
		for _, w := range want[from:] {
			u, err := s.next(r)
			if err != nil {
				t.Fatal(err)
			}
			got := seen{seq: u.Seq, watermark: u.Watermark}
			if u.Unit != nil {
				got.csn = u.Unit.Last
			}
			if got != w || (u.Pending == 0) != (u.Seq == last.Last) {
				t.Errorf("from %d: got %+v pending %d, want %+v", after, got, u.Pending, w)
			}
		}
	}
}

// TestStreamSurvivesItsConsumer: the server forgets the consumer, as it does when it restarts.
func TestStreamSurvivesItsConsumer(t *testing.T) {
	s := newStream(t)
	s.unit(1, 1<<20, -1)
	r := s.open(0)
	if _, err := s.next(r); err != nil {
		t.Fatal(err)
	}
	for csn := pipeline.CSN(2); csn < 5; csn++ {
		js, err := s.js.Stream(t.Context(), wire.StreamName("sub"))
		if err != nil {
			t.Fatal(err)
		}
		for name := range js.ConsumerNames(t.Context()).Name() {
			if err := js.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		s.unit(csn, 1<<20, -1)
		if u, err := s.next(r); err != nil || u.Unit.Last != csn {
			t.Fatalf("got %+v, %v", u, err)
		}
	}
}

// TestStreamCloseEndsNext: a worker that stops does not wait for the stream.
func TestStreamCloseEndsNext(t *testing.T) {
	s := newStream(t)
	r := s.open(0)
	done := make(chan error, 1)
	go func() {
		_, err := r.Next(t.Context())
		done <- err
	}()
	r.Close()
	if err := <-done; err == nil {
		t.Error("Next returned a unit")
	}
}

func TestStreamSeesHoles(t *testing.T) {
	s := newStream(t)
	for i := range 4 {
		s.unit(pipeline.CSN(i+1), 1<<20, -1)
	}
	js, err := s.js.Stream(t.Context(), wire.StreamName("sub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	r := s.open(0)
	for range 2 {
		if _, err := s.next(r); err != nil {
			t.Fatal(err)
		}
	}
	var fatal *Fatal
	if _, err := s.next(r); !errors.As(err, &fatal) || !strings.Contains(err.Error(), "stream sequence 4 follows 2") {
		t.Errorf("got %v", err)
	}
	if err := js.Purge(t.Context(), jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.next(s.open(1)); !errors.As(err, &fatal) {
		t.Errorf("purged: got %v", err)
	}
}

func TestStreamRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		header map[string]string
		data   string
		want   string
	}{
		{"other format", map[string]string{wire.HeaderFormat: "json", wire.HeaderCheckpoint: "x"}, "{}", "the stream's format is json, and only internal can be applied"},
		{"no end mark", nil, "x", "a unit ends without header Cdc-Checkpoint"},
		{"garbage", map[string]string{wire.HeaderCheckpoint: "x"}, "garbage", "unit: "},
		{"second part first", map[string]string{wire.HeaderPart: "2/3"}, "x", "unit: part 2/3 of a payload follows no first part"},
		{"watermark", map[string]string{wire.HeaderWatermark: "-1"}, "x", "header Cdc-Watermark"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStream(t)
			s.publish(wire.Subject("sub"), tc.header, []byte(tc.data))
			_, err := s.next(s.open(0))
			var fatal *Fatal
			if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "stream sequence 1: "+tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

// TestStreamIdentity: the same name is not the same stream.
func TestStreamIdentity(t *testing.T) {
	s := newStream(t)
	src := NewStream(s.js, "sub")
	ids := map[string]bool{}
	for i := range 3 {
		info, err := src.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again, err := src.Describe(t.Context())
		if err != nil || again != info || ids[info.ID] {
			t.Errorf("%d: got %+v and %+v, %v", i, info, again, err)
		}
		ids[info.ID] = true
		if err := s.js.DeleteStream(t.Context(), wire.StreamName("sub")); err != nil {
			t.Fatal(err)
		}
		if _, err := src.Describe(t.Context()); !errors.Is(err, ErrNoStream) {
			t.Errorf("got %v", err)
		}
		s.create(map[string]string{wire.MetadataIncarnation: strings.Repeat("x", i)})
	}
}

// TestStreamToWorker: the whole path with a target in memory, over a stream that grows.
func TestStreamToWorker(t *testing.T) {
	s := newStream(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	target := &fakeTarget{t: t}
	applied := make(chan pipeline.CSN, 100)
	w := New(Config{Subscription: "sub", Target: target, Source: NewStream(s.js, "sub"), Observer: Observer{
		OnApplied: func(a Applied) { applied <- a.Progress.CSN },
	}})
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for i := range 20 {
		s.unit(pipeline.CSN(i+1), 30+i*10, -1)
	}
	for csn := pipeline.CSN(0); csn < 20; {
		select {
		case csn = <-applied:
		case err := <-done:
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(target.applied) != 20 {
		t.Errorf("applied %v", target.applied)
	}
}
