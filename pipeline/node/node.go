package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"shardcdc/output/jetstream"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/pause"
)

// Config of a Node.
type Config struct {
	Name          string        // shown in status, unique among the processes
	Durability    Durability    // of the NATS server's acknowledgements
	LeaseTTL      time.Duration // after this time another node takes over from a dead one; 0: 3 s, or 12 s with a NATS cluster
	ProbeInterval time.Duration // shortest time between two probes of a shard; 0: the dumper's default
	NoNudge       bool          // never write a logical message to a shard, whatever waits
	Heartbeat     time.Duration // a checkpoint is published when positions moved and nothing was published for so long; 0: 10 s
	TrimEvery     time.Duration // time between two looks at what the stream need not keep; 0: 1 min
	NewTables     time.Duration // time between two looks for tables that match and are not captured; 0: 10 s
	RetryMin      time.Duration // first pause after a failure; 0: 200 ms
	RetryMax      time.Duration // 0: 10 s
	SpillDir      string        // large transactions are kept here until they are published; empty: DefaultSpillDir()
	Log           *slog.Logger

	copying copying.Config // what tests want to be different
}

// DefaultSpillDir is a folder of this user in the system's temporary one.
func DefaultSpillDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("shardcdc-spill-%d", os.Getuid()))
}

// Node runs subscriptions that it has the lease of.
type Node struct {
	*process
	conf   Config
	copies *control.Copies
}

// New makes a Node. Run starts it.
func New(ctx context.Context, bus *control.Bus, c Config) (*Node, error) {
	if c.RetryMin == 0 {
		c.RetryMin = 200 * time.Millisecond
	}
	if c.RetryMax == 0 {
		c.RetryMax = 10 * time.Second
	}
	if c.TrimEvery == 0 {
		c.TrimEvery = time.Minute
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 10 * time.Second
	}
	if err := c.settleDurability(ctx, bus); err != nil {
		return nil, err
	}
	process, err := newProcess(ctx, bus, c.Name, control.RoleCapture, c.LeaseTTL, c.SpillDir)
	if err != nil {
		return nil, err
	}
	copies, err := control.OpenCopies(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return nil, err
	}
	return &Node{process: process, conf: c, copies: copies}, nil
}

// settleDurability finds out what acknowledgements are worth, if the operator did not say.
func (c *Config) settleDurability(ctx context.Context, bus *control.Bus) error {
	if c.Durability != AskServer {
		return nil
	}
	d, err := bus.Durability(ctx)
	switch {
	case err != nil:
		return err
	case d.Known && d.Always:
		c.Durability = DurableAcks
	case d.Known:
		return fmt.Errorf("the NATS server acknowledges before it syncs (every %s): a power failure may take acknowledged transactions. "+
			"Try: jetstream { sync_interval: always } in its configuration; or --nats-durability lazy, and the shards keep %s more of WAL", d.Interval, lazyDelay)
	default:
		c.Durability = LazyAcks
		c.Log.Warn("the NATS server does not tell whether it syncs before it acknowledges, so positions are confirmed to the shards late. "+
			"Try: jetstream { sync_interval: always } in its configuration, then --nats-durability always", "delay", lazyDelay)
	}
	return nil
}

// Run runs every active subscription until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	stop, err := n.announce()
	if err != nil {
		return err
	}
	defer stop()
	return supervise(ctx, n.catalog, n.conf.Log, func(e control.Entry) []job {
		if e.Imported {
			return nil
		}
		log := n.conf.Log.With("subscription", e.Name)
		return []job{func(ctx context.Context) {
			n.whileLeased(ctx, duty{subscription: e.Subscription}, log, func(ctx context.Context) error { return n.captureWhile(ctx, e.Subscription, log) })
		}}
	})
}

// captureWhile captures, with pauses after errors, until the lease ends. An error is why it gives up before.
func (n *Node) captureWhile(ctx context.Context, sub *control.Subscription, log *slog.Logger) error {
	report := newCaptureReport(n, sub)
	stop, err := control.ServeCapture(n.bus.NC, sub.Name, report.status)
	if err != nil {
		log.Error("cannot serve status", "error", err)
		return err
	}
	defer stop()
	delay := n.conf.RetryMin
	for ctx.Err() == nil {
		started := time.Now()
		err := (&capture{node: n, sub: sub, report: report}).run(ctx)
		if ctx.Err() != nil {
			log.Info("capture ended", "cause", context.Cause(ctx))
			return nil
		}
		if errors.Is(err, jetstream.ErrFenced) {
			// Whoever did that has the lease, or we get it again. To take the stream back without asking would throw out
			// its rightful writer.
			log.Warn("capture ended; the lease is given back", "cause", err)
			return err
		}
		if time.Since(started) > n.conf.RetryMax {
			delay = n.conf.RetryMin
		}
		log.Error("capture failed", "error", err, "retry_in", delay)
		if report.failed(err) {
			n.stopped(ctx, duty{subscription: sub}, 0, err.Error(), log)
		}
		_ = pause.For(ctx, delay)
		delay = min(delay*2, n.conf.RetryMax)
	}
	return nil
}

// job is something that runs while its subscription is active and unchanged.
type job func(context.Context)

// supervise keeps the jobs of all active subscriptions running, as the catalog changes, until ctx ends.
func supervise(ctx context.Context, catalog *control.Catalog, log *slog.Logger, jobs func(control.Entry) []job) error {
	s := &supervisor{log: log, jobs: jobs, running: map[string]*running{}}
	defer s.stopAll()
	for {
		err := catalog.Watch(ctx, func() error {
			entries, err := catalog.List(ctx)
			if err != nil {
				return err
			}
			s.adjust(ctx, entries)
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("cannot follow the catalog; trying again", "error", err)
		_ = pause.For(ctx, time.Second)
	}
}

type supervisor struct {
	log     *slog.Logger
	jobs    func(control.Entry) []job
	running map[string]*running
}

type running struct {
	revision uint64
	cancel   context.CancelCauseFunc
	done     sync.WaitGroup
}

// adjust stops what is not wanted any more, or was changed, and starts what is missing.
func (s *supervisor) adjust(ctx context.Context, entries []control.Entry) {
	wanted, states := map[string]control.Entry{}, map[string]control.State{}
	for _, e := range entries {
		states[e.Name] = e.State
		if e.State == control.Active {
			wanted[e.Name] = e
		}
	}
	for name, r := range s.running {
		if e, ok := wanted[name]; !ok || e.Revision != r.revision {
			why := stopping(states[name])
			s.log.Info("subscription stops or changes", "subscription", name, "why", why)
			r.cancel(why)
			r.done.Wait()
			delete(s.running, name)
		}
	}
	for name, e := range wanted {
		if s.running[name] != nil {
			continue
		}
		jobCtx, cancel := context.WithCancelCause(ctx)
		r := &running{revision: e.Revision, cancel: cancel}
		for _, j := range s.jobs(e) {
			r.done.Go(func() { j(jobCtx) })
		}
		s.running[name] = r
	}
}

// stopping says what became of a subscription whose jobs have to stop, by the state that it has now.
func stopping(now control.State) stopReason {
	switch now {
	case control.Active:
		return "the subscription was changed"
	case control.Paused:
		return "the subscription was paused"
	}
	return "the subscription is dropped"
}

func (s *supervisor) stopAll() {
	for _, r := range s.running {
		r.cancel(nil)
	}
	for _, r := range s.running {
		r.done.Wait()
	}
}
