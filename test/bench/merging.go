package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/joiner"
	"shardcdc/joiner/gid"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/spill"
)

// Merging is what the joiner adds to the delay, under a steady load of workload (e): the time from when the first commit of a
// transaction was received (the second phase that was read first, of a distributed one) until the transaction left; and the
// round trip of probes, from when the joiner asks until it knows a shard's clock and position.
type Merging struct {
	Rate         float64 `json:"transactions_per_second"`
	Transactions int     `json:"transactions"`
	AddedP50     float64 `json:"added_p50_ms"`
	AddedP99     float64 `json:"added_p99_ms"`
	Probes       int     `json:"probes"`
	ProbeP50     float64 `json:"probe_p50_ms"`
	ProbeP99     float64 `json:"probe_p99_ms"`
}

func (m *Merging) write(out io.Writer) {
	fmt.Fprintf(out, "joiner, (e) with %.0f transactions/s: adds p50 %.2f ms, p99 %.2f ms (%d transactions); a probe's round trip: p50 %.2f ms, p99 %.2f ms (%d probes)\n",
		m.Rate, m.AddedP50, m.AddedP99, m.Transactions, m.ProbeP50, m.ProbeP99, m.Probes)
}

// mergeRate is far from what the shards can do: what is left of the delay is waiting for each other.
const mergeRate = 500

// stages times what goes through the joiner. A nil one times nothing.
type stages struct {
	global func(gid string) string

	mu       sync.Mutex
	received map[place]time.Time  // one-phase commits
	decided  map[string]time.Time // distributed transactions
	probes   map[asking]time.Time
	added    []float64 // milliseconds
	trips    []float64
}

type place struct {
	shard pipeline.ShardID
	end   pipeline.LSN
}

type asking struct {
	shard pipeline.ShardID
	probe uint64
}

func newStages(global func(string) string) *stages {
	return &stages{global: global, received: map[place]time.Time{}, decided: map[string]time.Time{}, probes: map[asking]time.Time{}}
}

func (s *stages) offered(shard pipeline.ShardID, records []pipeline.Record, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range records {
		r := &records[i]
		switch r.Kind {
		case pipeline.Commit:
			s.received[place{shard, r.End}] = at
		case pipeline.CommitPrepared:
			if id := s.global(r.GID); s.decided[id].IsZero() {
				s.decided[id] = at
			}
		case pipeline.Prepare, pipeline.RollbackPrepared: // decide nothing that leaves
		}
	}
}

func (s *stages) asked(shard pipeline.ShardID, probe uint64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probes[asking{shard, probe}] = time.Now()
}

func (s *stages) answered(shard pipeline.ShardID, probe uint64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.probes[asking{shard, probe}]; ok {
		s.trips = append(s.trips, millis(at.Sub(was)))
		delete(s.probes, asking{shard, probe})
	}
}

// left: what decided is kept, since other second phases of the transaction may be read later.
func (s *stages) left(txs []*pipeline.Transaction) {
	if s == nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tx := range txs {
		first := place{tx.Fragments[0].Shard, tx.Fragments[0].End}
		at := s.received[first]
		delete(s.received, first)
		if tx.GID != "" {
			at = s.decided[tx.GID]
		}
		s.added = append(s.added, millis(now.Sub(at)))
	}
}

// take gives what was timed since the last time.
func (s *stages) take() (m Merging) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.added)
	slices.Sort(s.trips)
	m = Merging{
		Transactions: len(s.added), AddedP50: quantile(s.added, 0.5), AddedP99: quantile(s.added, 0.99),
		Probes: len(s.trips), ProbeP50: quantile(s.trips, 0.5), ProbeP99: quantile(s.trips, 0.99),
	}
	s.added, s.trips = nil, nil
	return m
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// timedSink stands between the dumpers and the joiner.
type timedSink struct {
	*joiner.Joiner
	stages *stages
}

