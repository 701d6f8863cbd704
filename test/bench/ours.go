package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/wire"
)

// captureOnly is dumpers and joiner in a process of their own; nothing is published.
type captureOnly struct{ withoutJoin bool }

func (c *captureOnly) Name() string {
	if c.withoutJoin {
		return "dumpers"
	}
	return "capture"
}

func (*captureOnly) Reads() Backing { return TwoPhaseSlot }

func (c *captureOnly) Drain(ctx context.Context, b *Backlog, slot string) (d Drain, err error) {
	dir, err := b.lab.folder()
	if err != nil {
		return d, err
	}
	conf, err := b.captureConfig(ctx, slot)
	if err != nil {
		return d, err
	}
	conf.WithoutJoin, conf.Expected = c.withoutJoin, b.Expected
	p, err := startChild(ctx, "capture", Config{Dir: dir, Capture: conf})
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, p.Close(), os.RemoveAll(dir)) }()
	watching := watchSenders(ctx, b, slot)
	a, err := p.Ask(ctx, "start")
	var sameErr error
	if err == nil {
		sameErr = watching.same(ctx, b, slot)
	}
	began, sent, watchErr := watching.stop()
	if err := errors.Join(err, sameErr, watchErr); err != nil {
		return d, err
	}
	d = between(began, a.Done)
	d.Count = a.Count
	d.Processes["walsender"], d.Processes[c.Name()] = sent, a.Usage
	if c.withoutJoin { // It counts fragments.
		a.Count.Transactions = b.Expected.Transactions
	}
	return d, b.counted(a.Count)
}

func (b *Backlog) captureConfig(ctx context.Context, slot string) (conf CaptureConfig, err error) {
	conf.Publication = publication
	for i := range b.Shards {
		start, err := b.slotStart(ctx, i, slot)
		if err != nil {
			return conf, err
		}
		conf.Shards = append(conf.Shards, CaptureShard{DSN: b.dsn(i), Slot: slot, Start: start})
	}
	return conf, nil
}

// site is NATS, and a subscription whose slots hold the backlog.
type site struct {
	dir  string
	nats *childProcess
	bus  *control.Bus
	sub  *control.Subscription
	node *childProcess
	keep bool // the folder stays: else a long run fills the disk
}

func openSite(ctx context.Context, l *lab) (*site, error) {
	dir, err := l.folder()
	if err != nil {
		return nil, err
	}
	return startSite(ctx, dir)
}

// startSite starts NATS in a folder.
func startSite(ctx context.Context, dir string) (s *site, err error) {
	s = &site{dir: dir}
	if s.nats, err = startChild(ctx, "nats", Config{Dir: s.dir}); err != nil {
		return nil, err
	}
	if s.bus, err = control.Connect(ctx, control.Connection{URL: s.nats.URL, Name: "bench", Replicas: 1}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// subscriptionName is what every subscription of ours is called.
const subscriptionName = "bench"

// subscribe makes the subscription of a given slot.
func (s *site) subscribe(ctx context.Context, b *Backlog, slot, name, target string) (err error) {
	spec := subscribe.Spec{Name: subscriptionName, Publications: []string{publication}, Slot: slot, Format: format.Format{Name: name}}
	for i := range b.Shards {
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: fmt.Sprint("shard", i), DSN: b.dsn(i)})
	}
	if target != "" {
		spec.Targets = []control.Target{{Name: "target", DSN: target}}
	}
	s.sub, _, err = subscribe.Create(ctx, s.bus, spec)
	return err
}

// start starts a node or an apply worker.
func (s *site) start(ctx context.Context, role string) (*childProcess, error) {
	return startChild(ctx, role, Config{Dir: s.dir, NATS: s.nats.URL, Name: role})
}

// startWorker starts an apply worker with so many sessions.
func (s *site) startWorker(ctx context.Context, workers int) (*childProcess, error) {
	return startChild(ctx, "apply", Config{Dir: s.dir, NATS: s.nats.URL, Name: "apply", Workers: workers})
}

