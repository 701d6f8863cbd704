package apply

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random worlds")

// lanesTarget is a target with lanes. It knows what each transaction touches, and checks the rules of Group and Lane: what is
// committed follows what was, groups that touch the same do not overlap, a lane has one group at a time and none after an
// error, everything is closed.
type lanesTarget struct {
	t     *testing.T
	keys  map[pipeline.CSN][]schedule.Key // absent: alone
	apply func(l *lane, ctx context.Context, g *Group) error
	held  func(first *lane, others []Lane) bool
	lanes int // that can be opened

	mu        sync.Mutex
	progress  Progress
	committed []pipeline.CSN
	running   map[*lane]*Group
	open      int
	opened    int
	together  int // groups at a time, at most
}

type lane struct {
	*lanesTarget
	first  bool
	broken bool
	closed bool
}

func (l *lanesTarget) Open(context.Context) (Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connect(true), nil
}

func (l *lanesTarget) state() (open int, progress Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.progress
}

func (l *lanesTarget) connect(first bool) *lane {
	l.open++
	l.opened++
	return &lane{lanesTarget: l, first: first}
}

func (l *lane) Lane(ctx context.Context) (Lane, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case l.open > l.lanes:
		return nil, errors.New("too many connections")
	}
	return l.connect(false), nil
}

func (l *lane) Close(context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.t.Error("closed twice")
	}
	l.closed = true
	l.open--
}

func (l *lane) Progress(context.Context) (Progress, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.running) > 0 || l.open > 1 {
		l.t.Errorf("Progress while %d groups run on %d connections", len(l.running), l.open)
	}
	return l.progress, nil
}

func (l *lane) Copies() Copies                     { return Copies{} }
func (l *lane) Statements() []Statement            { return nil }
func (l *lane) Streams(*pipeline.Transaction) bool { return true }

func (l *lane) Held(_ context.Context, first Lane, others []Lane) (bool, error) {
	return l.held != nil && l.held(first.(*lane), others), nil
}

func (l *lane) Touches(_ context.Context, g *Group, keys []schedule.Key) ([]schedule.Key, bool) {
	all, alone := l.touches(g)
	return append(keys, all...), alone
}

func (l *lanesTarget) touches(g *Group) (keys []schedule.Key, alone bool) {
	_ = g.Transactions(func(tx *pipeline.Transaction) error {
		its, ok := l.keys[tx.CSN]
		keys, alone = append(keys, its...), alone || !ok
		return nil
	})
	return keys, alone
}

func excludes(a, b []schedule.Key) bool {
	return slices.ContainsFunc(a, func(x schedule.Key) bool {
		return slices.ContainsFunc(b, func(y schedule.Key) bool { return x.Hash == y.Hash && (x.Exclusive || y.Exclusive) })
	})
}

func csns(g *Group) (all []pipeline.CSN) {
	_ = g.Transactions(func(tx *pipeline.Transaction) error { all = append(all, tx.CSN); return nil })
	return all
}

// begin checks that the group may run now.
func (l *lane) begin(g *Group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys, alone := l.touches(g)
	for other, running := range l.running {
		theirs, lonely := l.touches(running)
		if other == l || alone || lonely || excludes(keys, theirs) {
			l.t.Errorf("%v runs beside %v", csns(g), csns(running))
		}
	}
	if l.broken || l.closed || alone && !l.first {
		l.t.Errorf("%v runs on a lane that is broken (%v), closed (%v), or not the session", csns(g), l.broken, l.closed)
	}
	l.broken = true
	l.running[l] = g
	l.together = max(l.together, len(l.running))
}

func (l *lane) Apply(ctx context.Context, g Group) (err error) {
	l.begin(&g)
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.running, l)
		l.broken = err != nil
	}()
	if l.apply != nil {
		if err := l.apply(l, ctx, &g); err != nil {
			return err
		}
	}
	if g.Turn != nil {
		if err := g.Turn(ctx); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.From != l.progress {
		return &Fatal{Problem: fmt.Sprintf("from %s, is %s", g.From, l.progress)}
	}
	l.progress = g.To
	l.committed = append(l.committed, csns(&g)...)
	return nil
}

// lanesWorld starts a worker whose first group waits for begin, so that there is a backlog behind it. Transaction n is in
// unit n; the first is alone.
func lanesWorld(t *testing.T, target *lanesTarget, last int, change func(*Config)) (w *world, source *fakeSource, begin func()) {
	source = &fakeSource{info: StreamInfo{ID: "a", First: 1, Last: pipeline.Seq(last)}, more: make(chan Unit)}
	for n := 1; n <= last; n++ {
		source.units = append(source.units, unit(pipeline.Seq(n), pipeline.CSN(n-1), pipeline.CSN(n)))
	}
	target.t, target.running = t, map[*lane]*Group{}
	go_, inner, started := make(chan struct{}), target.apply, false
	target.apply = func(l *lane, ctx context.Context, g *Group) error {
		if l.mu.Lock(); !started {
			started = true
			l.mu.Unlock()
			<-go_
			return nil
		}
		l.mu.Unlock()
		if inner == nil {
			return nil
		}
		return inner(l, ctx, g)
	}
	cfg := Config{Subscription: "s", Target: target, Source: source, GroupUnits: 1}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w = &world{source: source, worker: New(cfg), done: make(chan error, 1), stop: cancel}
	go func() { w.done <- w.worker.Run(ctx) }()
	synctest.Wait()
	return w, source, func() { close(go_); synctest.Wait() }
}

