package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	askEvery    = 2 * time.Millisecond  // for what ends or begins a measurement
	sampleEvery = 20 * time.Millisecond // of CPU time
	lawEvery    = 50 * time.Millisecond // looks at a target
)

// every calls try at once and then again and again, until it says that it is done, or ctx ends.
func every(ctx context.Context, d time.Duration, what string, try func() (done bool, err error)) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		done, err := try()
		if ctx.Err() != nil {
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
}

// until waits until a query says true, then calls then, if there is one.
func until(ctx context.Context, dsn, what, sql string, args []any, then func() error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	err = every(ctx, askEvery, what, func() (done bool, err error) {
		return done, conn.QueryRow(ctx, sql, args...).Scan(&done)
	})
	if err != nil || then == nil {
		return err
	}
	return then()
}

// A backend is a server's process for somebody that is measured.
type backend struct {
	pid   int
	began time.Time
}

// awaitBackend waits until the query, of a pid and the time when that backend began, has a row.
func awaitBackend(ctx context.Context, dsn, what, sql string, args ...any) (b backend, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return b, err
	}
	defer conn.Close(context.Background())
	err = every(ctx, askEvery, what, func() (bool, error) {
		err := conn.QueryRow(ctx, sql, args...).Scan(&b.pid, &b.began)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		return err == nil, err
	})
	return b, err
}

// senders are the walsenders of a drain, one for each shard. Their CPU time is read all the time, because it is gone
// when they are.
type senders struct {
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu    sync.Mutex
	found []backend
	usage []Usage
	errs  []error
	all   chan struct{} // closed when every one was found
}

const senderSQL = `SELECT a.pid, a.backend_start FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1`

// watchSenders begins before the readers do.
func watchSenders(ctx context.Context, b *Backlog, slot string) *senders {
	ctx, cancel := context.WithCancel(ctx)
	s := &senders{cancel: cancel, found: make([]backend, b.Shards), usage: make([]Usage, b.Shards), errs: make([]error, b.Shards), all: make(chan struct{})}
	var finding sync.WaitGroup
	for i := range b.Shards {
		finding.Add(1)
		s.group.Go(func() {
			err := s.find(ctx, b, i, slot)
			finding.Done()
			if err == nil {
				err = s.sample(ctx, i)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.errs[i] = err
		})
	}
	s.group.Go(func() {
		finding.Wait()
		close(s.all)
	})
	return s
}

func (s *senders) find(ctx context.Context, b *Backlog, i int, slot string) error {
	found, err := awaitBackend(ctx, b.dsn(i), "slot "+slot+" is read", senderSQL, slot)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found[i] = found
	return nil
}

// sample reads until the walsender has ended or the drain is over.
func (s *senders) sample(ctx context.Context, i int) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for last := false; ; {
		u, err := usageOf(s.found[i].pid)
		if errors.Is(err, errGone) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		u.PeakBytes = max(u.PeakBytes, s.usage[i].PeakBytes) // one that is just ending has no memory
		s.usage[i] = u
		s.mu.Unlock()
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true // as it is at the end
		}
	}
}

// stop ends the watching while the readers are still there, or after they left. It says when the first walsender began,
// and what all took.
func (s *senders) stop() (began time.Time, total Usage, err error) {
	s.cancel()
	s.group.Wait()
	for i, f := range s.found {
		if s.errs[i] != nil {
			err = errors.Join(err, s.errs[i])
			continue
		}
		if began.IsZero() || f.began.Before(began) {
			began = f.began
		}
		total.add(s.usage[i])
	}
	return began, total, err
}

// same makes sure that a slot's walsender is still the one that was watched: a reader that connected again drained in two
// pieces, and the first one's CPU time is missing.
func (s *senders) same(ctx context.Context, b *Backlog, slot string) error {
	for i := range b.Shards {
		now, err := query[int](ctx, b.dsn(i), "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", slot)
		if err != nil {
			return err
		}
		s.mu.Lock()
		was := s.found[i].pid
		s.mu.Unlock()
		if now != was {
			return fmt.Errorf("shard %d: slot %s was read by process %d and then by %d: the connection broke in the middle of a drain", i, slot, was, now)
		}
	}
	return nil
}

// looks at a target: of all, so many showed what the source never was.
type looks struct{ all, wrong int }

// law looks at a target all the time: does it show what the source was?
type law struct {
	cancel context.CancelFunc
	done   chan struct{}
	looks  looks
	err    error
}

// watchLaw begins to look. A target that cannot be read is an error.
func watchLaw(ctx context.Context, sql, dsn string) *law {
	ctx, cancel := context.WithCancel(ctx)
	l := &law{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = l.watch(ctx, sql, dsn)
	}()
	return l
}

func (l *law) watch(ctx context.Context, sql, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	tick := time.NewTicker(lawEvery)
	defer tick.Stop()
	for {
		kept := false
		err := conn.QueryRow(ctx, sql).Scan(&kept)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		if l.looks.all++; !kept {
			l.looks.wrong++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// stop ends the looks.
func (l *law) stop() (looks, error) {
	l.cancel()
	<-l.done
	return l.looks, l.err
}
