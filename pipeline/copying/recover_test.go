package copying

import (
	"log/slog"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
)

// A server that does not sync what it acknowledges may keep a ledger and lose what the stream held: what a job and its ledgers
// say is taken back, as far as the stream has it no more.
func TestStreamThatWasSetBack(t *testing.T) {
	for _, tc := range []struct {
		name    string
		a, b    pipeline.LSN // checkpoint
		state   control.CopyState
		doneA   bool
		chunksA int
		doneB   bool
	}{
		{name: "nothing is lost", a: 100, b: 70, state: control.CopyDone, doneA: true, chunksA: 3, doneB: true},
		{name: "the end", a: 99, b: 70, state: control.CopyCopying, doneA: true, chunksA: 3, doneB: true},
		{name: "rows of one shard", a: 99, b: 69, state: control.CopyCopying, doneA: true, chunksA: 3},
		{name: "rows of both", a: 79, b: 1, state: control.CopyCopying},
		{name: "all of it", a: 49, b: 1, state: control.CopyPlanned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, bus := t.Context(), natstest.Bus(t)
			copies, err := control.OpenCopies(ctx, bus.JS, 1)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(err)
			e := newTestEngine(t, nil)
			e.conf.Copies, e.conf.Log = copies, slog.New(slog.NewTextHandler(t.Output(), nil))
			must(copies.PutJob(ctx, "bank", &control.CopyJob{
				ID: "j", Kind: control.CopyResync, State: control.CopyDone, BeginLSN: 50, EndLSN: 100, BeginCSN: 5, EndCSN: 9,
				Tables: []control.CopyTableName{{Schema: "public", Name: "t"}}, Keyed: []bool{true},
			}))
			for shard, lsn := range map[string]pipeline.LSN{"a": 80, "b": 70} {
				must(copies.PutTable(ctx, "bank", 0, &control.CopyTable{
					Job: "j", Shard: shard, Schema: "public", Name: "t", Keyed: true, Key: []string{"id"}, Done: true, LSN: lsn, Chunks: 3,
					Ranges: []control.CopyRange{{Through: []string{"5"}, After: []string{"5"}, Done: true}, {After: []string{"9"}, Done: true}},
				}))
			}
			first, err := e.Recover(ctx, pipeline.Checkpoint{Shards: []pipeline.ShardCheckpoint{{Through: tc.a}, {Through: tc.b}}}, false)
			if err != nil || first != nil {
				t.Fatal(first, err)
			}
			if e.job.State != tc.state {
				t.Errorf("the job is %s, want %s", e.job.State, tc.state)
			}
			a, b := e.shards[0].parts[0].ledger, e.shards[1].parts[0].ledger
			if a.Done != tc.doneA || b.Done != tc.doneB || a.Chunks != tc.chunksA {
				t.Errorf("a: %+v, b: %+v", a, b)
			}
			for _, l := range []*control.CopyTable{a, b} {
				if !l.Done && (len(l.Ranges) != 1 || l.Ranges[0].After != nil || l.Ranges[0].Through != nil || l.Ranges[0].Done) {
					t.Errorf("not everything is copied anew: %+v", l.Ranges)
				}
			}
		})
	}
}