func (s timedSink) Offer(ctx context.Context, shard pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error {
	s.stages.offered(shard, records, time.Now())
	return s.Joiner.Offer(ctx, shard, records, received)
}

func (s timedSink) Probed(shard pipeline.ShardID, probe uint64, clock pipeline.Timestamp, flushed pipeline.LSN) error {
	s.stages.answered(shard, probe, time.Now())
	return s.Joiner.Probed(shard, probe, clock, flushed)
}

// mergeRole is capture that is timed. It begins at once and does not end by itself.
func mergeRole(c Config) (*role, error) {
	rules, err := gid.New(nil)
	if err != nil {
		return nil, err
	}
	folder, err := spill.Open(c.Dir+"/spill-merge", "merge", control.DefaultSpillBytesMax)
	if err != nil {
		return nil, err
	}
	run := &capturing{conf: c.Capture, counter: &counter{done: make(chan struct{})}, spill: folder, stages: newStages(rules.Global)}
	if err := run.assemble(); err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return &role{
		run: func(ctx context.Context) error { return errors.Join(run.run(ctx), folder.Close()) },
		answer: map[string]func(context.Context) (Answer, error){
			"delays": func(context.Context) (Answer, error) { return Answer{Merge: run.stages.take()}, nil },
		},
	}, nil
}

// measureMerging runs transfers over the shards beside a capture that is timed.
func measureMerging(ctx context.Context, l *lab, o Options) (m *Merging, err error) {
	b := &Backlog{Workload: workload("e"), lab: l, database: "merging"}
	for i := range b.Shards {
		if err := execute(ctx, l.shard(i).DSN(), "CREATE DATABASE "+b.database); err != nil {
			return nil, err
		}
		if err := l.makeTables(ctx, b.Workload, b.dsn(i), 1); err != nil {
			return nil, err
		}
		if err := execute(ctx, b.dsn(i), "CREATE PUBLICATION "+publication+" FOR ALL TABLES",
			"SELECT pg_create_logical_replication_slot('merging', 'pgoutput', false, true)"); err != nil {
			return nil, err
		}
	}
	conf, err := b.captureConfig(ctx, "merging")
	if err != nil {
		return nil, err
	}
	dir, err := l.folder()
	if err != nil {
		return nil, err
	}
	child, err := startChild(ctx, "merge", Config{Dir: dir, Capture: conf})
	if err != nil {
		return nil, err
	}
	m, err = b.timeTransfers(ctx, child, o.DelayTime)
	return m, errors.Join(err, child.Close(), os.RemoveAll(dir), b.dropSlots(context.WithoutCancel(ctx), "merging"))
}

// timeTransfers: what happens in the first seconds does not count.
func (b *Backlog) timeTransfers(ctx context.Context, child *childProcess, d time.Duration) (*Merging, error) {
	group, inner := errgroup.WithContext(ctx)
	inner, stop := context.WithCancel(inner)
	defer stop()
	began := time.Now()
	for c := range coordinators {
		group.Go(func() error { return steadyTransfers(inner, b.dsns(), c, began) })
	}
	var m Merging
	group.Go(func() (err error) {
		defer stop()
		if _, err = leaving(inner, child); err != nil {
			return err
		}
		for _, wait := range []time.Duration{min(rampUp, d), d} {
			from := time.Now()
			if err = await(inner, wait); err != nil {
				return err
			}
			if m, err = leaving(inner, child); err != nil {
				return err
			}
			m.Rate = float64(m.Transactions) / time.Since(from).Seconds()
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return &m, nil
}

// leaving asks for the delays of what has left the joiner since the last time; something has.
func leaving(ctx context.Context, child *childProcess) (m Merging, err error) {
	err = every(ctx, askEvery, "a transaction leaves the joiner", func() (bool, error) {
		a, err := child.Ask(ctx, "delays")
		m = a.Merge
		return m.Transactions > 0, err
	})
	return m, err
}

// steadyTransfers is one coordinator's part of the load, until ctx ends.
func steadyTransfers(ctx context.Context, dsns []string, number int, began time.Time) error {
	t, err := newTransfers(ctx, dsns, number, coordinators, "SET synchronous_commit = on")
	if err != nil {
		return err
	}
	defer t.close()
	for i := 0; ; i++ {
		due := began.Add(time.Duration(i*coordinators+number) * time.Second / mergeRate)
		if err := pause.For(ctx, time.Until(due)); err != nil {
			return nil // The load is over.
		}
		// A transfer is never left half done: its prepared part would hold up every slot that is made later.
		if err := t.transfer(context.WithoutCancel(ctx), i, i%2 == 0); err != nil {
			return fmt.Errorf("coordinator %d, transfer %d: %w", number, i, err)
		}
	}
}
