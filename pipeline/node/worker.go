package node

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"sync"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/spill"
)

// Worker replays subscriptions on their targets.
type Worker struct {
	*process
	conf  WorkerConfig
	skips *control.Skips
}

// WorkerConfig of a Worker.
type WorkerConfig struct {
	Name string // of the process
	// Subscription, if set, is the only one replayed, on Target (a DSN) if that is set; else every subscription on
	// every target that the catalog names.
	Subscription, Target string
	LeaseTTL             time.Duration // after this time another process takes over from a dead one; 0: 3 s, or 12 s with a NATS cluster
	RetryMax             time.Duration // longest pause after a failure; 0: 10 s
	SpillDir             string        // large rows are kept here until they are applied; empty: DefaultSpillDir()
	MovesMax             int           // see postgres.Config; 0: its default
	ApplyWorkers         int           // see apply.Config.Workers; 0: its default
	Observer             apply.Observer
	Log                  *slog.Logger
}

// NewWorker makes a Worker. Run starts it.
func NewWorker(ctx context.Context, bus *control.Bus, c WorkerConfig) (*Worker, error) {
	if c.RetryMax == 0 {
		c.RetryMax = 10 * time.Second
	}
	process, err := newProcess(ctx, bus, c.Name, control.RoleApply, c.LeaseTTL, c.SpillDir)
	if err != nil {
		return nil, err
	}
	skips, err := control.OpenSkips(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return nil, err
	}
	return &Worker{process: process, conf: c, skips: skips}, nil
}

// Run replays until ctx ends.
func (w *Worker) Run(ctx context.Context) error {
	stop, err := w.announce()
	if err != nil {
		return err
	}
	defer stop()
	return supervise(ctx, w.catalog, w.conf.Log, func(e control.Entry) []job {
		if w.conf.Subscription != "" && w.conf.Subscription != e.Name {
			return nil
		}
		targets := e.Targets
		if w.conf.Target != "" {
			name := fmt.Sprintf("given_%08x", crc32.ChecksumIEEE([]byte(w.conf.Target)))
			targets = []control.Target{{Name: name, DSN: w.conf.Target}}
		}
		var jobs []job
		for _, t := range targets {
			log := w.conf.Log.With("subscription", e.Name, "target", t.Name)
			jobs = append(jobs, func(ctx context.Context) {
				w.whileLeased(ctx, duty{e.Subscription, t.Name}, log, func(ctx context.Context) error { return w.replay(ctx, e.Subscription, t, log) })
			})
		}
		return jobs
	})
}

// replay runs apply workers one after the other, with pauses after fatal errors: these need a person, and are
// shown meanwhile.
func (w *Worker) replay(ctx context.Context, sub *control.Subscription, t control.Target, log *slog.Logger) error {
	r := &replayer{Worker: w, sub: sub, target: t, log: log}
	stop, err := control.ServeApply(w.bus.NC, sub.Name, t.Name, r.status)
	if err != nil {
		log.Error("cannot serve status", "error", err)
		return err
	}
	defer stop()
	stopLog, err := control.ServeApplied(w.bus.NC, sub.Name, t.Name, &r.applied)
	if err != nil {
		log.Error("cannot serve what was applied when", "error", err)
		return err
	}
	defer stopLog()
	delay := 200 * time.Millisecond
	for ctx.Err() == nil {
		started := time.Now()
		err := r.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > w.conf.RetryMax {
			delay = 200 * time.Millisecond // it worked meanwhile
		}
		log.Error("apply stopped", "error", err, "retry_in", delay)
		if r.failed(err) {
			w.stopped(ctx, duty{sub, t.Name}, 0, err.Error(), log)
		}
		_ = pause.For(ctx, delay)
		delay = min(delay*2, w.conf.RetryMax)
	}
	return nil
}

// replayer is one subscription on one target.
type replayer struct {
	*Worker
	sub    *control.Subscription
	target control.Target
	log    *slog.Logger

	mu      sync.Mutex
	worker  *apply.Worker // the present one, or the last
	err     error         // why the last one stopped, until the next one works
	since   time.Time
	secrets string // the expanded DSN: errors are scrubbed of its passwords

	replaying replaying
	applied   control.AppliedLog

	last *refusal // the history has it; only the worker looks
}

// refusal is what a target does not take.
type refusal struct {
	csn   pipeline.CSN
	after pipeline.CSN // when it is not one transaction's fault: where the target is
}

// refused says that the target does not take something, for the first time. Only the worker calls it.
func (r *replayer) refused(s apply.Status) bool {
	if s.State != apply.Stuck {
		return false
	}
	what := &refusal{csn: s.Blocked.CSN}
	if what.csn == 0 {
		what.after = s.Applied.CSN
	}
	news := r.last == nil || *what != *r.last
	r.last = what
	return news
}

