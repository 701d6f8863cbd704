// Package demo is cdcd demo: the proof that newcomers run. It takes about a minute and leaves nothing behind.
//
//	3 shards + 1 target (throw-away PostgreSQL) ─ embedded NATS ─ cdcd node ─ cdcd apply ─ a bank's traffic
//	     └─ kill -9 of the node on the way ─ stop ─ wait until all is applied ─ compare row by row ─ the proof
//
// Node and apply worker are real processes of the program that runs the demo. Servers, subscription, traffic and the
// laws that the target is held to are those of the end-to-end tests (packages throwaway, subscribe, bank).
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/await"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
)

// Options of Run. The zero value of each field means its default.
type Options struct {
	Keep     bool          // leave everything running after the proof, until ctx ends
	Duration time.Duration // of the traffic; 30 s
	PGBin    string        // folder with initdb and postgres; default: the newest installed
	Dir      string        // where the temporary folders are made; default: the system's
	Out      io.Writer     // default: standard output
	Log      *slog.Logger  // default: nobody
	Seed     uint64        // of the traffic; default: random, and printed
	Cdcd     string        // path of the program whose node and apply commands are run; default: this program
}

// The demo's traffic. The rate is what a small machine carries besides four PostgreSQL servers, so that the delay shown is
// the product's and not that of a queue in front of a busy machine.
const (
	shards          = 3
	rate            = 400 // transactions a second
	markerEvery     = 25 * time.Millisecond
	abandonEvery    = 200
	inDoubt         = 3 * time.Second
	killAt          = 0.4 // of the duration
	catchUpMax      = 2 * time.Minute
	caughtUpWithin  = 250 * time.Millisecond
	subscription    = "bank"
	target          = "replica"
	durationDefault = 30 * time.Second
)

func (o *Options) setDefaults() error {
	if o.Duration == 0 {
		o.Duration = durationDefault
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.Cdcd == "" {
		path, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		o.Cdcd = path
	}
	return nil
}

// Run runs the demo. It returns nil when the proof holds; then, and on any error, it has removed what it made.
func Run(ctx context.Context, o Options) error {
	if err := o.setDefaults(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d := &demo{Options: o, screen: newScreen(o.Out)}
	err := d.run(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = errors.New("interrupted before the proof")
	} else if err != nil {
		d.screen.line("")
		d.screen.line("%s", d.site.lastWords())
	}
	if err := errors.Join(err, d.site.close()); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

type demo struct {
	Options
	screen *screen
	site   site
	bank   *bank.Bank
	watch  *bank.Watcher

	killed time.Time // when the node was; zero: not yet
}

func (d *demo) run(ctx context.Context) error {
	if err := d.build(ctx); err != nil {
		return err
	}
	if err := d.traffic(ctx); err != nil {
		return err
	}
	difference, err := bank.Compare(ctx, d.site.shardDSNs(), d.site.target.DSN())
	if err != nil {
		return err
	}
	if err := d.prove(difference); err != nil {
		return err
	}
	if d.Keep {
		d.screen.line("%s", d.site.howToPlay(d.Cdcd))
		<-ctx.Done()
	}
	return nil
}

// build makes everything up to a target that has what the bank holds.
func (d *demo) build(ctx context.Context) error {
	d.screen.line("A bank on %d PostgreSQL shards, captured as one stream of whole transactions, replayed on one more server.", shards)
	d.screen.line("")
	if err := d.site.startServers(ctx, d); err != nil {
		return err
	}
	if err := d.site.startNATS(ctx, d); err != nil {
		return err
	}
	d.bank = bank.New(bank.Config{
		Shards: d.site.shardDSNs(), PerSecond: rate, Markers: markerEvery, AbandonEvery: abandonEvery, InDoubt: inDoubt,
		Seed: d.Seed, Log: d.Log,
	})
	d.watch = d.bank.Watch(d.site.target.DSN())
	group, making := errgroup.WithContext(ctx)
	for _, s := range d.site.databases() {
		group.Go(func() error { return bank.CreateTables(making, s.DSN()) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := d.bank.Load(ctx); err != nil {
		return err
	}
	d.screen.step("bank", "%d accounts opened in one transaction across all shards; the target is empty", accounts)
	if err := d.site.subscribe(ctx, d); err != nil {
		return err
	}
	if err := d.site.startPrograms(d); err != nil {
		return err
	}
	copied, err := d.copied(ctx)
	if err != nil {
		return err
	}
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	d.screen.step("copy", "%d rows of %d tables that were there before are on the target now, consistent from csn %s on", copied.Rows, len(copied.Tables), copied.ConsistentFrom)
	return nil
}

// copyEvery is the time between two looks at the initial copy.
const copyEvery = 50 * time.Millisecond

// copied waits until the initial copy is in the stream.
func (d *demo) copied(ctx context.Context) (*control.CopyStatus, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, catchUpMax, fmt.Errorf("the rows that were there before are not copied after %s", catchUpMax))
	defer cancel()
	for {
		st, err := control.AskCapture(ctx, d.site.bus.NC, subscription)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && !errors.Is(err, control.ErrNobody):
			return nil, err
		case err == nil && st.Copy != nil && st.Copy.State == control.CopyDone:
			return st.Copy, nil
		case err == nil && st.Copy != nil && st.Copy.State.Ended():
			return nil, fmt.Errorf("the initial copy: %s %s", st.Copy.State, st.Copy.Error)
		}
		_ = pause.For(ctx, copyEvery) // the next look tells
	}
}

// accounts is the bank's default number.
const accounts = 1000

// traffic runs the bank for the duration, watches the target, and kills the node on the way.
func (d *demo) traffic(ctx context.Context) error {
	d.screen.step("traffic", "%d transactions/s for %s, 40%% of them across shards by two-phase commit; a marker across all shards every %s; seed %d",
		rate, d.Duration, markerEvery, d.Seed)
	group, inner := errgroup.WithContext(ctx)
	watching, stop := context.WithCancel(inner)
	group.Go(func() error {
		defer stop()
		return d.runBank(watching)
	})
	group.Go(func() error { return d.watch.Run(watching) })
	group.Go(func() error { return d.showProgress(watching) })
	group.Go(func() error { return d.killNode(watching) })
	group.Go(func() error { return d.site.guard(watching) })
	err := group.Wait()
	d.screen.end()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// runBank makes traffic for the duration, and waits until the target has shown all of it.
func (d *demo) runBank(ctx context.Context) error {
	running, cancel := context.WithTimeout(ctx, d.Duration)
	defer cancel()
	if err := d.bank.Run(running); err != nil || ctx.Err() != nil {
		return err
	}
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	return d.watch.Last(ctx)
}

// killNode kills the node with SIGKILL once, and starts it again.
func (d *demo) killNode(ctx context.Context) error {
	if pause.For(ctx, time.Duration(killAt*float64(d.Duration))) != nil {
		return nil
	}
	d.killed = time.Now()
	pid, err := d.site.restartNode(d)
	if err != nil {
		return err
	}
	d.screen.step("fault", "kill -9 %d, the node, in the middle of the traffic; started again. It takes over when the dead node's lease ends.", pid)
	return nil
}

// catchUp waits until everything committed so far is on the target.
func (d *demo) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, catchUpMax, fmt.Errorf("the target has not caught up after %s", catchUpMax))
	defer cancel()
	marks, err := await.Marks(ctx, d.site.sub)
	if err != nil {
		return err
	}
	seq, err := await.Published(ctx, d.site.bus, d.site.sub, marks)
	if err != nil {
		return err
	}
	return await.Applied(ctx, d.site.bus, d.site.sub, target, seq)
}