// finish waits until all is applied, in order, and nothing is left open.
func (l *lanesTarget) finish(w *world, last int) {
	l.t.Helper()
	for range 1000 {
		if w.worker.Status().State == CaughtUp {
			break
		}
		time.Sleep(time.Second)
		synctest.Wait()
	}
	s := w.worker.Status()
	if s.State != CaughtUp || s.Transactions != uint64(last) || s.Applied.CSN != pipeline.CSN(last) {
		l.t.Errorf("status %+v", s)
	}
	w.stop()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		l.t.Error(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.committed) != last {
		l.t.Errorf("committed %v", l.committed)
	}
	for i, csn := range l.committed {
		if csn != pipeline.CSN(i+1) {
			l.t.Errorf("committed out of order: %v", l.committed)
			break
		}
	}
	if l.open != 0 {
		l.t.Errorf("%d connections are left open", l.open)
	}
}

func row(n int) []schedule.Key { return []schedule.Key{{Hash: 1}, {Hash: uint64(n), Exclusive: true}} }

// TestGroupsOverlap: groups that touch different rows run together, commit in order, and one that touches the row of the first
// one waits for it.
func TestGroupsOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		target := &lanesTarget{lanes: 9, keys: map[pipeline.CSN][]schedule.Key{2: row(2), 3: row(3), 4: row(2), 5: row(5)}}
		target.apply = func(_ *lane, _ context.Context, g *Group) error {
			if g.To.CSN == 2 {
				<-slow
			}
			return nil
		}
		w, _, begin := lanesWorld(t, target, 5, nil)
		begin()
		target.mu.Lock()
		var running []pipeline.CSN
		for _, g := range target.running {
			running = append(running, g.To.CSN)
		}
		slices.Sort(running)
		if fmt.Sprint(running, target.committed) != "[2 3 5] [1]" {
			t.Errorf("running %v, committed %v", running, target.committed)
		}
		target.mu.Unlock()
		if s := w.worker.Status(); s.Applied.CSN != 1 || s.State == CaughtUp {
			t.Errorf("status %+v", s)
		}
		close(slow)
		synctest.Wait()
		target.finish(w, 5)
	})
}

// TestFailureBeforeItsTurn: a group whose error comes from what is not committed yet runs again when it is; its error as the first
// one is its own.
func TestFailureBeforeItsTurn(t *testing.T) {
	for _, own := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			target := &lanesTarget{lanes: 9, keys: map[pipeline.CSN][]schedule.Key{2: row(2), 3: row(3), 4: row(4)}}
			tries := 0
			var seen []string
			target.apply = func(l *lane, _ context.Context, g *Group) error {
				if g.To.CSN == 2 {
					time.Sleep(time.Second)
				}
				if g.To.CSN != 3 {
					return nil
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				tries++
				if l.progress.CSN < 2 || own && tries < 4 {
					return &Blocked{CSN: 3, Problem: "the row is not here"}
				}
				return nil
			}
			w, _, begin := lanesWorld(t, target, 4, func(c *Config) {
				c.Observer.OnState = func(s Status) { seen = append(seen, s.Err) }
			})
			begin()
			target.finish(w, 4)
			if stuck := slices.ContainsFunc(seen, func(e string) bool { return e != "" }); stuck != own || tries != 2 && !own {
				t.Errorf("%d tries, errors %q", tries, seen)
			}
		})
	}
}

// TestLostAnswer: after its turn a group is never run again; what happened says the progress.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &lanesTarget{lanes: 9, keys: map[pipeline.CSN][]schedule.Key{2: row(2), 3: row(3), 4: row(4)}}
		lost := false
		target.apply = func(l *lane, ctx context.Context, g *Group) error {
			if g.To.CSN == 2 {
				time.Sleep(time.Second)
			}
			if g.To.CSN != 3 || lost {
				return nil
			}
			lost = true
			if err := g.Turn(ctx); err != nil {
				return err
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.progress = g.To
			l.committed = append(l.committed, 3)
			return errors.New("connection lost")
		}
		w, _, begin := lanesWorld(t, target, 4, nil)
		begin()
		// Transaction 3 is not counted: it was found to be applied.
		for range 100 {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		w.stop()
		<-w.done
		if fmt.Sprint(target.committed) != "[1 2 3 4]" || target.open != 0 || !lost {
			t.Errorf("committed %v, open %d", target.committed, target.open)
		}
	})
}

