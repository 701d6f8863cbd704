package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
)

// Times after which a dead process's work is taken over. A NATS cluster's elections block renewals for 5 to 8 seconds.
const (
	DefaultLeaseTTL = 3 * time.Second
	ClusterLeaseTTL = 12 * time.Second
)

// defaultLeaseTTL looks at what the process is connected to.
func defaultLeaseTTL(bus *control.Bus) time.Duration {
	if bus.Replicas > 1 || bus.NC.ConnectedClusterName() != "" {
		return ClusterLeaseTTL
	}
	return DefaultLeaseTTL
}

const (
	acquireEvery = 250 * time.Millisecond
	releaseMax   = 2 * time.Second
	recordMax    = 2 * time.Second // for one try to write into the history
)

// process is the part of a Node or Worker that has to do with the others: it gets leases, says so to who asks
// (cdcctl nodes), and writes into the history.
type process struct {
	bus      *control.Bus
	catalog  *control.Catalog
	leases   *control.Leases
	history  *control.History
	spillDir string // with a folder for each subscription

	mu   sync.Mutex
	self control.Process // without Work
	work map[string]control.Work
}

func newProcess(ctx context.Context, bus *control.Bus, name, role string, ttl time.Duration, spillDir string) (*process, error) {
	if ttl == 0 {
		ttl = defaultLeaseTTL(bus)
	}
	if spillDir == "" {
		spillDir = DefaultSpillDir()
	}
	if err := checkSpillDir(spillDir); err != nil {
		return nil, err
	}
	if err := checkName(ctx, bus, name, role); err != nil {
		return nil, err
	}
	catalog, err := control.OpenCatalog(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return nil, err
	}
	leases, err := control.OpenLeases(ctx, bus.JS, bus.Replicas, ttl)
	if err != nil {
		return nil, err
	}
	history, err := control.OpenHistory(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &process{
		bus: bus, catalog: catalog, leases: leases, history: history, spillDir: spillDir, work: map[string]control.Work{},
		self: control.Process{Name: name, Role: role, Since: time.Now().UTC(), Version: control.Version(), Host: host, PID: os.Getpid()},
	}, nil
}

// status is what the process says about itself.
func (p *process) status() control.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.self
	out.Work = []control.Work{}
	for _, w := range p.work {
		out.Work = append(out.Work, w)
	}
	control.SortWork(out.Work)
	return out
}

// duty is what one lease is for.
type duty struct {
	subscription *control.Subscription
	target       string // empty: to capture
}

func (d duty) key() string {
	if d.target == "" {
		return control.CaptureLease(d.subscription.Name)
	}
	return control.ApplyLease(d.subscription.Name, d.target)
}

// note remembers whether the duty is done here, or stood by for.
func (p *process) note(d duty, running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.work[d.key()] = control.Work{Subscription: d.subscription.Name, Target: d.target, Running: running, Since: time.Now().UTC()}
}

func (p *process) forget(d duty) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.work, d.key())
}

// whileLeased runs the work whenever this process has the lease of the duty, until ctx ends. The lease is given back
// when work returns: because ctx ended, or because of the error.
func (p *process) whileLeased(ctx context.Context, d duty, log *slog.Logger, work func(context.Context) error) {
	p.note(d, false)
	defer p.forget(d)
	for ctx.Err() == nil {
		lease, err := p.leases.Acquire(ctx, d.key(), control.Owner{Node: p.self.Name, Since: time.Now().UTC(), Incarnation: d.subscription.Incarnation})
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot get the lease", "error", err)
		}
		if lease == nil {
			_ = pause.For(ctx, acquireEvery)
			continue
		}
		log.Info("has the lease", "from", lease.Owner.From, "why", lease.Owner.Why)
		p.note(d, true)
		p.leased(ctx, lease, d, log, work)
		p.note(d, false)
		_ = pause.For(ctx, acquireEvery) // others may have it first
	}
}

func (p *process) leased(ctx context.Context, lease *control.Lease, d duty, log *slog.Logger, work func(context.Context) error) {
	var recording sync.WaitGroup
	recording.Go(func() { p.recordMove(lease, d, log) })
	err := work(lease.Context)
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseMax)
	defer cancel()
	if err := lease.HandOver(release, leaving(ctx, err)); err != nil && ctx.Err() == nil {
		log.Warn("cannot release the lease; it ends by itself", "error", err)
	}
	recording.Wait()
}

// stopReason is why the work for a subscription ends while the process goes on.
type stopReason string

func (r stopReason) Error() string { return string(r) }

// leaving says why a lease is given back.
func leaving(ctx context.Context, err error) string {
	var reason stopReason
	switch {
	case errors.As(context.Cause(ctx), &reason):
		return "handed over: " + string(reason)
	case ctx.Err() != nil:
		return "handed over: clean stop"
	case err != nil:
		return "released after error: " + err.Error()
	}
	return "given back"
}

// recordMove writes into the history how the lease came here. It tries again until the lease ends: the next holder may
// have to look there who held it.
func (p *process) recordMove(lease *control.Lease, d duty, log *slog.Logger) {
	o := lease.Owner
	e := control.Event{
		At: o.Since, Subscription: d.subscription.Name, Incarnation: d.subscription.Incarnation, Kind: control.CaptureMoved,
		By: o.Node, Target: d.target, From: o.From, To: o.Node, Why: o.Why,
	}
	if d.target != "" {
		e.Kind = control.ApplyMoved
	}
	for {
		err := p.write(lease.Context, e, p.history.Record)
		if err == nil || lease.Context.Err() != nil {
			return
		}
		log.Warn("cannot write into the history; trying again", "error", err)
		_ = pause.For(lease.Context, time.Second)
	}
}

// stopped writes into the history that a person is needed; csn is the transaction that a target refuses, if it is one.
func (p *process) stopped(ctx context.Context, d duty, csn pipeline.CSN, why string, log *slog.Logger) {
	e := control.Event{
		At: time.Now().UTC(), Subscription: d.subscription.Name, Incarnation: d.subscription.Incarnation, Kind: control.CaptureStopped,
		By: p.self.Name, Target: d.target, CSN: csn, Why: why,
	}
	if d.target != "" {
		e.Kind = control.ApplyStopped
	}
	if err := p.write(ctx, e, p.history.RecordStop); err != nil && ctx.Err() == nil {
		log.Warn("cannot write into the history", "error", err)
	}
}

// write is tried once. It does not end with ctx in the middle: a process that stops has done what it records.
func (p *process) write(ctx context.Context, e control.Event, record func(context.Context, control.Event) error) error {
	writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordMax)
	defer cancel()
	if err := record(writing, e); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// announce answers who takes part until the returned function is called.
func (p *process) announce() (stop func(), err error) {
	return control.ServeProcess(p.bus.NC, p.status)
}
