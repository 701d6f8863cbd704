package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
)

// TestRelay: workers take over from each other in the middle of a backlog, while groups of the one before are on several lanes. Every
// snapshot is one that the source had; who is overtaken stops, and says so.
func TestRelay(t *testing.T) {
	const transactions = 300
	b, open := newBank(t, transactions)
	w := b.w
	source := newBacklog(w.capture())
	type running struct {
		worker *apply.Worker
		done   chan error
		stop   context.CancelFunc
	}
	var all []*running
	begin := func() {
		target, err := postgres.New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		r := &running{
			worker: apply.New(apply.Config{
				Subscription: "s", Target: target, Source: source, GroupUnits: 1 + b.r.IntN(3),
				RetryMin: time.Millisecond, RetryMax: time.Millisecond, RetryBlocked: 10 * time.Millisecond,
			}),
			done: make(chan error, 1), stop: cancel,
		}
		go func() { r.done <- r.worker.Run(ctx) }()
		all = append(all, r)
	}
	begin()
	open(source)
	last, looks := -1, 0
	for last < transactions {
		last = w.look(bankState, b.states, last)
		if looks++; last > 0 && looks%60 == 0 && len(all) < 12 {
			begin()
		}
	}
	w.same("account", "keyed", "whole", "log")
	overtaken := 0
	for i, r := range all { // which of two that began at nearly the same time was the last one is not known
		r.stop()
		err := <-r.done
		var fatal *apply.Fatal
		switch {
		case errors.As(err, &fatal) && strings.Contains(err.Error(), "another worker is ahead"):
			overtaken++
		case !errors.Is(err, context.Canceled):
			t.Errorf("worker %d of %d: %v", i, len(all), err)
		}
	}
	if t.Logf("%d of %d workers were overtaken", overtaken, len(all)); overtaken == 0 {
		t.Error("nobody was overtaken: it proves nothing")
	}
}
