package control_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shardcdc/pipeline/control"
)

// What people did stays, however much processes do; of that the last 200 of each kind stay. Names do not mix.
func TestHistory(t *testing.T) {
	ctx, bus := newBus(t)
	h, err := control.OpenHistory(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	if events, err := h.Read(ctx, ""); err != nil || len(events) != 0 {
		t.Fatalf("at first: %v %v", events, err)
	}
	at := time.Unix(1_800_000_000, 0).UTC()
	record := func(e control.Event) {
		t.Helper()
		e.At = at
		if err := h.Record(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 210 {
		record(control.Event{Subscription: "bank", Kind: control.Skipped, CSN: 7, Target: "t", Why: fmt.Sprint(i)})
	}
	record(control.Event{Subscription: "bank2", Kind: control.Created})
	for i := range 250 {
		record(control.Event{Subscription: "bank", Kind: control.CaptureMoved, To: fmt.Sprintf("n%d", i)})
	}
	record(control.Event{Subscription: "bank", Kind: control.ApplyMoved, Target: "t", To: "n1"})
	record(control.Event{Subscription: "bank", Kind: control.ApplyMoved, Target: "u", To: "n2"})
	record(control.Event{Subscription: "bank", Kind: control.Dropped})
	events, err := h.Read(ctx, "bank")
	if err != nil {
		t.Fatal(err)
	}
	count := map[control.EventKind]int{}
	for _, e := range events {
		count[e.Kind]++
		if e.Subscription != "bank" || !e.At.Equal(at) {
			t.Fatalf("%+v", e)
		}
	}
	if fmt.Sprint(count) != "map[apply_moved:2 capture_moved:200 dropped:1 skipped:210]" {
		t.Errorf("kept: %v", count)
	}
	if first, last := events[0], events[len(events)-1]; first.Kind != control.Skipped || first.Why != "0" || first.CSN != 7 || last.Kind != control.Dropped {
		t.Errorf("first %+v, last %+v", first, last)
	}
	all, err := h.Read(ctx, "")
	if err != nil || len(all) != len(events)+1 {
		t.Errorf("of all: %d, %v", len(all), err)
	}
	if _, err := h.Read(ctx, "a.b"); err == nil {
		t.Error("a name that is none was read")
	}
}

// The reason is what happened: first start, handed over, expired, removed by hand; and another subscription of the same
// name begins anew.
func TestWhyALeaseMoved(t *testing.T) {
	ctx, bus := newBus(t)
	open := func() *control.Leases { // as another process
		l, err := control.OpenLeases(ctx, bus.JS, 1, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	history, err := control.OpenHistory(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	const key = "capture.bank"
	acquire := func(l *control.Leases, node, incarnation string) *control.Lease {
		t.Helper()
		var lease *control.Lease
		await(ctx, t, func() bool {
			var err error
			if lease, err = l.Acquire(ctx, key, control.Owner{Node: node, Incarnation: incarnation}); err != nil {
				t.Fatal(err)
			}
			return lease != nil
		})
		if err := history.Record(ctx, control.Event{Subscription: "bank", Incarnation: incarnation, Kind: control.CaptureMoved, To: node}); err != nil {
			t.Fatal(err)
		}
		return lease
	}
	want := func(l *control.Lease, from, why string) {
		t.Helper()
		if o := l.Owner; o.From != from || !strings.Contains(o.Why, why) {
			t.Errorf("from %q, because %q; want %q, %q", o.From, o.Why, from, why)
		}
	}
	n1 := acquire(open(), "n1", "i1")
	want(n1, "", "first start")
	if err := n1.HandOver(ctx, "handed over: clean stop"); err != nil {
		t.Fatal(err)
	}
	n2 := acquire(open(), "n2", "i1")
	want(n2, "n1", "handed over: clean stop")
	held, err := open().List(ctx)
	if err != nil || len(held) != 1 || held[0].Node != "n2" || held[0].Subscription != "bank" || held[0].Target != "" || held[0].From != "n1" || held[0].Renewed.IsZero() {
		t.Errorf("list: %+v %v", held, err)
	}
	standby := open()
	if l, err := standby.Acquire(ctx, key, control.Owner{Node: "n3", Incarnation: "i1"}); l != nil || err != nil {
		t.Fatal(l, err)
	}
	n2.Abandon()
	n3 := acquire(standby, "n3", "i1")
	want(n3, "n2", "lease expired: the holder was not heard for 1.")
	n3.Abandon()
	await(ctx, t, func() bool { _, ok, err := standby.Holder(ctx, key); return err == nil && !ok })
	// Nobody watched it; and n3 itself comes back.
	want(acquire(standby, "n3", "i1"), "n3", "lease expired at ")

	if err := bucket(ctx, t, bus).Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	n4 := acquire(open(), "n4", "i1")
	want(n4, "n3", "removed by hand")
	if err := n4.HandOver(ctx, "handed over: the subscription is dropped"); err != nil {
		t.Fatal(err)
	}
	n5 := acquire(open(), "n5", "i2")
	want(n5, "", "first start")
	if err := n5.Release(ctx); err != nil {
		t.Fatal(err)
	}
	// The bucket was emptied; only the history knows.
	s, err := bus.JS.Stream(ctx, "KV_CDC_LEASES")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	n6 := acquire(open(), "n6", "i2")
	want(n6, "n5", "nobody held it for a while")
	// n7 saw n6, but not n8, which came and died in between.
	seventh := open()
	if l, err := seventh.Acquire(ctx, key, control.Owner{Node: "n7", Incarnation: "i2"}); l != nil || err != nil {
		t.Fatal(l, err)
	}
	if err := n6.Release(ctx); err != nil {
		t.Fatal(err)
	}
	acquire(open(), "n8", "i2").Abandon()
	await(ctx, t, func() bool { _, ok, err := standby.Holder(ctx, key); return err == nil && !ok })
	n7 := acquire(seventh, "n7", "i2")
	want(n7, "n8", "lease expired at ")
	n7.Abandon()
	await(ctx, t, func() bool { _, ok, err := standby.Holder(ctx, key); return err == nil && !ok })
	n9 := acquire(open(), "n9", "i3")
	want(n9, "", "first start")
	if err := n9.Release(ctx); err != nil {
		t.Fatal(err)
	}
}

// Who reads leaves no consumers behind: a worker that is stuck asks every second.
func TestReadersLeaveNothing(t *testing.T) {
	ctx, bus := newBus(t)
	skips, err := control.OpenSkips(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	history, err := control.OpenHistory(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for range 5 {
			if _, err := skips.List(ctx, "bank", "t"); err != nil {
				t.Fatal(err)
			}
			if _, err := history.Read(ctx, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := skips.Put(ctx, "bank", "t", control.Skip{CSN: 1}); err != nil {
			t.Fatal(err)
		}
		if err := history.Record(ctx, control.Event{Subscription: "bank", Kind: control.Created}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"CDC_HISTORY", "KV_CDC_SKIPS"} {
		await(ctx, t, func() bool {
			s, err := bus.JS.Stream(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			return s.CachedInfo().State.Consumers == 0
		})
	}
}

func TestSkips(t *testing.T) {
	ctx, bus := newBus(t)
	c, err := control.OpenCatalog(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := control.OpenSkips(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(ctx, sample("bank")); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		sub, target string
		control.Skip
	}{
		{"bank", "t", control.Skip{CSN: 20, Reason: "first"}},
		{"bank", "t", control.Skip{CSN: 9, Reason: "other"}},
		{"bank", "t", control.Skip{CSN: 20, Reason: "second"}},
		{"bank", "u", control.Skip{CSN: 5}},
		{"bank2", "t", control.Skip{CSN: 1}},
	} {
		if err := s.Put(ctx, k.sub, k.target, k.Skip); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List(ctx, "bank", "t")
	if err != nil || len(list) != 2 || list[0].CSN != 9 || list[1].Reason != "first" {
		t.Fatalf("list: %+v %v", list, err)
	}
	if k, err := s.Get(ctx, "bank", "t", 20); err != nil || k == nil || k.Reason != "first" {
		t.Fatalf("get: %+v %v", k, err)
	}
	if k, err := s.Get(ctx, "bank", "u", 20); err != nil || k != nil {
		t.Fatalf("another target's: %+v %v", k, err)
	}
	if err := c.Delete(ctx, "bank"); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]int{"t": 0, "u": 0} {
		if list, err := s.List(ctx, "bank", target); err != nil || len(list) != want {
			t.Errorf("after the drop: %+v %v", list, err)
		}
	}
	if list, err := s.List(ctx, "bank2", "t"); err != nil || len(list) != 1 {
		t.Errorf("another subscription's: %+v %v", list, err)
	}
}

func TestChange(t *testing.T) {
	ctx, bus := newBus(t)
	c, err := control.OpenCatalog(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(ctx, sample("bank")); err != nil {
		t.Fatal(err)
	}
	calls := 0
	e, err := c.Change(ctx, "bank", func(s *control.Subscription) error {
		if calls++; calls == 1 { // somebody else is faster
			other, err := c.Get(ctx, "bank")
			if err != nil {
				return err
			}
			other.State = control.Paused
			if err := c.Put(ctx, other); err != nil {
				return err
			}
		}
		s.MemoryBytesMax = 1 << 30
		return nil
	})
	if err != nil || calls != 2 || e.State != control.Paused || e.MemoryBytesMax != 1<<30 {
		t.Fatalf("%d calls, %+v, %v", calls, e.Subscription, err)
	}
	_, err = c.Change(ctx, "bank", func(s *control.Subscription) error { s.SpillBytesMax = 1; return nil })
	if err == nil || !strings.Contains(err.Error(), "spill_bytes_max 1 is too small") {
		t.Errorf("a wrong change: %v", err)
	}
}

func TestProcesses(t *testing.T) {
	ctx, bus := newBus(t)
	if all, err := control.AskProcesses(ctx, bus.NC); err != nil || len(all) != 0 {
		t.Fatalf("nobody: %v %v", all, err)
	}
	for _, p := range []control.Process{{Name: "n2", Role: control.RoleApply}, {Name: "n1", Role: control.RoleApply}, {Name: "n1", Role: control.RoleCapture}} {
		stop, err := control.ServeProcess(bus.NC, func() control.Process { return p })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	all, err := control.AskProcesses(ctx, bus.NC)
	text := ""
	for _, p := range all {
		text += p.Name + p.Role + " "
	}
	if err != nil || text != "n1capture n1apply n2apply " {
		t.Fatalf("%q %v", text, err)
	}
}

// A transaction that a target refuses is there once, whoever meets it; the next one, and another target's, are there too.
func TestRecordStop(t *testing.T) {
	ctx, bus := newBus(t)
	h, err := control.OpenHistory(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	stop := control.Event{Subscription: "bank", Incarnation: "1", Kind: control.ApplyStopped, Target: "t", CSN: 5, By: "w1"}
	again, other, next, whole, reborn := stop, stop, stop, stop, stop
	again.By, other.Target, next.CSN, whole.CSN, reborn.Incarnation, reborn.CSN = "w2", "u", 6, 0, "2", 6
	for _, e := range []control.Event{stop, stop, again, other, next, reborn, whole, whole} {
		if err := h.RecordStop(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	events, err := h.Read(ctx, "bank")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]control.Event{stop, other, next, reborn, whole, whole}, events); d != "" {
		t.Error(d)
	}
}
