package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// fakeTarget keeps progress in memory and checks the rules of Session itself.
type fakeTarget struct {
	t        *testing.T
	progress Progress
	applied  []pipeline.CSN
	groups   [][]pipeline.CSN
	open     int
	copies   Copies
	direct   int                 // groups whose rows arrived meanwhile
	bytes    int64               // of rows
	streams  bool                // it can replay rows while they arrive
	fail     func(g Group) error // before anything happens
	failLate func(g Group) error // after it happened: the answer is lost

	touches func(g *Group, keys []schedule.Key) ([]schedule.Key, bool)
	refuse  bool // further lanes
	held    bool // the answer of Held
}

type fakeSession struct {
	*fakeTarget
	dead bool
}

func (f *fakeTarget) Open(context.Context) (Session, error) {
	pass()
	f.open++
	return &fakeSession{fakeTarget: f}, nil
}

func (s *fakeSession) Close(context.Context) {
	pass()
	s.open--
}

func (s *fakeSession) Progress(context.Context) (Progress, error) { return s.progress, nil }

func (s *fakeSession) Copies() Copies { return s.copies }

func (s *fakeSession) Statements() []Statement { return nil }

// Touches: what the test says; else everything is alone.
func (s *fakeSession) Touches(_ context.Context, g *Group, keys []schedule.Key) ([]schedule.Key, bool) {
	if s.touches == nil {
		return keys, true
	}
	return s.touches(g, keys)
}

func (s *fakeSession) Lane(ctx context.Context) (Lane, error) {
	if s.refuse {
		return nil, errors.New("too many connections")
	}
	return s.Open(ctx)
}

func (s *fakeSession) Held(context.Context, Lane, []Lane) (bool, error) { return s.held, nil }

func (s *fakeSession) Streams(tx *pipeline.Transaction) bool { return s.streams }

func (s *fakeSession) Apply(_ context.Context, g Group) error {
	pass()
	if s.dead {
		s.t.Error("Apply after an error")
	}
	s.dead = true
	if s.fail != nil {
		if err := s.fail(g); err != nil {
			return err
		}
	}
	if g.From != s.progress {
		return &Fatal{Problem: fmt.Sprintf("fence: from %s, is %s", g.From, s.progress)}
	}
	var bodies int64
	for _, u := range g.Units {
		if err := u.fragments(func(f *pipeline.Fragment) error {
			if f.Size() == 0 {
				return nil
			}
			body, err := f.OpenBody()
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, body)
			bodies += n
			return errors.Join(err, body.Close())
		}); err != nil {
			return err
		}
	}
	if g.Report.Sent != nil {
		g.Report.Sent(1, bodies)
	}
	if g.End != nil {
		var err error
		if g.To, err = g.End(); err != nil {
			return err
		}
		s.direct++
	}
	s.bytes += bodies
	s.progress = g.To
	var csns []pipeline.CSN
	_ = g.Transactions(func(tx *pipeline.Transaction) error { csns = append(csns, tx.CSN); return nil })
	s.applied = append(s.applied, csns...)
	s.groups = append(s.groups, csns)
	if s.failLate != nil {
		if err := s.failLate(g); err != nil {
			return err
		}
	}
	s.dead = false
	return nil
}

// fakeSource is a stream in memory.
type fakeSource struct {
	info   StreamInfo
	err    error
	units  []Unit
	stamps map[pipeline.Seq]int64
	more   chan Unit // after the units
	open   int
}

func (s *fakeSource) Describe(context.Context) (StreamInfo, error) {
	pass()
	return s.info, s.err
}

func (s *fakeSource) Stamp(_ context.Context, seq pipeline.Seq) (int64, error) {
	return s.stamps[seq], nil
}

func (s *fakeSource) Open(_ context.Context, after pipeline.Seq) (Reader, error) {
	s.open++
	r := &fakeReader{src: s}
	for _, u := range s.units {
		if u.Seq > after {
			r.rest = append(r.rest, u)
		}
	}
	return r, nil
}

type fakeReader struct {
	src  *fakeSource
	rest []Unit
}

func (r *fakeReader) Close() { r.src.open-- }