// TestUntie: the first group waits for a lock of a later one, which is withdrawn and comes again.
func TestUntie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &lanesTarget{lanes: 9, keys: map[pipeline.CSN][]schedule.Key{2: row(2), 3: row(3), 4: row(4)}}
		var holder *lane // of the lock
		released := make(chan struct{})
		target.apply = func(l *lane, ctx context.Context, g *Group) error {
			switch g.To.CSN {
			case 2:
				<-released
			case 3:
				if l.mu.Lock(); holder == nil {
					holder = l
					l.mu.Unlock()
					context.AfterFunc(ctx, func() { close(released) })
					return nil
				}
				l.mu.Unlock()
			}
			return nil
		}
		asked := 0
		target.held = func(_ *lane, others []Lane) bool {
			asked++
			return slices.Contains(others, Lane(holder))
		}
		w, _, begin := lanesWorld(t, target, 4, nil)
		begin()
		target.finish(w, 4)
		if asked == 0 {
			t.Error("nobody asked")
		}
	})
}

// TestFewConnections: what the target refuses is done with what there is.
func TestFewConnections(t *testing.T) {
	for lanes := range 3 {
		synctest.Test(t, func(t *testing.T) {
			target := &lanesTarget{lanes: lanes, keys: map[pipeline.CSN][]schedule.Key{}}
			for n := 2; n < 20; n++ {
				target.keys[pipeline.CSN(n)] = row(n)
			}
			w, _, begin := lanesWorld(t, target, 20, nil)
			begin()
			target.finish(w, 20)
			if target.opened > 1+w.worker.cfg.Workers { // one that is on its way may find the room of one that was just given up
				t.Errorf("%d connections", target.opened)
			}
		})
	}
}

// TestRefusedBesideTheFirst: a lane that the target refuses does not end the attempt: the group that is first and on its way gets
// through, and the rest is done without lanes.
func TestRefusedBesideTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &lanesTarget{lanes: 1, keys: map[pipeline.CSN][]schedule.Key{}}
		for n := 2; n < 20; n++ {
			target.keys[pipeline.CSN(n)] = row(n)
		}
		target.apply = func(_ *lane, ctx context.Context, _ *Group) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var seen []string
		w, _, begin := lanesWorld(t, target, 20, func(c *Config) {
			c.Observer.OnState = func(s Status) { seen = append(seen, s.Err) }
		})
		begin()
		target.finish(w, 20)
		if failed := slices.ContainsFunc(seen, func(e string) bool { return e != "" }); failed {
			t.Errorf("errors %q", seen)
		}
	})
}

// TestIdleLanes are closed, and heartbeats among groups move the position.
func TestIdleLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &lanesTarget{lanes: 9, keys: map[pipeline.CSN][]schedule.Key{2: row(2), 3: row(3)}}
		w, source, begin := lanesWorld(t, target, 3, nil)
		source.info.Last = 4
		begin()
		source.more <- Unit{End: End{Seq: 4, Watermark: 9}}
		synctest.Wait()
		open, _ := target.state()
		if s := w.worker.Status(); open < 2 || s.Watermark != 9 || s.State != CaughtUp {
			t.Errorf("%d open, status %+v", open, s)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if open, progress := target.state(); open != 1 || progress.Seq != 4 {
			t.Errorf("%d open, progress %s", open, progress)
		}
		target.finish(w, 3)
	})
}

// TestRandomLanes: random keys, times, failures, refusals and stops.
func TestRandomLanes(t *testing.T) {
	t.Logf("seed %d (repeat with -seed)", *seed)
	together := 0
	for n := range uint64(200) {
		synctest.Test(t, func(t *testing.T) { together = max(together, randomLanes(t, rand.New(rand.NewPCG(*seed, n)))) })
		if t.Failed() {
			t.Fatalf("world %d", n)
		}
	}
	if together < 4 {
		t.Errorf("at most %d groups ran together", together)
	}
}

func randomLanes(t *testing.T, r *rand.Rand) (together int) {
	target := &lanesTarget{lanes: 1 + r.IntN(8), keys: map[pipeline.CSN][]schedule.Key{}}
	const last = 60
	for n := 2; n <= last; n++ {
		if r.IntN(15) == 0 {
			continue
		}
		var keys []schedule.Key
		for range 1 + r.IntN(3) {
			keys = append(keys, schedule.Key{Hash: uint64(r.IntN(20)), Exclusive: r.IntN(3) > 0})
		}
		target.keys[pipeline.CSN(n)] = keys
	}
	var mu sync.Mutex
	failures := r.IntN(8)
	target.apply = func(_ *lane, ctx context.Context, _ *Group) error {
		mu.Lock()
		pause, fail := time.Duration(r.IntN(1000))*time.Millisecond, failures > 0 && r.IntN(8) == 0
		if fail {
			failures--
		}
		kind := r.IntN(2)
		mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case !fail:
			return nil
		case kind == 0:
			return &Blocked{Problem: "it does not pass"}
		}
		return errors.New("connection lost")
	}
	target.held = func(*lane, []Lane) bool {
		mu.Lock()
		defer mu.Unlock()
		return r.IntN(3) == 0
	}
	w, _, begin := lanesWorld(t, target, last, func(c *Config) {
		c.Workers, c.GroupUnits = 1+r.IntN(6), 1+r.IntN(3)
	})
	begin()
	target.finish(w, last)
	return target.together
}
