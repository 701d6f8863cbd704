package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/subscribe"
)

// Delay is what a consumer saw under one steady load of one-row transactions on one shard; the others are idle. It is
// the time from the acknowledgement of a marker's commit on the source until it was visible on the target, or received as
// JSON.
type Delay struct {
	Consumer string  `json:"consumer"`
	Shards   int     `json:"shards"`
	Capacity float64 `json:"capacity_per_second"` // with a bounded number on their way
	Part     float64 `json:"part_of_capacity"`
	Rate     float64 `json:"transactions_per_second"` // reached
	Markers  int     `json:"markers"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	P999     float64 `json:"p99.9_ms"`
	Most     float64 `json:"most_ms"`
}

func (d *Delay) table(out io.Writer) {
	fmt.Fprintf(out, "delay until %-9s %3.0f %% of %.0f transactions/s (%.0f reached), %d markers: p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, most %.2f ms\n",
		d.Consumer, 100*d.Part, d.Capacity, d.Rate, d.Markers, d.P50, d.P99, d.P999, d.Most)
}

var parts = []float64{0.1, 0.5, 0.9}

// delayShards are as many as a small cluster has: those without load must not hold the others back.
const delayShards = 3

// A consumer sees what comes out at the end.
type consumer interface {
	// run looks until ctx ends. It calls seen for every marker, in order, each once; their numbers follow each other.
	run(ctx context.Context, seen func(n int64, at time.Time)) error
	// passed is how many transactions have come out.
	passed() int64
}

// measureDelays measures all loads for both consumers.
func measureDelays(ctx context.Context, l *lab, o Options, out io.Writer) (all []*Delay, err error) {
	for _, format := range []string{control.FormatInternal, control.FormatJSON} {
		d, err := delaysOf(ctx, l, o, format, out)
		all = append(all, d...)
		if err != nil {
			return all, fmt.Errorf("delays, %s: %w", format, err)
		}
	}
	return all, nil
}

// road is everything between the source and a consumer.
type road struct {
	*site
	worker   *childProcess // nil: JSON
	consumer consumer
	source   string
	shards   int
	row      int64 // key of the next one
	marker   int64 // number of the next one
}

func delaysOf(ctx context.Context, l *lab, o Options, format string, out io.Writer) (all []*Delay, err error) {
	r, err := openRoad(ctx, l, format)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	capacity, err := r.capacity(ctx, o.DelayTime)
	if err != nil {
		return nil, fmt.Errorf("capacity: %w", err)
	}
	for _, part := range parts {
		d, err := r.under(ctx, capacity*part, o.DelayTime)
		if err != nil {
			return all, err
		}
		d.Capacity, d.Part = capacity, part
		d.table(out)
		all = append(all, d)
	}
	return all, nil
}

// openRoad makes databases on every shard and the target, and starts everything.
func openRoad(ctx context.Context, l *lab, format string) (r *road, err error) {
	r = &road{shards: len(l.servers) - 1, row: 1, marker: 1}
	w, name := workload("a"), "delay_"+format
	var dsns []string
	for i, s := range l.servers {
		if err := execute(ctx, s.DSN(), "CREATE DATABASE "+name); err != nil {
			return nil, err
		}
		dsns = append(dsns, s.DSNFor(name))
		if err := l.makeTables(ctx, w, dsns[i], 1); err != nil {
			return nil, err
		}
	}
	r.source = dsns[0]
	if r.site, err = openSite(ctx, l); err != nil {
		return nil, err
	}
	spec := subscribe.Spec{Name: "bench", Format: format}
	for i := range r.shards {
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: fmt.Sprint("shard", i), DSN: dsns[i]})
	}
	target := dsns[r.shards]
	if format == control.FormatInternal {
		spec.Targets = []control.Target{{Name: "target", DSN: target}}
	}
	if r.sub, _, err = subscribe.Create(ctx, r.bus, spec); err == nil {
		err = r.startAll(ctx, format, target)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *road) startAll(ctx context.Context, format, target string) (err error) {
	if r.node, err = r.start(ctx, "node"); err != nil {
		return err
	}
	if format == control.FormatJSON {
		r.consumer = &jsonConsumer{js: r.bus.JS, subscription: r.sub.Name}
		return nil
	}
	r.consumer = &targetConsumer{dsn: target, bus: r.bus, subscription: r.sub.Name}
	r.worker, err = r.start(ctx, "apply")
	return err
}

// Close drops the subscription: slots keep WAL.
func (r *road) Close() (err error) {
	if r.worker != nil {
		err = r.worker.Close()
	}
	if r.node != nil {
		err = errors.Join(err, r.node.Close())
		r.node = nil
	}
	if r.sub != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_, dropErr := subscribe.Drop(ctx, r.bus, r.sub.Name, subscribe.Options{})
		err = errors.Join(err, dropErr)
	}
	return errors.Join(err, r.site.Close())
}

// capacity is how many transactions a second come out while a bounded number is on its way.
func (r *road) capacity(ctx context.Context, d time.Duration) (perSecond float64, err error) {
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
		perSecond = float64(r.consumer.passed()-from) / time.Since(began).Seconds()
		return nil
	})
	err = group.Wait()
	r.row = l.highest.Load() + 1
	if err == nil && perSecond == 0 {
		err = fmt.Errorf("nothing came out in %s", d)
	}
	return perSecond, err
}

// under measures with a load.
func (r *road) under(ctx context.Context, rate float64, d time.Duration) (*Delay, error) {
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
	delay := &Delay{Consumer: r.consumer.(fmt.Stringer).String(), Shards: r.shards, Rate: reached, Markers: n}
	delay.conclude(m.acked, seen)
	return delay, nil
}

// conclude: a marker may be seen before its own client is told of the commit.
func (d *Delay) conclude(acked, seen []time.Time) {
	var millis []float64
	for i := range seen {
		millis = append(millis, max(0, seen[i].Sub(acked[i]).Seconds()*1000))
	}
	slices.Sort(millis)
	d.P50, d.P99, d.P999, d.Most = quantile(millis, 0.5), quantile(millis, 0.99), quantile(millis, 0.999), quantile(millis, 1)
}

// await lets time pass: the load is on.
func await(ctx context.Context, d time.Duration) error {
	if pause.For(ctx, d) != nil {
		return context.Cause(ctx)
	}
	return nil
}
