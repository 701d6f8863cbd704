package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/dumper"
	"shardcdc/pipeline"
)

// With lazy acknowledgements a node that starts again must not confirm what it finds in the stream: a power failure of
// the server may still take that, and then only the slot has it.
func TestLazyRestartConfirmsNothing(t *testing.T) {
	r := newRig(t, 1)
	published := func(name string) (stop func()) {
		ctx, cancel := context.WithCancel(r.ctx)
		n, err := New(ctx, r.bus, Config{Name: name, Durability: LazyAcks, LeaseTTL: time.Second, Heartbeat: 50 * time.Millisecond, SpillDir: t.TempDir(), Log: r.log})
		r.must(err)
		done := make(chan struct{})
		go func() { defer close(done); _ = n.Run(ctx) }()
		stop = func() { cancel(); <-done }
		t.Cleanup(stop)
		r.exec(r.shards[0], "INSERT INTO accounts VALUES ("+name+", 'ann', 100)")
		r.captured()
		return stop
	}
	published("1")()
	published("2")
	// The server has heard of what the second node has read, so it has heard what that one confirms as well.
	for heard := false; !heard; {
		r.must(r.ctx.Err())
		r.must(r.shards[0].QueryRow(r.ctx, "SELECT coalesce(bool_or(write_lsn >= (SELECT confirmed_flush_lsn + 1 FROM pg_replication_slots)), false) FROM pg_stat_replication").Scan(&heard))
	}
	var at string
	r.must(r.shards[0].QueryRow(r.ctx, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots").Scan(&at))
	if at != r.sub.Shards[0].Start.String() {
		t.Fatalf("the slot was made at %s and is confirmed to %s", r.sub.Shards[0].Start, at)
	}
}

// What is held back is confirmed when its time has come, though nothing is published any more.
func TestConfirmLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dumper.New(dumper.Source{Start: 100, HoldStart: true}, nil, dumper.Options{})
		c := &capture{node: &Node{conf: Config{Durability: LazyAcks}}, dumpers: []*dumper.Dumper{d}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.confirmLater(ctx) }()
		c.confirm([]pipeline.LSN{100})
		for _, step := range []struct {
			wait time.Duration
			want pipeline.LSN
		}{{lazyDelay - time.Second, 0}, {3 * time.Second, 100}} {
			<-time.After(step.wait)
			synctest.Wait()
			if at := d.Status().Confirmed; at != step.want {
				t.Fatalf("confirmed %s, want %s", at, step.want)
			}
		}
		cancel()
		<-done
	})
}

func TestLater(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var l later
	// A unit each millisecond for ten minutes.
	const step = time.Millisecond
	var last pipeline.LSN
	for i := range 10 * 60 * 1000 {
		now := start.Add(time.Duration(i) * step)
		l.add(now, []pipeline.LSN{pipeline.LSN(i + 1)})
		due := l.due(now)
		if due == nil {
			continue
		}
		last = due[0]
		age := now.Sub(start.Add(time.Duration(last-1) * step))
		if age < lazyDelay || age > lazyDelay+lazyStep {
			t.Fatalf("confirmed after %s", age)
		}
		if n := len(l.held); n > int(lazyDelay/lazyStep)+2 {
			t.Fatalf("%d confirmations are held", n)
		}
	}
	if last == 0 {
		t.Fatal("nothing was ever confirmed")
	}
	if due := l.due(start.Add(time.Hour)); len(due) != 1 || due[0] != 600_000 {
		t.Fatalf("in the end: %v", due)
	}
}
