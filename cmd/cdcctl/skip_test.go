package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/control"
)

// A target refuses a row: status says where, skip leaves out that transaction and no other, and it stays visible.
func TestSkip(t *testing.T) {
	w := newWorld(t)
	w.startNode()
	stopWorker := w.startWorker()
	w.create("bank", "--shard", "a="+w.a, "--target", w.target)
	w.run(0, "resume", "bank")
	w.sql(w.a, "INSERT INTO accounts VALUES (1, 'Alice', 1)")
	w.run(0, "wait", "bank", "--for", "applied")
	w.wants(w.run(1, "skip", "bank", "--csn", "7", "--reason", "test").err, "target target1 is not stuck; it is caught up, and has everything up to csn ", "Try: cdcctl status bank")

	w.sql(w.target, "ALTER TABLE accounts ADD CONSTRAINT rich CHECK (balance < 100)")
	w.sql(w.a, "INSERT INTO accounts VALUES (2, 'Bob', 1000)", "INSERT INTO accounts VALUES (3, 'Carol', 3)")
	var at *control.BlockedAt
	w.until("the target is stuck", func() bool {
		var r report
		w.decode(w.run(0, "status", "bank", "-o", "json").out, &r)
		at = r.Apply[0].Blocked
		return at != nil && at.CSN != 0
	})
	if !strings.Contains(at.Table, "accounts") {
		t.Errorf("blocked at %+v", at)
	}
	csn := at.CSN.String()
	w.until("the history has it", func() bool { return len(w.refusals("bank")) > 0 })
	w.wants(w.run(0, "status", "bank").out, "blocked at csn "+csn+", table ", "cdcctl skip bank --target target1 --csn "+csn)
	w.wants(w.run(1, "skip", "bank", "--csn", "7", "--reason", "test").err, "target target1 is not stuck at csn 7 but at csn "+csn, "cdcctl skip bank --target target1 --csn "+csn)
	w.wants(w.run(1, "skip", "bank", "--csn", csn, "--target", "other", "--reason", "test").err, "no apply worker answers for target other, and the catalog names no such target", "Try: cdcctl status bank")
	w.wants(w.run(0, "skip", "bank", "--csn", csn, "--target", "target1", "--reason", "ticket 4711").out, "Target target1 left out the transaction that it refused: csn "+csn, "cdcctl tail bank --from-csn "+csn)
	w.run(0, "wait", "bank", "--for", "applied")
	if got := w.query(w.target, "SELECT id::text FROM accounts ORDER BY id"); got != "1 3" {
		t.Errorf("the target has %q", got)
	}
	w.wants(w.run(0, "skip", "bank", "--csn", csn, "--reason", "again").out, "left out csn "+csn+" already, as ", "ticket 4711")
	w.wants(w.run(0, "status", "bank").out, "target target1: 1 skipped, so it differs from the shards there until somebody repairs it", "cdcctl verify bank")

	if stops := w.refusals("bank"); len(stops) != 1 || stops[0].CSN != at.CSN || stops[0].By != "n1" || !strings.Contains(stops[0].Why, "rich") {
		t.Errorf("the history has of the refusal: %+v", stops)
	}
	stopWorker()
	w.wants(w.run(1, "skip", "bank", "--csn", csn, "--reason", "test").err, "no apply worker answers for target target1 of bank", "Try: cdcd apply")
	w.wants(w.run(0, "status", "bank").out, "no worker", "1 skipped", "-            -         -")
	w.run(0, "pause", "bank")
	w.wants(w.run(1, "skip", "bank", "--csn", csn, "--reason", "test").err, "subscription bank is paused", "Try: cdcctl resume bank")
	w.wants(w.run(0, "drop-subscription", "bank").out, "kept target target1: table cdc.skipped, with 1 transaction that it was told to leave out")
	w.wants(w.run(0, "history", "bank").out, "csn "+csn+", ticket 4711 (csn "+csn+", table ")
	if got := w.query(w.target, "SELECT csn::text || reason FROM cdc.skipped"); got != csn+"ticket 4711" {
		t.Errorf("cdc.skipped has %q", got)
	}
	w.sql(w.target, "DROP SCHEMA cdc CASCADE")
	w.nothingLeft()
}