// failed notes a fatal error; news says that the worker before had none.
func (r *replayer) failed(err error) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if news = r.err == nil; news {
		r.since = time.Now()
	}
	r.err = err
	return news
}

func (r *replayer) status() control.ApplyStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := control.ApplyStatus{Subscription: r.sub.Name, Target: r.target.Name, Node: r.conf.Name, State: string(apply.Connecting), Since: r.since}
	if r.worker != nil {
		s := r.worker.Status()
		out.State, out.Error = string(s.State), dsn.Scrub(s.Err, r.secrets)
		out.AppliedCSN, out.AppliedSeq, out.Watermark = s.Applied.CSN, s.Applied.Seq, s.Watermark
		out.LagSeconds, out.Transactions, out.Changes = s.Lag.Seconds(), s.Transactions, s.Rows
		if s.State == apply.Stuck {
			out.Blocked = &control.BlockedAt{CSN: s.Blocked.CSN, Table: s.Blocked.Table, Row: s.Blocked.Row}
		}
		out.Waiting = s.Waiting
		out.Copying, out.ConsistentFrom = s.Copying, s.ConsistentFrom
		for _, d := range s.Statements {
			waits := control.DDLWaiting{CSN: d.CSN, Statement: d.Text, Here: d.Here}
			for _, shard := range d.Shards {
				waits.Shards = append(waits.Shards, r.sub.Shards[shard].Name)
			}
			out.DDLWaiting = append(out.DDLWaiting, waits)
		}
		out.Replay = r.replaying.look(s.StartSeq, s.Applied.Seq, s.StreamSeq)
		if l := s.Large; l != (apply.Large{}) {
			out.Large = &control.Large{CSN: l.CSN, Spooling: l.Spooling, Rows: l.Rows, RowsTotal: l.RowsTotal, Bytes: l.Bytes, BytesTotal: l.BytesTotal}
		}
		if !s.ErrSince.IsZero() {
			out.Since = s.ErrSince
		}
	}
	if r.err != nil && out.Error == "" {
		out.State, out.Error = string(apply.Stopped), dsn.Scrub(r.err.Error(), r.secrets)
	}
	return out
}

// once runs a worker until ctx ends or a fatal error.
func (r *replayer) once(ctx context.Context) (err error) {
	expanded, err := dsn.Expand(r.target.DSN, os.LookupEnv)
	if err != nil {
		return err
	}
	target, err := r.openTarget(expanded)
	if err != nil {
		return errors.New(dsn.Scrub(err.Error(), expanded))
	}
	var recording sync.WaitGroup
	defer recording.Wait()
	observer := r.remembering(r.conf.Observer)
	seen := observer.OnState
	observer.OnState = func(s apply.Status) {
		if r.refused(s) {
			recording.Go(func() {
				r.stopped(ctx, duty{r.sub, r.target.Name}, s.Blocked.CSN, dsn.Scrub(s.Err, expanded), r.log)
			})
		}
		if s.Err != "" {
			r.log.Error("apply cannot go on", "state", s.State, "error", dsn.Scrub(s.Err, expanded))
		} else {
			r.recovered()
		}
		if seen != nil {
			seen(s)
		}
	}
	folder, err := spill.Open(r.spillDir, "apply-"+r.sub.Name+"-"+r.target.Name, r.sub.SpillBytesMax)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	worker := apply.New(apply.Config{
		Subscription: r.sub.Name, Target: target, Source: apply.NewStream(r.bus.JS, r.sub.Name), Observer: observer, Skips: r.leaveOut,
		Workers: r.conf.ApplyWorkers,
		Spill:   func() (apply.SpillFile, error) { return folder.Create(nil) },
	})
	r.mu.Lock()
	r.worker, r.secrets = worker, expanded
	r.mu.Unlock()
	if err := worker.Run(ctx); err != nil {
		return errors.New(dsn.Scrub(err.Error(), expanded))
	}
	return nil
}

// remembering is an observer that also notes what was applied when.
func (r *replayer) remembering(o apply.Observer) apply.Observer {
	seen := o.OnApplied
	o.OnApplied = func(a apply.Applied) {
		for _, u := range a.Units {
			if u.Unit != nil {
				r.applied.Begin(u.Previous)
				break
			}
		}
		r.applied.Add(control.AppliedAt{CSN: a.Progress.CSN, At: a.CommittedAt.UTC().Truncate(time.Microsecond)})
		if seen != nil {
			seen(a)
		}
	}
	return o
}

// leaveOut lists what people want to be left out on the target.
func (r *replayer) leaveOut(ctx context.Context) ([]apply.Skip, error) {
	ordered, err := r.skips.List(ctx, r.sub.Name, r.target.Name)
	if err != nil {
		return nil, err
	}
	list := make([]apply.Skip, len(ordered))
	for i, k := range ordered {
		list[i] = apply.Skip(k)
	}
	return list, nil
}

// recovered forgets the error of the worker before.
func (r *replayer) recovered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.since = nil, time.Now()
}