func (r *fakeReader) Next(ctx context.Context) (Unit, error) {
	if len(r.rest) > 0 {
		u := r.rest[0]
		r.rest = r.rest[1:]
		return u, nil
	}
	select {
	case u := <-r.src.more:
		return u, nil
	case <-ctx.Done():
		return Unit{}, ctx.Err()
	}
}

func unit(seq pipeline.Seq, previous pipeline.CSN, csns ...pipeline.CSN) Unit {
	u := &wire.Unit{Previous: previous, First: previous, Last: previous}
	for i, c := range csns {
		if i == 0 {
			u.First = c
		}
		u.Last = c
		u.Transactions = append(u.Transactions, &pipeline.Transaction{
			CSN: c, CommitTime: pipeline.TimestampOf(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), Fragments: []*pipeline.Fragment{{Changes: 2}},
		})
	}
	return Unit{Unit: u, End: End{Seq: seq}, Bytes: 100}
}

// order is passed by the test before it lets time go on, and by the fakes in each call, so that what the test did
// in between is seen by the worker: fake time alone orders nothing.
var order sync.Mutex

func pass() {
	order.Lock()
	//lint:ignore SA2001 see order
	order.Unlock()
}

// after lets fake time pass and waits until everybody is still.
func after(d time.Duration) {
	pass()
	time.Sleep(d)
	synctest.Wait()
}

// world is one worker in a synctest bubble.
type world struct {
	target *fakeTarget
	source *fakeSource
	worker *Worker
	done   chan error
	stop   context.CancelFunc
}

func start(t *testing.T, target *fakeTarget, source *fakeSource, change func(*Config)) *world {
	ctx, cancel := context.WithCancel(t.Context())
	source.more = make(chan Unit)
	target.t = t
	cfg := Config{Subscription: "s", Target: target, Source: source}
	if change != nil {
		change(&cfg)
	}
	w := &world{target: target, source: source, worker: New(cfg), done: make(chan error, 1), stop: cancel}
	go func() { w.done <- w.worker.Run(ctx) }()
	synctest.Wait()
	return w
}

// end stops the worker and checks that nothing is left open.
func (w *world) end(t *testing.T) error {
	t.Helper()
	pass()
	w.stop()
	err := <-w.done
	if w.target.open != 0 || w.source.open != 0 {
		t.Errorf("left open: %d sessions, %d readers", w.target.open, w.source.open)
	}
	if s := w.worker.Status(); s.State != Stopped {
		t.Errorf("state %s after Run", s.State)
	}
	return err
}

func TestAppliesInOrderAndCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{info: StreamInfo{ID: "a", First: 1, Last: 2}, units: []Unit{unit(1, 0, 10, 11), unit(2, 11, 12)}}
		var seen []pipeline.CSN
		w := start(t, &fakeTarget{}, source, func(c *Config) {
			c.Observer.OnApplied = func(a Applied) { seen = append(seen, a.Progress.CSN) }
		})
		s := w.worker.Status()
		if s.State != CaughtUp || s.Applied != (Progress{"a", 12, 2, 0}) || s.Transactions != 3 || s.Rows != 6 || s.Lag != 0 {
			t.Errorf("got %+v", s)
		}
		w.source.more <- unit(4, 12, 20) // sequence 3 was a heartbeat that the reader skipped
		synctest.Wait()
		if fmt.Sprint(w.target.applied) != "[10 11 12 20]" || seen[len(seen)-1] != 20 {
			t.Errorf("applied %v, observed %v", w.target.applied, seen)
		}
		if err := w.end(t); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestGroups: what has arrived while the target was busy becomes one target transaction, up to the limits.
func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{info: StreamInfo{ID: "a", First: 1, Last: 5}}
		for i := range 5 {
			source.units = append(source.units, unit(pipeline.Seq(i+1), pipeline.CSN(i), pipeline.CSN(i+1)))
		}
		first := true
		target := &fakeTarget{fail: func(Group) error {
			if first {
				first = false
				time.Sleep(time.Second)
			}
			return nil
		}}
		w := start(t, target, source, func(c *Config) { c.GroupUnits = 3 })
		after(2 * time.Second)
		if got := fmt.Sprint(w.target.groups); got != "[[1] [2 3 4] [5]]" && got != "[[1 2 3] [4 5]]" {
			t.Errorf("groups %s", got)
		}
		_ = w.end(t)
	})
}

