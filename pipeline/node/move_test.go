package node

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause/pausetest"
)

// Who runs what, who stands by, and why it moved: as the processes say, as the leases say, and as the history keeps it.
func TestMoves(t *testing.T) {
	r := newRig(t, 1)
	stop := r.start("n1")
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (1, 'ann', 1)")
	r.applied()
	stopSecond := r.start("n2")
	processes := func() string {
		t.Helper()
		all, err := control.AskProcesses(r.ctx, r.bus.NC)
		r.must(err)
		text := ""
		for _, p := range all {
			if p.PID == 0 || p.Host == "" || p.Since.IsZero() {
				t.Errorf("process %+v", p)
			}
			for _, w := range p.Work {
				text += fmt.Sprintf("%s %s %s%s %t; ", p.Name, p.Role, w.Subscription, w.Target, w.Running)
			}
		}
		return text
	}
	r.eventually("n2 stands by", func() bool {
		return processes() == "n1 capture bank true; n1 apply bankt true; n2 capture bank false; n2 apply bankt false; "
	})
	stop()
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (2, 'bob', 1)")
	r.applied()
	if got := processes(); got != "n2 capture bank true; n2 apply bankt true; " {
		t.Errorf("after the hand-over: %s", got)
	}
	// A change of the subscription restarts the work.
	catalog, err := control.OpenCatalog(r.ctx, r.bus.JS, 1)
	r.must(err)
	_, err = catalog.Change(r.ctx, "bank", func(s *control.Subscription) error { s.MemoryBytesMax *= 2; return nil })
	r.must(err)
	history, err := control.OpenHistory(r.ctx, r.bus.JS, 1)
	r.must(err)
	moves := func(kind control.EventKind) string {
		t.Helper()
		events, err := history.Read(r.ctx, "bank")
		r.must(err)
		text := ""
		for _, e := range events {
			if e.Kind == kind {
				text += fmt.Sprintf("%s→%s %s; ", e.From, e.To, e.Why)
			}
		}
		return text
	}
	const want = "→n1 first start; n1→n2 handed over: clean stop; n2→n2 handed over: the subscription was changed; "
	for _, kind := range []control.EventKind{control.CaptureMoved, control.ApplyMoved} {
		r.eventually(string(kind)+" is in the history", func() bool { return moves(kind) == want })
	}
	held, err := openLeases(r).List(r.ctx)
	r.must(err)
	if len(held) != 2 || held[0].Node != "n2" || held[0].From != "n2" || held[0].Why != "handed over: the subscription was changed" || held[0].Target != "t" {
		t.Errorf("leases: %+v", held)
	}
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (3, 'cid', 1)")
	r.applied()
	stopSecond()
	if got := processes(); got != "" {
		t.Errorf("nobody is left, but %s", got)
	}
}

// eventually waits for a condition.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	pausetest.Until(r.ctx, r.t, what, ok)
}

func openLeases(r *rig) *control.Leases {
	l, err := control.OpenLeases(r.ctx, r.bus.JS, 1, DefaultLeaseTTL)
	r.must(err)
	return l
}

// An error is in the history once, however often it is tried again.
func TestErrorIsInTheHistory(t *testing.T) {
	r := newRig(t, 1)
	r.exec(r.shards[0], "SELECT pg_drop_replication_slot('cdc_bank_a')")
	r.start("n1")
	history, err := control.OpenHistory(r.ctx, r.bus.JS, 1)
	r.must(err)
	count := func() (n int) {
		events, err := history.Read(r.ctx, "bank")
		r.must(err)
		for _, e := range events {
			if e.Kind == control.CaptureStopped && strings.Contains(e.Why, "cdc_bank_a") {
				n++
			}
		}
		return n
	}
	failing := func() bool {
		st, err := control.AskCapture(r.ctx, r.bus.NC, "bank")
		return err == nil && st.State == "failed"
	}
	r.eventually("the error is in the history", func() bool { return failing() && count() > 0 })
	tries := uint64(0)
	r.eventually("it was tried again", func() bool { // each attempt writes an epoch
		s, err := r.bus.JS.Stream(r.ctx, "CDC_bank")
		r.must(err)
		tries = s.CachedInfo().State.LastSeq
		return tries >= 3
	})
	if n := count(); n != 1 {
		t.Errorf("%d times in the history, after %d attempts", n, tries)
	}
}

// Why a lease is given back.
func TestLeaving(t *testing.T) {
	ended, end := context.WithCancelCause(context.Background())
	end(nil)
	paused, pause := context.WithCancelCause(context.Background())
	pause(stopping(control.Paused))
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{ended, nil, "handed over: clean stop"},
		{paused, nil, "handed over: the subscription was paused"},
		{context.Background(), fmt.Errorf("fenced"), "released after error: fenced"},
	} {
		if got := leaving(c.ctx, c.err); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
