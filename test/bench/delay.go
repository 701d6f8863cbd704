package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/subscribe"
)

// Delay is what a consumer saw under one steady load of one-row transactions on one shard; the others are idle. It is
// the time from the acknowledgement of a marker's commit on the source until it was visible on the target, or received as
// JSON. The native subscriptions of all shards get the loads that the target got; their synchronous_commit is off, which is
// their default; the target's is on.
type Delay struct {
	Consumer string  `json:"consumer"`
	Shards   int     `json:"shards"`
	Capacity float64 `json:"capacity_per_second"` // with a bounded number on their way; native: the target's
	Part     float64 `json:"part_of_capacity"`
	Rate     float64 `json:"transactions_per_second"` // reached
	Markers  int     `json:"markers"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	P999     float64 `json:"p99.9_ms"`
	Most     float64 `json:"most_ms"`
}

// where says what the delay is to.
func (d *Delay) where() string {
	switch d.Consumer {
	case nativeConsumer:
		return "target of native subscriptions"
	case "JSON":
		return "received as JSON"
	}
	return "target"
}

func (r *Report) delays(out io.Writer) {
	if len(r.Delays) > 0 {
		fmt.Fprintf(out, "\nDelay from the commit's acknowledgement, in ms, of one-row transactions on one of %d shards; the others are idle\n", r.Delays[0].Shards)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "to\tcapacity txn/s\tload\ttxn/s\tmarkers\tp50\tp99\tp99.9\tmost\t")
	for _, d := range r.Delays {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f %%\t%.0f\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t\n", d.where(), d.Capacity, 100*d.Part, d.Rate, d.Markers, d.P50, d.P99, d.P999, d.Most)
	}
	if len(r.Delays) > 0 {
		_ = w.Flush() // to a terminal or a buffer
	}
	if r.Merge != nil {
		r.Merge.write(out)
	}
}

// delayShards are as many as a small cluster has: those without load must not hold the others back.
const delayShards = 3

// A consumer sees what comes out at the end.
type consumer interface {
	// run looks until ctx ends. It calls seen for every marker, in order, each once; their numbers follow each other.
	run(ctx context.Context, seen func(n int64, at time.Time)) error
	// passed is how many transactions have come out.
	passed() int64
	String() string
}

// measureDelays measures all loads for every consumer.
func measureDelays(ctx context.Context, l *lab, o Options) (all []*Delay, err error) {
	capacity := 0.0 // of the target: native subscriptions get the same loads
	for _, open := range []func(context.Context, *lab) (*road, error){openTarget, openNative, openJSON} {
		d, err := delaysOf(ctx, l, o, open, &capacity)
		all = append(all, d...)
		if err != nil {
			return all, fmt.Errorf("delays: %w", err)
		}
	}
	return all, nil
}

// road is everything between the source and a consumer.
type road struct {
	consumer consumer
	source   string   // DSN
	dsns     []string // of the databases on the shards, and the last one on the target
	shards   int
	row      int64 // key of the next one
	marker   int64 // number of the next one
	close    []func() error
}

// Close ends everything, in the reverse order.
func (r *road) Close() (err error) {
	for _, end := range slices.Backward(r.close) {
		err = errors.Join(err, end())
	}
	r.close = nil
	return err
}

// delaysOf measures one road. A capacity that is known already is not measured.
func delaysOf(ctx context.Context, l *lab, o Options, open func(context.Context, *lab) (*road, error), capacity *float64) (all []*Delay, err error) {
	step, cancel := o.limit(ctx)
	defer cancel()
	r, err := open(step, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	name := r.consumer.String()
	if name != nativeConsumer {
		if *capacity, err = r.capacity(ctx, o); err != nil {
			return nil, fmt.Errorf("capacity, %s: %w", name, err)
		}
	}
	for _, part := range o.Loads {
		d, err := r.under(ctx, *capacity*part, o)
		if err != nil {
			return all, fmt.Errorf("%s, %.0f %%: %w", name, 100*part, err)
		}
		d.Capacity, d.Part = *capacity, part
		all = append(all, d)
	}
	return all, nil
}

// makeRoad makes databases on every shard and the target.
func makeRoad(ctx context.Context, l *lab, name string) (*road, error) {
	r := &road{shards: len(l.servers) - 1, row: 1, marker: 1}
	for _, s := range l.servers {
		if err := execute(ctx, s.DSN(), "CREATE DATABASE "+name); err != nil {
			return nil, err
		}
		r.dsns = append(r.dsns, s.DSNFor(name))
		if err := l.makeTables(ctx, workload("a"), s.DSNFor(name), 1); err != nil {
			return nil, err
		}
	}
	r.source = r.dsns[0]
	return r, nil
}

// openTarget is ours to a target.
func openTarget(ctx context.Context, l *lab) (*road, error) {
	r, err := makeRoad(ctx, l, "delay_target")
	if err != nil {
		return nil, err
	}
	target := r.dsns[r.shards]
	s, err := r.openSite(ctx, l, format.Internal, []control.Target{{Name: "target", DSN: target}})
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	worker, err := s.startWorker(ctx, usualWorkers)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.close = append(r.close, worker.Close)
	r.consumer = &targetConsumer{dsn: target, status: s.applied}
	return r, nil
}

// openJSON is ours to the stream, in JSON.
func openJSON(ctx context.Context, l *lab) (*road, error) {
	r, err := makeRoad(ctx, l, "delay_json")
	if err != nil {
		return nil, err
	}
	s, err := r.openSite(ctx, l, format.JSON, nil)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.consumer = &jsonConsumer{js: s.bus.JS, subscription: s.sub.Name}
	return r, nil
}

// openSite starts NATS and a node with a new subscription. Closing drops the subscription: slots keep WAL.
func (r *road) openSite(ctx context.Context, l *lab, name string, targets []control.Target) (*site, error) {
	s, err := openSite(ctx, l)
	if err != nil {
		return nil, err
	}
	r.close = append(r.close, s.Close)
	spec := subscribe.Spec{Name: subscriptionName, Format: format.Format{Name: name}, Targets: targets}
	for i := range r.shards {
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: fmt.Sprint("shard", i), DSN: r.dsns[i]})
	}
	if s.sub, _, err = subscribe.Create(ctx, s.bus, spec); err != nil {
		return nil, err
	}
	r.close = append(r.close, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_, err := subscribe.Drop(ctx, s.bus, s.sub.Name, subscribe.Options{})
		return err
	})
	node, err := s.start(ctx, "node")
	if err != nil {
		return nil, err
	}
	r.close = append(r.close, node.Close)
	return s, nil
}

// openNative is PostgreSQL's own subscriptions, one for each shard, with what they do by default.
func openNative(ctx context.Context, l *lab) (*road, error) {
	r, err := makeRoad(ctx, l, "delay_native")
	if err != nil {
		return nil, err
	}
	target := r.dsns[r.shards]
	for i := range r.shards {
		name := fmt.Sprint("delay_native_", i)
		if err = execute(ctx, r.dsns[i], "CREATE PUBLICATION "+publication+" FOR ALL TABLES"); err == nil {
			err = execute(ctx, target, fmt.Sprintf("CREATE SUBSCRIPTION %s CONNECTION '%s' PUBLICATION %s WITH (copy_data = false)", name, r.dsns[i], publication))
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.close = append(r.close, func() error { return execute(context.WithoutCancel(ctx), target, "DROP SUBSCRIPTION "+name) })
	}
	r.consumer = &targetConsumer{native: true, dsn: target}
	return r, nil
}

// capacity is how many transactions a second come out while a bounded number is on its way.
func (r *road) capacity(ctx context.Context, o Options) (perSecond float64, err error) {
	ctx, cancel := o.limit(ctx)
	defer cancel()
	d := o.DelayTime
	l := &load{dsn: r.source, first: r.row, passed: r.consumer.passed}
	group, inner := errgroup.WithContext(ctx)
	inner, stop := context.WithCancel(inner)
	group.Go(func() error { return r.consumer.run(inner, func(int64, time.Time) {}) })
	group.Go(func() error { return l.run(inner) })
	group.Go(func() error {
		defer stop()
		if err := every(inner, askEvery, "something comes out", func() (bool, error) { return r.consumer.passed() > 0, nil }); err != nil {
			return err
		}
		if err := await(inner, min(rampUp, d)); err != nil {
			return err
		}
		from, began := r.consumer.passed(), time.Now()
		if err := await(inner, d); err != nil {
			return err
		}
		if err := every(inner, askEvery, "something more comes out", func() (bool, error) { return r.consumer.passed() > from, nil }); err != nil {
			return err
		}
		perSecond = float64(r.consumer.passed()-from) / time.Since(began).Seconds()
		return nil
	})
	err = group.Wait()
	r.row = l.highest.Load() + 1
	return perSecond, err
}

// under measures with a load.
func (r *road) under(ctx context.Context, rate float64, o Options) (*Delay, error) {
	ctx, cancel := o.limit(ctx)
	defer cancel()
	d := o.DelayTime
	n := int(d.Seconds() * markersPerSec)
	l := &load{dsn: r.source, first: r.row, rate: rate}
	m := &markers{dsn: r.source, first: r.marker}
	var seen []time.Time
	var reached float64
	group, inner := errgroup.WithContext(ctx)
	looking, stopLooking := context.WithCancel(inner)
	loading, stopLoading := context.WithCancel(inner)
	group.Go(func() error {
		return r.consumer.run(looking, func(_ int64, at time.Time) {
			if seen = append(seen, at); len(seen) == n {
				stopLooking()
			}
		})
	})
	group.Go(func() error { return l.run(loading) })
	group.Go(func() error {
		defer stopLoading()
		if err := await(inner, min(rampUp, d)); err != nil {
			return err
		}
		from, began := l.written.Load(), time.Now()
		if err := m.run(inner, n); err != nil {
			return err
		}
		reached = float64(l.written.Load()-from) / time.Since(began).Seconds()
		return nil
	})
	err := group.Wait()
	stopLooking()
	stopLoading()
	r.row, r.marker = l.highest.Load()+1, r.marker+int64(n)
	if err != nil {
		return nil, err
	}
	if len(seen) != n {
		return nil, fmt.Errorf("%d of %d markers came out", len(seen), n)
	}
	delay := &Delay{Consumer: r.consumer.String(), Shards: r.shards, Rate: reached, Markers: n}
	delay.conclude(m.acked, seen)
	return delay, nil
}

// conclude: a marker may be seen before its own client is told of the commit.
func (d *Delay) conclude(acked, seen []time.Time) {
	var all []float64
	for i := range seen {
		all = append(all, max(0, millis(seen[i].Sub(acked[i]))))
	}
	slices.Sort(all)
	d.P50, d.P99, d.P999, d.Most = quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999), quantile(all, 1)
}

// await lets time pass: the load is on.
func await(ctx context.Context, d time.Duration) error {
	if pause.For(ctx, d) != nil {
		return context.Cause(ctx)
	}
	return nil
}
