package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/pause/pausetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newBus(t *testing.T) (context.Context, *control.Bus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx, natstest.Bus(t)
}

func sample(name string) *control.Subscription {
	s := control.NewSubscription(name, "inc", time.Unix(1_800_000_000, 0).UTC())
	s.Shards = []control.Shard{{Name: "a", DSN: "postgres://a/bank", Slot: "cdc_bank", Publications: []string{"cdc_bank"}}}
	return s
}

func TestCatalog(t *testing.T) {
	ctx, bus := newBus(t)
	c, err := control.OpenCatalog(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	changes := make(chan struct{}, 100)
	watching, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Watch(watching, func() error { changes <- struct{}{}; return nil }) }()
	<-changes
	if err := c.Create(ctx, sample("bank")); err != nil {
		t.Fatal(err)
	}
	<-changes
	if err := c.Create(ctx, sample("bank")); err == nil || !strings.Contains(err.Error(), "subscription bank exists already. Try: cdcctl status bank") {
		t.Fatalf("second of the same name: %v", err)
	}
	e, err := c.Get(ctx, "bank")
	if err != nil {
		t.Fatal(err)
	}
	stale := e
	e.State = control.Paused
	if err := c.Put(ctx, e); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(ctx, stale); err == nil {
		t.Fatal("a stale change was accepted")
	}
	list, err := c.List(ctx)
	if err != nil || len(list) != 1 || list[0].State != control.Paused {
		t.Fatalf("list: %v %v", list, err)
	}
	if err := c.Delete(ctx, "bank"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, "bank"); !errors.Is(err, control.ErrNotFound) {
		t.Fatalf("get after delete: %v", err)
	}
	if err := c.Create(ctx, sample("bank")); err != nil {
		t.Fatalf("create again: %v", err)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// A change that could not be followed ends the watch, at once or later.
	late, calls := errors.New("not now"), 0
	for fail := 1; fail <= 2; fail++ {
		calls = 0
		err := c.Watch(ctx, func() error {
			if calls++; calls == fail {
				return late
			}
			return nil
		})
		if !errors.Is(err, late) || calls != fail {
			t.Fatalf("call %d failed; ended after %d calls by %v", fail, calls, err)
		}
	}
}

func TestValidateListsEverything(t *testing.T) {
	s := sample("Bank!")
	s.Shards = append(s.Shards, s.Shards[0], control.Shard{Name: "B"})
	s.Format, s.Truncate, s.MaxClockSkew, s.MemoryBytesMax, s.SpillBytesMax = "xml", "maybe", 0, 5, 4
	s.Targets = []control.Target{{Name: "t"}, {Name: "t"}}
	err := s.Validate()
	for _, want := range []string{
		`subscription name "Bank!"`, `shard "a" is given twice`, `shard name "B"`, `format "xml" is unknown`, `target "t" is given twice`,
		`targets are fed from the internal format only`, `max_clock_skew`, `memory_bytes_max 5`, `spill_bytes_max 4 is too small, at least memory_bytes_max (5)`, `truncate "maybe"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

func TestLease(t *testing.T) {
	ctx, bus := newBus(t)
	const ttl = 2 * time.Second
	leases, err := control.OpenLeases(ctx, bus.JS, 1, ttl)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := leases.Acquire(ctx, "capture.bank", control.Owner{Node: "n1"})
	if err != nil || mine == nil {
		t.Fatalf("first: %v %v", mine, err)
	}
	// It is renewed: after more than its time it is still held.
	first, err := bucket(ctx, t, bus).Get(ctx, "capture.bank")
	if err != nil {
		t.Fatal(err)
	}
	await(ctx, t, func() bool {
		other, err := leases.Acquire(ctx, "capture.bank", control.Owner{Node: "n2"})
		if err != nil || other != nil {
			t.Fatalf("held by two: %v %v", other, err)
		}
		now, err := bucket(ctx, t, bus).Get(ctx, "capture.bank")
		if err != nil {
			t.Fatal(err)
		}
		return now.Created().Sub(first.Created()) > ttl
	})
	if o, ok, err := leases.Holder(ctx, "capture.bank"); err != nil || !ok || o.Node != "n1" {
		t.Fatalf("holder %v %t %v", o, ok, err)
	}
	if err := mine.Release(ctx); err != nil {
		t.Fatal(err)
	}
	next, err := leases.Acquire(ctx, "capture.bank", control.Owner{Node: "n2"})
	if err != nil || next == nil {
		t.Fatalf("after release: %v %v", next, err)
	}
	// Somebody takes it away: the holder notices.
	if err := bucket(ctx, t, bus).Delete(ctx, "capture.bank"); err != nil {
		t.Fatal(err)
	}
	third, err := leases.Acquire(ctx, "capture.bank", control.Owner{Node: "n3"})
	if err != nil || third == nil {
		t.Fatalf("third: %v %v", third, err)
	}
	<-next.Context.Done()
	if cause := context.Cause(next.Context); !errors.Is(cause, control.ErrLeaseLost) {
		t.Fatalf("ended by %v", cause)
	}
	if err := next.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if o, ok, _ := leases.Holder(ctx, "capture.bank"); !ok || o.Node != "n3" {
		t.Fatal("releasing a lost lease took it from its owner")
	}
	if err := third.Release(ctx); err != nil {
		t.Fatal(err)
	}
}

// A renewal that was stored although its answer was lost is not somebody else's.
func TestLeaseSurvivesALostAnswer(t *testing.T) {
	ctx, bus := newBus(t)
	leases, err := control.OpenLeases(ctx, bus.JS, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := leases.Acquire(ctx, "k", control.Owner{Node: "n1"})
	if err != nil || lease == nil {
		t.Fatal(lease, err)
	}
	held, err := bucket(ctx, t, bus).Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := bus.JS.Publish(ctx, "$KV.CDC_LEASES.k", held.Value())
	if err != nil {
		t.Fatal(err)
	}
	await(ctx, t, func() bool { // it is renewed behind that
		e, err := bucket(ctx, t, bus).Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if cause := context.Cause(lease.Context); cause != nil {
			t.Fatal(cause)
		}
		return e.Revision() > stored.Sequence
	})
	if err := lease.Release(ctx); err != nil {
		t.Fatal(err)
	}
}

// await asks again until cond holds, but not so often that the renewals starve.
func await(ctx context.Context, t *testing.T, cond func() bool) {
	t.Helper()
	pausetest.Until(ctx, t, "what it awaits", cond)
}

// bucket is where the leases are.
func bucket(ctx context.Context, t *testing.T, bus *control.Bus) jetstream.KeyValue {
	t.Helper()
	kv, err := bus.JS.KeyValue(ctx, "CDC_LEASES")
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// A lease whose owner is gone ends by itself.
func TestLeaseExpires(t *testing.T) {
	ctx, bus := newBus(t)
	leases, err := control.OpenLeases(ctx, bus.JS, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	dead, cancel := context.WithCancel(ctx)
	if l, err := leases.Acquire(dead, "k", control.Owner{Node: "n1"}); err != nil || l == nil {
		t.Fatal(l, err)
	}
	cancel() // no renewal, no release
	var next *control.Lease
	await(ctx, t, func() bool {
		if next, err = leases.Acquire(ctx, "k", control.Owner{Node: "n2"}); err != nil {
			t.Fatal(err)
		}
		return next != nil
	})
	if err := next.Release(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestStatusRequests(t *testing.T) {
	ctx, bus := newBus(t)
	if _, err := control.AskCapture(ctx, bus.NC, "bank"); !errors.Is(err, control.ErrNobody) {
		t.Fatalf("nobody: %v", err)
	}
	stop, err := control.ServeCapture(bus.NC, "bank", func() control.CaptureStatus { return control.CaptureStatus{Subscription: "bank", State: "running"} })
	if err != nil {
		t.Fatal(err)
	}
	st, err := control.AskCapture(ctx, bus.NC, "bank")
	if err != nil || st.State != "running" {
		t.Fatalf("%+v %v", st, err)
	}
	stop()
	if _, err := control.AskCapture(ctx, bus.NC, "bank"); !errors.Is(err, control.ErrNobody) {
		t.Fatalf("after stop: %v", err)
	}
}

// A holder that was told to stop keeps the lease until it has finished.
func TestLeaseWhileFinishing(t *testing.T) {
	ctx, bus := newBus(t)
	leases, err := control.OpenLeases(ctx, bus.JS, 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(ctx)
	lease, err := leases.Acquire(working, "capture.bank", control.Owner{Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	renewed := func() uint64 {
		e, err := bucket(ctx, t, bus).Get(ctx, "capture.bank")
		if err != nil {
			t.Fatal(err) // it has ended
		}
		return e.Revision()
	}
	first := renewed()
	await(ctx, t, func() bool { return renewed() >= first+4 }) // more than its time
	if err := lease.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if next, err := leases.Acquire(ctx, "capture.bank", control.Owner{Node: "n2"}); err != nil || next == nil || next.Owner.Why != "given back" {
		t.Errorf("%+v %v", next, err)
	} else if err := next.Release(ctx); err != nil {
		t.Fatal(err)
	}
}