// TestStopsForGood: what must never be passed over.
func TestStopsForGood(t *testing.T) {
	for _, tc := range []struct {
		name     string
		progress Progress
		source   fakeSource
		want     string
	}{
		{"gap", Progress{"a", 5, 1, 0}, fakeSource{info: StreamInfo{"a", 1, 2}, units: []Unit{unit(2, 6, 7)}}, "stream sequence 2: gap in the stream"},
		{"overlap", Progress{"a", 5, 1, 0}, fakeSource{info: StreamInfo{"a", 1, 2}, units: []Unit{unit(2, 4, 7)}}, "stream sequence 2: overlap in the stream"},
		{"gap between units", Progress{}, fakeSource{info: StreamInfo{"a", 1, 2}, units: []Unit{unit(1, 0, 3), unit(2, 4, 5)}}, "gap in the stream"},
		{"other stream", Progress{"a", 5, 1, 0}, fakeSource{info: StreamInfo{"b", 1, 9}}, "the stream is another one (b) than the target was fed from (a, at csn 5, stream sequence 1)"},
		{"lost its end", Progress{"a", 5, 8, 0}, fakeSource{info: StreamInfo{"a", 1, 7}}, "the stream ends at sequence 7, but the target is at csn 5, stream sequence 8"},
		{"purged", Progress{"a", 5, 3, 0}, fakeSource{info: StreamInfo{"a", 5, 7}}, "the stream begins at sequence 5, but the target needs 4"},
		{"purged at first", Progress{}, fakeSource{info: StreamInfo{"a", 2, 7}}, "the stream begins at sequence 2, but the target needs 1"},
		{"gone", Progress{"a", 5, 3, 0}, fakeSource{err: ErrNoStream}, "the stream does not exist, but the target is at"},
		{"set back", Progress{"a", 5, 3, 77}, fakeSource{info: StreamInfo{"a", 1, 7}, stamps: map[pipeline.Seq]int64{3: 78}}, "the stream was set back: the target is at csn 5, stream sequence 3"},
		{"backwards", Progress{"a", 5, 3, 0}, fakeSource{info: StreamInfo{"a", 1, 4}, units: []Unit{unit(4, 5, 6), unit(4, 6, 7)}}, "the stream gave sequence 4 behind"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, &fakeTarget{progress: tc.progress}, &tc.source, nil)
				select {
				case err := <-w.done:
					var fatal *Fatal
					if !errors.As(err, &fatal) || !strings.HasPrefix(err.Error(), "apply s: ") || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "Try: ") {
						t.Errorf("got  %v\nwant %s", err, tc.want)
					}
					if s := w.worker.Status(); s.State != Stopped || s.Err != err.Error() {
						t.Errorf("status %+v", s)
					}
				default:
					t.Errorf("goes on: %+v", w.worker.Status())
					w.stop()
					<-w.done
				}
			})
		})
	}
}

// TestRetries: a transient error is tried again with a growing delay; an answer that was lost repeats nothing.
func TestRetries(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			failures := 3
			fail := func(Group) error {
				if failures == 0 {
					return nil
				}
				failures--
				return errors.New("connection lost")
			}
			target := &fakeTarget{fail: fail}
			if late {
				target.fail, target.failLate = nil, fail
			}
			w := start(t, target, &fakeSource{
				info: StreamInfo{ID: "a", First: 1, Last: 3}, units: []Unit{unit(1, 0, 1), unit(2, 1, 2), unit(3, 2, 3)},
			}, func(c *Config) { c.GroupUnits = 1 })
			if s := w.worker.Status(); s.Err != "apply s: connection lost" || s.ErrSince.IsZero() {
				t.Errorf("status %+v", s)
			}
			after(time.Minute)
			if s := w.worker.Status(); s.State != CaughtUp || s.Err != "" || !s.ErrSince.IsZero() {
				t.Errorf("status %+v", s)
			}
			if got := fmt.Sprint(w.target.applied); got != "[1 2 3]" {
				t.Errorf("applied %s", got)
			}
			_ = w.end(t)
		})
	}
}

