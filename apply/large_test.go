package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// large makes a transaction of several fragments, some 2 kB each; one has no rows.
func large(csn pipeline.CSN) *pipeline.Transaction {
	tx := &pipeline.Transaction{CSN: csn}
	for shard := range pipeline.ShardID(4) {
		f := &pipeline.Fragment{Shard: shard, Start: pipeline.LSN(csn), End: pipeline.LSN(csn) + 1}
		for i := range 10 {
			if shard != 2 {
				f.Append(message1(i * 50 * int(shard+1)))
			}
		}
		tx.Fragments = append(tx.Fragments, f)
	}
	return tx
}

func (s *stream) epoch() {
	s.t.Helper()
	s.publish(wire.EpochSubject("sub"), nil, []byte("n"))
}

// parts of a large unit: several for its head, and pieces of messages.
const partBytes = 100

// body reads a fragment to its end.
func body(f *pipeline.Fragment) ([]byte, error) {
	r, err := f.OpenBody()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// TestArriving: the rows of a large unit come as they were sent, and the reader goes on behind it.
func TestArriving(t *testing.T) {
	s := newStream(t)
	s.unit(1, 1<<20, -1)
	s.transaction(large(2), partBytes, -1)
	s.publish(wire.CheckpointSubject("sub"), nil, []byte("of the next unit: no position"))
	s.unit(3, 1<<20, -1)
	r := s.openWith(0, 100)
	if u, err := s.next(r); err != nil || u.Arriving != nil || u.Seq != 1 || u.Stamp == 0 {
		t.Fatalf("got %+v, %v", u, err)
	}
	u, err := s.next(r)
	if err != nil || u.Arriving == nil || u.Seq != 0 || u.Unit.Last != 2 || u.Bytes != 0 {
		t.Fatalf("got %+v, %v", u, err)
	}
	for i, want := range large(2).Fragments {
		f := u.Unit.Transactions[0].Fragments[i]
		got, err := body(f)
		if err != nil || !bytes.Equal(got, want.Body) || f.Changes != want.Changes || f.Size() != int64(len(want.Body)) {
			t.Errorf("fragment %d: %d bytes, want %d; %v", i, len(got), len(want.Body), err)
		}
	}
	var again *ReadError
	if _, err := body(u.Unit.Transactions[0].Fragments[0]); !errors.As(err, &again) {
		t.Errorf("read twice: %v", err)
	}
	if err := u.Finish(); err != nil || u.Watermark != 2 || u.Pending != 2 {
		t.Errorf("got %+v, %v", u.End, err)
	}
	last, err := s.next(r)
	if err != nil || last.Unit.Last != 3 || last.Seq != u.Seq+2 {
		t.Errorf("behind it: %+v, %v", last, err)
	}
	stamp, err := NewStream(s.js, "sub").Stamp(t.Context(), u.Seq)
	if err != nil || stamp != u.Stamp {
		t.Errorf("stamp %d, %v, want %d", stamp, err, u.Stamp)
	}
	if stamp, err := NewStream(s.js, "sub").Stamp(t.Context(), 999); err != nil || stamp != 0 {
		t.Errorf("stamp %d, %v of a message that is not there", stamp, err)
	}
}

// TestArrivingInSomeOrder: fragments may be passed over, but not read backwards.
func TestArrivingInSomeOrder(t *testing.T) {
	s := newStream(t)
	s.transaction(large(1), partBytes, -1)
	u, err := s.next(s.openWith(0, 100))
	if err != nil {
		t.Fatal(err)
	}
	fragments := u.Unit.Transactions[0].Fragments
	if got, err := body(fragments[1]); err != nil || !bytes.Equal(got, large(1).Fragments[1].Body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := body(fragments[0]); err == nil || !strings.Contains(err.Error(), "in order") {
		t.Errorf("read backwards: %v", err)
	}
	if err := u.Finish(); err != nil {
		t.Error(err)
	}
}

// abandoning are the ways in which a new writer goes on.
var abandoning = map[string]func(s *stream, csn pipeline.CSN){
	"epoch":       func(s *stream, csn pipeline.CSN) { s.epoch(); s.transaction(large(csn), 2*partBytes, -1) },
	"first part":  func(s *stream, csn pipeline.CSN) { s.transaction(large(csn), 2*partBytes, -1) },
	"one message": func(s *stream, csn pipeline.CSN) { s.transaction(large(csn), 1<<20, -1) },
}

// TestAbandoned: the parts of a dead writer are an error of the unit, wherever it is noticed, and the reader goes on
// with what comes behind them.
func TestAbandoned(t *testing.T) {
	for name, goOn := range abandoning {
		for _, read := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, read %v", name, read), func(t *testing.T) {
				s := newStream(t)
				const dead = 20
				s.transaction(large(7), partBytes, dead)
				s.publish(wire.WatermarkSubject("sub"), nil, nil)
				goOn(s, 9)
				r := s.openWith(0, 100)
				u, err := s.next(r)
				if err != nil || u.Arriving == nil {
					t.Fatalf("got %+v, %v", u, err)
				}
				if read {
					for _, f := range u.Unit.Transactions[0].Fragments {
						if _, err = body(f); err != nil {
							break
						}
					}
					var readError *ReadError
					if !errors.As(err, &readError) {
						t.Errorf("got %v", err)
					}
				} else {
					err = u.Finish()
				}
				var abandoned *Abandoned
				if !errors.As(err, &abandoned) || abandoned.Seq != dead+1 || abandoned.Stamp == 0 {
					t.Fatalf("got %v", err)
				}
				for u.Unit == nil || u.Unit.Last != 9 {
					if u, err = s.next(r); err != nil {
						t.Fatal(err)
					}
				}
				if err := u.Finish(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestArrivingStalls: the rest of a unit is waited for, but not when the stream is another one meanwhile.
func TestArrivingStalls(t *testing.T) {
	s := newStream(t)
	s.transaction(large(1), partBytes, 20)
	src := NewStream(s.js, "sub")
	src.MemoryBytes, src.stall = 100, 20*time.Millisecond
	r, err := src.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	u, err := s.next(r)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- u.Finish() }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(5 * src.stall):
	}
	if err := s.js.DeleteStream(t.Context(), wire.StreamName("sub")); err != nil {
		t.Fatal(err)
	}
	s.create(nil)
	var read *ReadError
	if err := <-done; !errors.As(err, &read) {
		t.Errorf("got %v", err)
	}
	if err := r.(*streamReader).stillThere(t.Context()); err == nil || !strings.Contains(err.Error(), "was replaced or lost its end") {
		t.Errorf("got %v", err)
	}
}

// TestArrivingDamaged: what is not as it was sent has no end, wherever the damage is.
func TestArrivingDamaged(t *testing.T) {
	for _, at := range []string{"head", "middle", "last"} {
		s := newStream(t)
		s.damage = func(k, n int, part []byte) []byte {
			if at == "head" && k == 1 || at == "middle" && k == n/2 || at == "last" && k == n {
				part = bytes.Clone(part)
				part[len(part)-1] ^= 1
			}
			return part
		}
		s.transaction(large(1), partBytes, -1)
		u, err := s.next(s.openWith(0, 100))
		if err == nil {
			err = u.Finish()
		}
		var fatal *Fatal
		if !errors.As(err, &fatal) {
			t.Errorf("%s: got %v", at, err)
		}
	}
}

// memoryFile is a SpillFile.
type memoryFile struct {
	bytes.Buffer
	sealed bool
	files  *int
}

func (f *memoryFile) Seal() error { f.sealed = true; return nil }
func (f *memoryFile) Size() int64 { return int64(f.Len()) }
func (f *memoryFile) Release()    { *f.files-- }
func (f *memoryFile) Open() (io.ReadCloser, error) {
	if !f.sealed {
		return nil, errors.New("not sealed")
	}
	return io.NopCloser(bytes.NewReader(f.Bytes())), nil
}

// TestLargeToWorker: units in parts, three of them abandoned in a row, between small ones; rows are applied as they
// arrive, or from files. A second worker starts at every position of the stream.
func TestLargeToWorker(t *testing.T) {
	for _, streams := range []bool{true, false} {
		for name, goOn := range abandoning {
			t.Run(fmt.Sprintf("%s, streams %v", name, streams), func(t *testing.T) {
				s := newStream(t)
				s.unit(1, 1<<20, -1)
				for try := range 3 {
					s.transaction(large(2), partBytes, 15+5*try)
					s.last = 1
				}
				goOn(s, 2)
				s.unit(3, 1<<20, -1)
				s.transaction(large(4), partBytes, -1)
				s.unit(5, 1<<20, -1)
				files := 0
				target := &fakeTarget{t: t, streams: streams}
				run := func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					src := NewStream(s.js, "sub")
					src.MemoryBytes = 100
					w := New(Config{
						Subscription: "sub", Target: target, Source: src,
						Spill: func() (SpillFile, error) { files++; return &memoryFile{files: &files}, nil },
						Observer: Observer{OnState: func(s Status) {
							if s.State == CaughtUp {
								cancel()
							}
							if s.Err != "" {
								t.Error(s.Err)
							}
						}},
					})
					if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					if s := w.Status(); s.Applied.CSN != 5 || s.Large != (Large{}) {
						t.Errorf("status %+v", s)
					}
				}
				run()
				if got := fmt.Sprint(target.applied); got != "[1 2 3 4 5]" {
					t.Errorf("applied %s", got)
				}
				wantDirect := 0
				if streams {
					if wantDirect = 2; name == "one message" {
						wantDirect = 1
					}
				}
				if target.direct != wantDirect {
					t.Errorf("%d units were applied as they came, want %d", target.direct, wantDirect)
				}
				if want := 2*large(2).Bytes() + 3*int64(4+len(message1(1))); target.bytes != want {
					t.Errorf("%d bytes of rows, want %d", target.bytes, want)
				}
				if files != 0 {
					t.Errorf("%d files are left", files)
				}
				at := target.progress
				run() // from the end
				if target.progress != at || len(target.applied) != 5 {
					t.Errorf("again: %s, applied %v", target.progress, target.applied)
				}
			})
		}
	}
}

// TestLargeNeedsRoom: without a folder a unit that must be known whole blocks, and says what is missing.
func TestLargeNeedsRoom(t *testing.T) {
	s := newStream(t)
	s.transaction(large(1), partBytes, -1)
	src := NewStream(s.js, "sub")
	src.MemoryBytes = 100
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stuck Status
	w := New(Config{Subscription: "sub", Target: &fakeTarget{t: t}, Source: src, RetryBlocked: 1, Observer: Observer{OnState: func(s Status) {
		if s.State == Stuck {
			stuck = s
			cancel()
		}
	}}})
	if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if stuck.Blocked.CSN != 1 || !strings.Contains(stuck.Err, "no folder to put it into") || stuck.Applied.CSN != 0 {
		t.Errorf("%+v", stuck)
	}
}

// TestLargeFailsOnce: a unit whose first attempt failed is read to its end before it is tried again, and the error of a
// file is no error of the rows.
func TestLargeFailsOnce(t *testing.T) {
	s := newStream(t)
	tx := large(1)
	tx.Fragments[1].Append(message1(smallBytes))
	s.transaction(tx, 10*partBytes, -1)
	src := NewStream(s.js, "sub")
	src.MemoryBytes = 100
	target := &fakeTarget{t: t, streams: true}
	failures := 0
	target.fail = func(g Group) error {
		if failures++; failures == 1 {
			return errors.New("connection lost")
		}
		return nil
	}
	files, spills := 0, 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var texts []string
	w := New(Config{
		Subscription: "sub", Target: target, Source: src, RetryMin: 1,
		Spill: func() (SpillFile, error) {
			if spills++; spills == 1 {
				return nil, errors.New("the disk is full")
			}
			files++
			return &memoryFile{files: &files}, nil
		},
		Observer: Observer{OnState: func(s Status) {
			if s.Err != "" {
				texts = append(texts, s.Err)
			}
			if s.State == CaughtUp {
				cancel()
			}
		}},
	})
	if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if target.direct != 0 || fmt.Sprint(target.applied) != "[1]" || files != 0 {
		t.Errorf("%d as they came, applied %v, %d files are left", target.direct, target.applied, files)
	}
	if len(texts) != 2 || !strings.Contains(texts[1], "the disk is full") {
		t.Errorf("errors %q", texts)
	}
}

// TestStreamSetBack: a stream whose folder was restored from an older copy and then written to again, with the same
// sequence numbers and CSNs, is not taken for the one that was applied.
func TestStreamSetBack(t *testing.T) {
	s := &stream{t: t}
	dir, copied := t.TempDir(), t.TempDir()
	stop := s.serve(dir)
	s.create(nil)
	s.unit(1, 1<<20, -1)
	s.unit(2, 1<<20, -1)
	stop()
	if err := os.CopyFS(filepath.Join(copied, "c"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	target := &fakeTarget{t: t}
	run := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return New(Config{Subscription: "sub", Target: target, Source: NewStream(s.js, "sub"), Observer: Observer{OnState: func(s Status) {
			if s.State == CaughtUp {
				cancel()
			}
		}}}).Run(ctx)
	}
	stop = s.serve(dir)
	s.unit(3, 1<<20, -1)
	if err := run(); !errors.Is(err, context.Canceled) || len(target.applied) != 3 {
		t.Fatalf("%v, applied %v", err, target.applied)
	}
	stop()
	stop = s.serve(filepath.Join(copied, "c"))
	defer stop()
	s.last = 2
	s.unit(3, 1<<20, -1)
	s.unit(4, 1<<20, -1)
	err := run()
	var fatal *Fatal
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "the stream was set back: the target is at csn 3, stream sequence 3") || len(target.applied) != 3 {
		t.Errorf("got %v, applied %v", err, target.applied)
	}
}
