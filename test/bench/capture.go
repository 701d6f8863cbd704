package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/dumper"
	"shardcdc/dumper/pgoutput"
	"shardcdc/joiner"
	"shardcdc/joiner/gid"
	"shardcdc/joiner/merge"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/node"
	"shardcdc/pipeline/spill"
)

// CaptureConfig says what the capture child reads: dumpers and, unless it is left out, the joiner, wired as the node
// wires them; what comes out is counted and dropped.
type CaptureConfig struct {
	Shards      []CaptureShard `json:"shards"`
	Publication string         `json:"publication"`
	WithoutJoin bool           `json:"without_join"` // dumpers alone
	Expected    Count          `json:"expected"`     // it is done when so many rows came out
}

// CaptureShard is one shard to read.
type CaptureShard struct {
	DSN   string       `json:"dsn"`
	Slot  string       `json:"slot"`
	Start pipeline.LSN `json:"start"` // the slot's position
}

// counter counts what came out.
type counter struct {
	expected Count
	rows     atomic.Int64
	txs      atomic.Int64
	once     sync.Once
	done     chan struct{}
	at       time.Time // when done was closed
}

func (c *counter) add(txs, rows int) {
	c.txs.Add(int64(txs))
	if c.rows.Add(int64(rows)) >= c.expected.Rows {
		c.once.Do(func() {
			c.at = time.Now()
			close(c.done)
		})
	}
}

// capturing is one run of it.
type capturing struct {
	conf    CaptureConfig
	counter *counter
	dumpers []*dumper.Dumper
	joiner  *joiner.Joiner // nil: left out
	spill   *spill.Folder
	stages  *stages // nil: nothing is timed
}

func captureRole(c Config) (*role, error) {
	folder, err := spill.Open(c.Dir+"/spill-capture", "capture", control.DefaultSpillBytesMax)
	if err != nil {
		return nil, err
	}
	run := &capturing{conf: c.Capture, counter: &counter{expected: c.Capture.Expected, done: make(chan struct{})}, spill: folder}
	if err := run.assemble(); err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	// After start the dumpers stay connected until the input ends, so that the walsenders can be looked at.
	begin := make(chan struct{})
	failed := make(chan error, 1)
	return &role{
		run: func(ctx context.Context) (err error) {
			defer func() { err = errors.Join(err, folder.Close()) }()
			select {
			case <-begin:
			case <-ctx.Done():
				return nil
			}
			err = run.run(ctx)
			failed <- err
			return err
		},
		answer: map[string]func(context.Context) (Answer, error){"start": func(ctx context.Context) (a Answer, err error) {
			before, err := ownUsage()
			if err != nil {
				return a, err
			}
			close(begin)
			select {
			case <-run.counter.done:
			case err := <-failed:
				return a, err
			}
			after, err := ownUsage()
			a.Usage, a.Done = after.since(before), run.counter.at
			a.Count = Count{Transactions: run.counter.txs.Load(), Rows: run.counter.rows.Load()}
			return a, err
		}},
	}, nil
}

func (r *capturing) assemble() error {
	var start pipeline.Checkpoint
	for _, s := range r.conf.Shards {
		start.Shards = append(start.Shards, pipeline.ShardCheckpoint{Through: s.Start})
	}
	var to dumper.Sink = dropSink{r.counter}
	if !r.conf.WithoutJoin {
		rules, err := gid.New(nil)
		if err != nil {
			return err
		}
		ask := func(shard pipeline.ShardID, probe uint64) {
			r.stages.asked(shard, probe)
			r.dumpers[shard].Probe(probe)
		}
		if r.joiner, err = joiner.New(merge.Config{
			Shards: len(r.conf.Shards), MaxClockSkew: control.DefaultMaxClockSkew, GlobalID: rules.Global,
			Start: start, BytesMax: control.DefaultMemoryBytesMax, FragmentBytes: node.FragmentBytes, DatesBehind: node.DatesBehind,
		}, ask); err != nil {
			return err
		}
		r.joiner.Spill = r.moveOut
		to = r.joiner
		if r.stages != nil {
			to = timedSink{r.joiner, r.stages}
		}
	}
	for i, s := range r.conf.Shards {
		shard := pipeline.ShardID(i)
		r.dumpers = append(r.dumpers, dumper.New(dumper.Source{
			Shard: shard, Name: fmt.Sprint("shard", i), DSN: s.DSN, Slot: s.Slot, Publications: []string{r.conf.Publication}, Start: s.Start,
		}, to, dumper.Options{
			Nudge:  true,
			Limits: node.Limits(control.DefaultMemoryBytesMax, len(r.conf.Shards)),
			Spill:  func(ctx context.Context) (pgoutput.Spill, error) { return r.file(ctx, shard) },
		}))
	}
	return nil
}

func (r *capturing) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range r.dumpers {
		group.Go(func() error { return d.Run(ctx) })
	}
	if r.joiner != nil {
		group.Go(func() error { return r.take(ctx) })
	}
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// take stands where the publisher would.
func (r *capturing) take(ctx context.Context) error {
	for {
		batch, err := r.joiner.Next(ctx, node.UnitBytes, 10*time.Second)
		if err != nil {
			return err
		}
		rows := 0
		r.stages.left(batch.Transactions)
		for _, tx := range batch.Transactions {
			rows += tx.Changes()
			tx.Release()
		}
		r.counter.add(len(batch.Transactions), rows)
		for i, l := range r.joiner.Durable(&batch.Checkpoint) {
			r.dumpers[i].Confirm(l)
		}
	}
}

// file and moveOut are the node's: see room.go of pipeline/node.
func (r *capturing) file(ctx context.Context, shard pipeline.ShardID) (*spill.File, error) {
	if r.joiner == nil {
		return r.spill.Create(nil)
	}
	return r.spill.Create(func(released <-chan struct{}) error {
		waiting, stop := context.WithCancel(ctx)
		var watch sync.WaitGroup
		watch.Go(func() {
			select {
			case <-released:
				stop()
			case <-waiting.Done():
			}
		})
		err := r.joiner.AwaitRoom(waiting, shard)
		stop()
		watch.Wait()
		select {
		case <-released:
			return nil
		default:
			return err
		}
	})
}

func (r *capturing) moveOut(ctx context.Context, shard pipeline.ShardID, bodies [][]byte) (pipeline.Content, error) {
	file, err := r.file(ctx, shard)
	if err != nil {
		return nil, err
	}
	for _, b := range bodies {
		if _, err := file.Write(b); err != nil {
			file.Release()
			return nil, err
		}
	}
	if err := file.Seal(); err != nil {
		file.Release()
		return nil, err
	}
	return file, nil
}

// dropSink counts what dumpers read, and drops it.
type dropSink struct{ *counter }

func (s dropSink) Offer(_ context.Context, _ pipeline.ShardID, records []pipeline.Record, _ pipeline.LSN) error {
	txs, rows := 0, 0
	for i := range records {
		f := records[i].Fragment
		if f == nil {
			continue
		}
		txs++
		rows += f.Changes
		if f.Content != nil {
			f.Content.Release()
		}
	}
	s.add(txs, rows)
	return nil
}

func (dropSink) Probed(pipeline.ShardID, uint64, pipeline.Timestamp, pipeline.LSN) error { return nil }