// TestBlockedLetsTheRestThrough: what stands before the blocked unit is applied, and the error stays visible until
// the unit passes.
func TestBlockedLetsTheRestThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mended := false
		target := &fakeTarget{fail: func(g Group) error {
			return g.Transactions(func(tx *pipeline.Transaction) error {
				if tx.CSN == 3 && !mended {
					return &Blocked{CSN: 3, Table: "t", Problem: "is not on the target", Try: "create it"}
				}
				return nil
			})
		}}
		w := start(t, target, &fakeSource{
			info: StreamInfo{ID: "a", First: 1, Last: 4}, units: []Unit{unit(1, 0, 1), unit(2, 1, 2), unit(3, 2, 3), unit(4, 3, 4)},
		}, nil)
		after(5 * time.Second)
		s := w.worker.Status()
		if s.State != Stuck || s.Err != "apply s: csn 3: table t: is not on the target. Try: create it" || s.Applied.CSN != 2 {
			t.Errorf("status %+v", s)
		}
		since := s.ErrSince
		after(5 * time.Second)
		if s := w.worker.Status(); s.State != Stuck || !s.ErrSince.Equal(since) || s.Lag == 0 {
			t.Errorf("status %+v", s)
		}
		mended = true
		after(1100 * time.Millisecond)
		if s := w.worker.Status(); s.State != CaughtUp || s.Err != "" {
			t.Errorf("status %+v", s)
		}
		_ = w.end(t)
	})
}

// TestHeartbeats move the watermark at once and the target's row now and then.
func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, &fakeTarget{}, &fakeSource{info: StreamInfo{ID: "a", First: 1, Last: 0}}, nil)
		if s := w.worker.Status(); s.State != CaughtUp {
			t.Errorf("an empty stream: %+v", s)
		}
		for i := range 10 {
			w.source.info.Last++
			w.source.more <- Unit{End: End{Seq: pipeline.Seq(i + 1), Watermark: pipeline.CSN(100 + i)}}
		}
		synctest.Wait()
		// What is shown as applied may be removed from the stream, so it is in the row.
		if s := w.worker.Status(); s.Watermark != 109 || s.Applied.Seq != 0 || s.State != CaughtUp {
			t.Errorf("status %+v", s)
		}
		if w.target.progress.Seq != 0 {
			t.Errorf("the target was written at once: %s", w.target.progress)
		}
		after(6 * time.Second)
		if w.target.progress != (Progress{"a", 0, 10, 0}) {
			t.Errorf("the target was not written: %s", w.target.progress)
		}
		if s := w.worker.Status(); s.Applied.Seq != 10 {
			t.Errorf("status %+v", s)
		}
		w.source.more <- unit(11, 0, 200)
		synctest.Wait()
		if w.target.progress != (Progress{"a", 200, 11, 0}) {
			t.Errorf("progress %s", w.target.progress)
		}
		_ = w.end(t)
	})
}

// TestStreamReplacedWhileIdle: nobody else would ever say so.
func TestStreamReplacedWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, &fakeTarget{}, &fakeSource{info: StreamInfo{ID: "a", First: 1, Last: 1}, units: []Unit{unit(1, 0, 1)}}, nil)
		w.source.info = StreamInfo{ID: "b", First: 1, Last: 9}
		after(6 * time.Second)
		select {
		case err := <-w.done:
			var fatal *Fatal
			if !errors.As(err, &fatal) {
				t.Error(err)
			}
		default:
			t.Error("goes on")
			_ = w.end(t)
		}
	})
}

// TestNoStreamYet: a target may be there before the stream is.
func TestNoStreamYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, &fakeTarget{}, &fakeSource{err: ErrNoStream}, nil)
		w.source.err = nil
		w.source.info = StreamInfo{ID: "a", First: 1, Last: 0}
		after(time.Minute)
		if s := w.worker.Status(); s.State != CaughtUp {
			t.Errorf("status %+v", s)
		}
		_ = w.end(t)
	})
}