// What people and processes did, in order; it outlives the subscription.
func TestHistoryOfASubscription(t *testing.T) {
	w := newWorld(t)
	w.wants(w.run(0, "history").out, "Nothing happened yet.")
	w.wants(w.run(0, "nodes").out, "No process answers. Try: cdcd node and cdcd apply")
	w.create("past", "--shard", "a="+w.a, "--target", w.target)
	w.wants(w.run(0, "nodes").out, "past", "capture", "apply to target1", "nobody")
	stopNode, stopWorker := w.startNode(), w.startWorker()
	w.run(0, "resume", "past") // it is active: nothing to record
	w.run(0, "pause", "past")
	w.run(0, "pause", "past")
	w.run(0, "resume", "past")
	w.wants(w.run(0, "alter-subscription", "past", "--memory-bytes-max", "1GiB", "--max-clock-skew", "7s").out, "Subscription past is changed: --memory-bytes-max 1.0GiB --max-clock-skew 7s")
	var subs []control.Subscription
	w.decode(w.run(0, "list", "-o", "json").out, &subs)
	if s := subs[0]; s.MemoryBytesMax != 1<<30 || s.MaxClockSkew != control.Duration(7*time.Second) || s.SpillBytesMax != control.DefaultSpillBytesMax {
		t.Errorf("after alter: %+v", s)
	}
	w.wants(w.run(2, "alter-subscription", "past", "--spill-bytes-max", "1MiB").err, "spill_bytes_max 1048576 is too small")
	w.wants(w.run(2, "alter-subscription", "past").err, "nothing to change. Try: cdcctl alter-subscription --help")
	w.moved(t, 3)
	stopNode()
	stopWorker()
	w.run(0, "drop-subscription", "past")
	w.create("next", "--shard", "a="+w.a)
	w.run(0, "drop-subscription", "next")
	var acts []string
	for _, e := range w.events("past") {
		if e.To == "" {
			acts = append(acts, string(e.Kind))
			if !strings.Contains(e.By, "@") {
				t.Errorf("by %q", e.By)
			}
		}
	}
	if got := strings.Join(acts, " "); got != "created paused resumed altered dropped" {
		t.Errorf("past: %s", got)
	}
	if n := len(w.events("")) - len(w.events("past")); n != 2 {
		t.Errorf("next has %d events, want 2", n)
	}
	w.nothingLeft()
}

// refusals are the times that a target stopped.
func (w *world) refusals(name string) []control.Event {
	w.Helper()
	return slices.DeleteFunc(w.events(name), func(e control.Event) bool { return e.Kind != control.ApplyStopped })
}

func (w *world) events(name string) (events []control.Event) {
	w.Helper()
	args := []string{"history", "-o", "json"}
	if name != "" {
		args = append(args, name)
	}
	w.decode(w.run(0, args...).out, &events)
	return events
}

// moved waits until the capture began so often, and checks what nodes says of the last time.
func (w *world) moved(t *testing.T, times int) {
	t.Helper()
	w.until("the capture began again", func() bool {
		n := 0
		for _, e := range w.events("past") {
			if e.Kind == control.CaptureMoved {
				n++
			}
		}
		return n == times
	})
	var n nodes
	w.decode(w.run(0, "nodes", "-o", "json").out, &n)
	if len(n.Processes) != 2 || len(n.Leases) != 2 {
		t.Fatalf("nodes: %+v", n)
	}
	if l := n.Leases[1]; l.Key != "capture.past" || l.Node != "n1" || l.From != "n1" || l.Why != "handed over: the subscription was changed" || !l.Answers {
		t.Errorf("lease: %+v", l)
	}
	w.wants(w.run(0, "nodes").out, "PROCESS", "n1", "capture", "past→target1", "WHY IT MOVED", "handed over: the subscription was changed", " ago")
	w.wants(w.run(0, "history").out, "WHEN", "capture moved", "first start", "handed over: the subscription was paused", "--max-clock-skew 7s")
}
