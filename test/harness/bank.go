package harness

import (
	"context"
	"fmt"
	"time"

	"shardcdc/pipeline/bank"
)

// Bank is a bank whose traffic runs and whose target is watched.
type Bank struct {
	*bank.Bank
	Watch *bank.Watcher

	c       *Cluster
	stop    context.CancelFunc // of the traffic
	traffic chan error         // its end; nil: it was waited for
	unwatch context.CancelFunc
	watched chan error
	broken  context.Context // ends when the traffic or the watch fails
	fail    context.CancelCauseFunc
}

// OpenBank loads the accounts and lets the traffic run. A law that is broken on the target ends every wait of the bank.
func (c *Cluster) OpenBank(conf bank.Config) *Bank {
	c.t.Helper()
	b := c.OpenBankUnwatched(conf)
	if c.options.Format.Name == "" {
		b.StartWatch()
	}
	return b
}

// OpenBankUnwatched is OpenBank for a target that does not obey the laws yet: see StartWatch.
func (c *Cluster) OpenBankUnwatched(conf bank.Config) *Bank {
	c.t.Helper()
	conf.Shards, conf.Seed = c.ShardDSNs(), c.Seed
	if conf.PerSecond == 0 {
		conf.PerSecond = 300
	}
	if conf.Markers == 0 {
		conf.Markers = 20 * time.Millisecond
	}
	b := &Bank{Bank: bank.New(conf), c: c}
	if err := b.Load(c.Ctx); err != nil {
		c.t.Fatal(err)
	}
	b.broken, b.fail = context.WithCancelCause(context.Background())
	b.StartTraffic()
	c.t.Cleanup(b.close)
	return b
}

// StartWatch looks at the target from now on.
func (b *Bank) StartWatch() {
	watching, unwatch := context.WithCancel(context.Background())
	b.Watch = b.Bank.Watch(b.c.TargetDSN())
	b.unwatch, b.watched = unwatch, b.run(func() error { return b.Watch.Run(watching) })
}

// run runs fn and gives its error to everybody who waits for the bank.
func (b *Bank) run(fn func() error) (done chan error) {
	done = make(chan error, 1)
	go func() {
		err := fn()
		if err != nil {
			b.fail(err)
		}
		done <- err
	}()
	return done
}

// StartTraffic lets the tellers work, again after StopTraffic.
func (b *Bank) StartTraffic() {
	running, stop := context.WithCancel(context.Background())
	b.stop, b.traffic = stop, b.run(func() error { return b.Run(running) })
}

// end waits for one of the bank's goroutines.
func (b *Bank) end(done chan error, what string) error {
	if done == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(b.c.Ctx, endTimeout, fmt.Errorf("%s are over", endTimeout))
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", what, context.Cause(ctx))
	}
}

// endTimeout is longer than the bank takes to settle what is in doubt.
const endTimeout = 90 * time.Second

// close ends everything that Finish has not ended, because the test failed.
func (b *Bank) close() {
	b.stop()
	if b.unwatch != nil {
		b.unwatch()
	}
	b.c.revive()
	ctx, cancel := context.WithTimeout(context.Background(), 2*closeTimeout)
	defer cancel()
	for _, done := range []chan error{b.traffic, b.watched} {
		if done == nil {
			continue
		}
		select {
		case <-done: // Finish has reported the error, or the test has failed before.
		case <-ctx.Done():
			b.c.t.Error("the bank does not end")
		}
	}
	b.fail(nil)
}

// until waits for a condition, unless a law was broken.
func (b *Bank) until(what string, met func() (bool, string)) {
	b.c.t.Helper()
	Until(b.c.Ctx, b.c.t, what, func() (bool, string) {
		b.c.t.Helper()
		if b.broken.Err() != nil {
			b.c.t.Fatalf("while waiting until %s: %v", what, context.Cause(b.broken))
		}
		return met()
	})
}

// Committed waits until the bank has committed n transactions more.
func (b *Bank) Committed(n int64) {
	b.c.t.Helper()
	want := b.Stats().Transactions + n
	b.until(fmt.Sprintf("%d transactions are committed", want), func() (bool, string) {
		have := b.Stats().Transactions
		return have >= want, fmt.Sprintf("%d are", have)
	})
}

// Progressed waits until the target shows a marker that was acknowledged after the call.
func (b *Bank) Progressed() {
	b.c.t.Helper()
	want := b.Stats().Markers + 2 // one may be half done already
	b.until(fmt.Sprintf("the target shows marker %d", want), func() (bool, string) {
		seen := b.Meter().Seen()
		if seen >= want {
			return true, ""
		}
		st, _ := b.c.Capture()
		worker, _ := b.c.ApplyStatus()
		return false, fmt.Sprintf("it shows %d; the node is %s %s %s %v, the worker %s %s", seen, st.State, st.Error, st.Stalled, st.WaitsFor, worker.State, worker.Error)
	})
}

// StopTraffic ends the traffic and finishes what is in doubt, but for what Abandon left.
func (b *Bank) StopTraffic() {
	b.c.t.Helper()
	b.stop()
	err := b.end(b.traffic, "the traffic")
	b.traffic = nil
	if err != nil {
		b.c.t.Fatal(err)
	}
}

// Verify waits until all is on the target, and checks everything: no snapshot broke a law, source and target are equal, and
// the stream holds each transaction once. No traffic runs; it may go on afterwards.
func (c *Cluster) Verify(b *Bank) Audit {
	c.t.Helper()
	a := c.VerifyCopied(b)
	// A commit whose answer was lost is in the stream and was not counted.
	st := b.Stats()
	if committed := st.Transactions + c.Extra; a.Transactions < committed || a.Transactions > committed+2*st.Broken {
		c.t.Fatalf("the stream holds %d transactions, the bank committed %d and the test %d (%d connections broke)", a.Transactions, st.Transactions, c.Extra, st.Broken)
	}
	return a
}

// VerifyCopied is Verify where the bank is older than the stream, so that its transactions cannot be counted there.
func (c *Cluster) VerifyCopied(b *Bank) Audit {
	c.t.Helper()
	c.WaitApplied()
	if err := b.Watch.Last(c.Ctx); err != nil {
		if b.broken.Err() != nil {
			err = context.Cause(b.broken)
		}
		c.t.Fatal(err)
	}
	c.Equal()
	return c.Audit()
}

// Finish ends the traffic, verifies, and ends the watch.
func (c *Cluster) Finish(b *Bank) {
	c.t.Helper()
	b.StopTraffic()
	b.finish(c.Verify(b))
}

// FinishCopied is Finish where the bank is older than the stream.
func (c *Cluster) FinishCopied(b *Bank) {
	c.t.Helper()
	b.StopTraffic()
	b.finish(c.VerifyCopied(b))
}

// finish ends the watch.
func (b *Bank) finish(a Audit) {
	c := b.c
	c.t.Helper()
	b.unwatch()
	err := b.end(b.watched, "the watch")
	b.watched = nil
	if err != nil {
		c.t.Fatal(err)
	}
	st := b.Stats()
	c.t.Logf("%d transactions, %d of them distributed, %d rolled back, %d abandoned, %d gave way, %d connections broke; %d snapshots; stream: %d transactions in %d units",
		st.Transactions, st.Distributed, st.RolledBack, st.Abandoned, st.GaveWay, st.Broken, b.Watch.Snapshots(), a.Transactions, a.Units)
}
