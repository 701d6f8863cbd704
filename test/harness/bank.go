package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/bank"
)

// Bank is a bank whose traffic runs and whose target is watched.
type Bank struct {
	*bank.Bank
	Watch *bank.Watcher

	c       *Cluster
	stop    context.CancelFunc // of the traffic
	traffic errgroup.Group
	unwatch context.CancelFunc
	watch   errgroup.Group
	broken  context.Context // ends when the traffic or the watch fails
}

// OpenBank loads the accounts and lets the traffic run. A law that is broken on the target ends every wait of the bank.
func (c *Cluster) OpenBank(conf bank.Config) *Bank {
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
	broken, fail := context.WithCancelCause(c.Ctx)
	b.broken = broken
	note := func(err error) error {
		if err != nil {
			fail(err)
		}
		return err
	}
	running, stop := context.WithCancel(c.Ctx)
	b.stop = stop
	b.traffic.Go(func() error { return note(b.Run(running)) })
	watching, unwatch := context.WithCancel(c.Ctx)
	b.unwatch = unwatch
	if c.options.Format == "" {
		b.Watch = b.Bank.Watch(c.TargetDSN())
		b.watch.Go(func() error { return note(b.Watch.Run(watching)) })
	}
	c.t.Cleanup(func() {
		stop()
		unwatch()
		_ = b.traffic.Wait() // Finish has reported it, or the test has failed before.
		_ = b.watch.Wait()
		fail(nil)
	})
	return b
}

// Committed waits until the bank has committed n transactions more.
func (b *Bank) Committed(n int64) {
	b.c.t.Helper()
	want := b.Stats().Transactions + n
	Until(b.broken, b.c.t, fmt.Sprintf("%d transactions are committed", want), func() (bool, string) {
		have := b.Stats().Transactions
		return have >= want, fmt.Sprintf("%d are", have)
	})
}

// Progressed waits until the target shows a marker that was acknowledged after the call.
func (b *Bank) Progressed() {
	b.c.t.Helper()
	want := b.Stats().Markers + 2 // one may be half done already
	Until(b.broken, b.c.t, fmt.Sprintf("the target shows marker %d", want), func() (bool, string) {
		seen := b.Meter().Seen()
		st, _ := b.c.Capture()
		return seen >= want, fmt.Sprintf("it shows %d; the node is %s %s %s %v", seen, st.State, st.Error, st.Stalled, st.WaitsFor)
	})
}

// StopTraffic ends the traffic and finishes what is in doubt, but for what Abandon left.
func (b *Bank) StopTraffic() {
	b.c.t.Helper()
	b.stop()
	if err := b.traffic.Wait(); err != nil {
		b.c.t.Fatal(err)
	}
}

// Finish ends the traffic, waits until all is on the target, and checks everything: no snapshot broke a law, source and
// target are equal, and the stream holds each transaction once.
func (c *Cluster) Finish(b *Bank) {
	c.t.Helper()
	b.StopTraffic()
	c.WaitApplied()
	if err := b.Watch.Last(b.broken); err != nil {
		c.t.Fatal(err)
	}
	b.unwatch()
	if err := b.watch.Wait(); err != nil {
		c.t.Fatal(err)
	}
	c.Equal()
	a := c.Audit()
	st := b.Stats()
	c.t.Logf("%d transactions, %d of them distributed, %d rolled back, %d abandoned, %d gave way, %d connections broke; %d snapshots; stream: %d transactions in %d units",
		st.Transactions, st.Distributed, st.RolledBack, st.Abandoned, st.GaveWay, st.Broken, b.Watch.Snapshots(), a.Transactions, a.Units)
	// A commit whose answer was lost is in the stream and was not counted.
	if committed := st.Transactions + c.Extra; a.Transactions < committed || a.Transactions > committed+2*st.Broken {
		c.t.Fatalf("the stream holds %d transactions, the bank committed %d and the test %d (%d connections broke)", a.Transactions, st.Transactions, c.Extra, st.Broken)
	}
}

// Audit is what a stream holds.
type Audit struct {
	Units, Transactions, Fragments int64
}

// fragmentID is what no two fragments have in common.
type fragmentID struct {
	shard pipeline.ShardID
	end   pipeline.LSN
}

// Audit reads the whole stream and checks that CSNs rise without a gap, that no fragment is there twice, and that no
// distributed transaction is there in two pieces.
func (c *Cluster) Audit() Audit {
	c.t.Helper()
	var a Audit
	stream := apply.NewStream(c.Bus.JS, c.Sub.Name)
	info, err := stream.Describe(c.Ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	reader, err := stream.Open(c.Ctx, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer reader.Close()
	fragments, gids := map[fragmentID]pipeline.CSN{}, map[string]pipeline.CSN{}
	var last pipeline.CSN
	for seq := pipeline.Seq(0); seq < info.Last; {
		u, err := reader.Next(c.Ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		seq = u.Seq
		if u.Unit == nil {
			continue
		}
		if err := u.Unit.Follows(last); err != nil {
			c.t.Fatal(err)
		}
		last = u.Unit.Last
		a.Units++
		for _, tx := range u.Unit.Transactions {
			a.Transactions++
			a.Fragments += int64(len(tx.Fragments))
			if err := once(tx, fragments, gids, c.Reused); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	return a
}

func once(tx *pipeline.Transaction, fragments map[fragmentID]pipeline.CSN, gids map[string]pipeline.CSN, reused map[string]bool) error {
	if before, twice := gids[tx.GID]; twice && tx.GID != "" && !reused[tx.GID] {
		return fmt.Errorf("gid %s is in the stream twice: csn %s and %s", tx.GID, before, tx.CSN)
	}
	gids[tx.GID] = tx.CSN
	var errs []error
	for _, f := range tx.Fragments {
		id := fragmentID{f.Shard, f.End}
		if before, twice := fragments[id]; twice {
			errs = append(errs, fmt.Errorf("fragment %s is in the stream twice: csn %s and %s", f, before, tx.CSN))
		}
		fragments[id] = tx.CSN
	}
	return errors.Join(errs...)
}
