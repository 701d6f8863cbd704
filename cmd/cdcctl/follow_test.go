package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"shardcdc/pipeline/control"
)

// status --watch shows again and again, until ctrl-C, which is no failure.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	w.create("seen", "--shard", "a="+w.a)
	cmd := w.command("status", "seen", "--watch", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	values := json.NewDecoder(out)
	for range 2 {
		var r report
		if err := values.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Subscription.Name != "seen" || r.Capture != nil {
			t.Errorf("%+v", r)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by ctrl-C: %v", err)
	}
	w.run(0, "drop-subscription", "seen")
}

// tail shows what is published after it began, and nothing from before.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	w.startNode()
	w.create("flow", "--shard", "a="+w.a)
	w.run(0, "resume", "flow")
	w.sql(w.a, "INSERT INTO accounts VALUES (0, 'before', 1)")
	w.run(0, "wait", "flow", "--for", "published")
	cmd := w.command("tail", "flow", "--count", "2")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	next := 0
	w.until("tail has shown two transactions", func() bool {
		next++
		w.sql(w.a, fmt.Sprintf("INSERT INTO accounts VALUES (%d, 'after', 1)", next))
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("tail: %v", err)
			}
			return true
		default:
			return false
		}
	})
	if strings.Contains(out.String(), "before") || strings.Count(out.String(), "after") != 2 {
		t.Errorf("tail:\n%s", &out)
	}
	w.run(0, "drop-subscription", "flow")
	w.nothingLeft()
}

// A node that does not let go: pause and drop-subscription say so in time, and go on when it has.
func TestWaitsForTheNode(t *testing.T) {
	w := newWorld(t)
	w.create("held", "--shard", "a="+w.a)
	leases, err := control.OpenLeases(t.Context(), w.bus.JS, 1, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := leases.Acquire(t.Context(), "capture.held", control.Owner{Node: "stubborn"})
	if err != nil || lease == nil {
		t.Fatal(lease, err)
	}
	var n nodes
	w.decode(w.run(0, "nodes", "-o", "json").out, &n)
	if len(n.Processes) != 0 || len(n.Leases) != 1 || n.Leases[0].Node != "stubborn" || n.Leases[0].Answers || n.Leases[0].Renewed.IsZero() {
		t.Errorf("nodes: %+v", n)
	}
	w.wants(w.run(0, "nodes").out, "No process answers.", "stubborn", "ago, does not answer")
	w.wants(w.run(1, "pause", "held", "--timeout", "300ms").err, "subscription held is marked paused, but node stubborn has not let go")
	w.wants(w.run(1, "drop-subscription", "held", "--timeout", "300ms").err, "node stubborn has not let go within 300ms", "stays in state dropping")
	if got := w.query(w.a, "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"); got != "cdc_held_a" {
		t.Errorf("the slot of a running node was dropped: %q", got)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.run(0, "drop-subscription", "held")
	w.nothingLeft()
}
