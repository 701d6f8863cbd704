package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/pause"
)

const (
	writers         = 8
	markersPerSec   = 100
	outstandingMost = 2000 // transactions on their way while the capacity is measured
	rampUp          = 2 * time.Second
)

// load writes one-row transactions to a shard, with the commits that an application makes: each is flushed.
type load struct {
	dsn     string
	first   int64   // key of the first row
	rate    float64 // transactions per second; 0: as fast as outstanding allows
	passed  func() int64
	written atomic.Int64
	highest atomic.Int64 // key, at least, of what was written
}

// run writes until ctx ends.
func (l *load) run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	began := time.Now()
	for w := range writers {
		group.Go(func() error { return l.write(inner, began, w) })
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (l *load) write(ctx context.Context, began time.Time, writer int) error {
	conn, err := pgx.Connect(ctx, l.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	for i := int64(writer); ; i += writers {
		if err := l.turn(ctx, began, i); err != nil {
			return err
		}
		l.raise(l.first + i)
		if _, err := conn.Exec(ctx, "SELECT add_items($1, $1)", l.first+i); err != nil {
			return err
		}
		l.written.Add(1)
	}
}

// raise notes a key before it is written: whether it was is not known if the load ends meanwhile.
func (l *load) raise(key int64) {
	for had := l.highest.Load(); key > had && !l.highest.CompareAndSwap(had, key); had = l.highest.Load() {
	}
}

// turn waits until transaction i is due. One that is late is due at once: the load is open, whatever waits.
func (l *load) turn(ctx context.Context, began time.Time, i int64) error {
	if l.rate == 0 {
		return every(ctx, time.Millisecond, "there is room for another transaction", func() (bool, error) {
			return l.written.Load()-l.passed() < outstandingMost, nil
		})
	}
	return pause.For(ctx, time.Until(began.Add(time.Duration(float64(i)/l.rate*float64(time.Second)))))
}

// markers are rows whose commit is timed, one after the other, beside the load.
type markers struct {
	dsn   string
	first int64 // number of the first one; numbers have no gap, over all loads
	acked []time.Time
}

// run writes n of them, each when it is due.
func (m *markers) run(ctx context.Context, n int) error {
	conn, err := pgx.Connect(ctx, m.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	tick := time.NewTicker(time.Second / markersPerSec)
	defer tick.Stop()
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := conn.Exec(ctx, "INSERT INTO "+markerTable+" VALUES (0, $1)", m.first+int64(i)); err != nil {
			return fmt.Errorf("marker %d: %w", i, err)
		}
		m.acked = append(m.acked, time.Now())
	}
	return nil
}