// published waits until so much is durable in the stream. Node and server are seldom asked before it is nearly so: to answer
// costs them something.
func (s *site) published(ctx context.Context, want Count) (c Count, err error) {
	ask := func(part int64) func() (bool, error) {
		return func() (bool, error) {
			st, err := control.AskCapture(ctx, s.bus.NC, s.sub.Name)
			if errors.Is(err, control.ErrNobody) {
				return false, nil
			}
			if err == nil && st.Error != "" {
				err = fmt.Errorf("the node stopped: %s", st.Error)
			}
			c = Count{Transactions: int64(st.Transactions), Rows: int64(st.Changes)}
			return c.Rows >= want.Rows*part/100, err
		}
	}
	if err = every(ctx, sampleEvery, "most of the backlog is in the stream", ask(90)); err == nil {
		err = every(ctx, askEvery, "the backlog is in the stream", ask(100))
	}
	if err != nil {
		err = fmt.Errorf("%w (%d of %d rows are)", err, c.Rows, want.Rows)
	}
	return c, err
}

func (s *site) Close() (err error) {
	if s.node != nil {
		err = s.node.Close()
	}
	if s.bus != nil {
		s.bus.Close()
	}
	s.node, s.bus = nil, nil
	err = errors.Join(err, s.nats.Close())
	if !s.keep {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// durable is a node, and a NATS server that syncs before it acknowledges.
type durable struct{ format string }

func (d *durable) Name() string { return "durable " + d.format }

func (*durable) Reads() Backing { return TwoPhaseSlot }

func (d *durable) Drain(ctx context.Context, b *Backlog, slot string) (out Drain, err error) {
	s, err := openSite(ctx, b.lab)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.subscribe(ctx, b, slot, d.format, ""); err != nil {
		return out, err
	}
	out, err = s.fill(ctx, b, slot)
	if err == nil && d.format == format.JSON {
		err = s.messages(ctx, b.Expected.Transactions)
	}
	return out, err
}

// fill lets a node publish the whole backlog.
func (s *site) fill(ctx context.Context, b *Backlog, slot string) (out Drain, err error) {
	watching := watchSenders(ctx, b, slot)
	var c Count
	var ended time.Time
	if s.node, err = s.start(ctx, "node"); err == nil {
		c, err = s.published(ctx, b.Expected)
		ended = time.Now()
	}
	processes, usageErr := s.processes(ctx, map[string]*childProcess{"node": s.node, "nats": s.nats})
	if err == nil {
		err = watching.same(ctx, b, slot)
	}
	began, sent, watchErr := watching.stop()
	if err := errors.Join(err, usageErr, watchErr); err != nil {
		return out, err
	}
	out = between(began, ended)
	out.Count, out.Processes = c, processes
	out.Processes["walsender"] = sent
	return out, b.counted(c)
}

// processes asks each what it took.
func (s *site) processes(ctx context.Context, children map[string]*childProcess) (map[string]Usage, error) {
	all := map[string]Usage{}
	var errs []error
	for name, p := range children {
		if p == nil {
			continue
		}
		u, err := p.usage(ctx)
		all[name] = u
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// messages reads a JSON stream: each transaction once, with rising CSN, and whole.
func (s *site) messages(ctx context.Context, want int64) error {
	consumer, err := s.bus.JS.OrderedConsumer(ctx, wire.StreamName(s.sub.Name), jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{wire.Subject(s.sub.Name)}, HeadersOnly: true,
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	last, got := uint64(0), int64(0)
	for got < want {
		m, err := messages.Next()
		if err != nil {
			return errors.Join(fmt.Errorf("read the stream after %d of %d transactions: %w", got, want, err), context.Cause(ctx))
		}
		if part := m.Headers().Get(wire.HeaderPart); part != "" {
			if k, n, err := wire.ParsePart(part); err != nil {
				return err
			} else if k < n {
				continue
			}
		}
		csn, err := strconv.ParseUint(m.Headers().Get(wire.HeaderCSN), 10, 64)
		if err != nil || csn <= last {
			return fmt.Errorf("csn %d is followed by %q in the stream (%v)", last, m.Headers().Get(wire.HeaderCSN), err)
		}
		last = csn
		got++
	}
	meta, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	if meta.NumPending > 0 {
		return fmt.Errorf("the stream holds more than %d transactions: %d messages are left", want, meta.NumPending)
	}
	return nil
}
