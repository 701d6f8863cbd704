package node

import (
	"testing"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// TestCatchup: from the backlog at the beginning to 100 percent, which stays, and what a copy makes of it.
func TestCatchup(t *testing.T) {
	const mib = 1 << 20
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newCatchup(began, []pipeline.LSN{100 * mib, 0})
	shard := func(state string, published, flushed pipeline.LSN) control.ShardStatus {
		return control.ShardStatus{State: state, Published: published, Flushed: flushed, LagBytes: int64(flushed - published)}
	}
	copying := &control.CopyStatus{State: control.CopyCopying, SyncPercent: 12.5, RemainingSeconds: 90}
	for _, step := range []struct {
		name    string
		at      time.Duration
		a, b    control.ShardStatus
		lag     float64
		copying *control.CopyStatus
		want    control.Catchup
	}{
		{"b is not connected: nobody knows its backlog", 0, shard("streaming", 100*mib, 100*mib), shard("connecting", 0, 0), 0, nil, control.Catchup{Type: "incremental", RemainingTime: "unknown"}},
		{"a tenth, in ten seconds", 10 * time.Second, shard("streaming", 110*mib, 200*mib), shard("streaming", 1, 1), 600, nil, control.Catchup{Type: "incremental", Percent: 10, RemainingTime: "unknown"}},
		{"half, in another five", 15 * time.Second, shard("streaming", 160*mib, 210*mib), shard("streaming", 1, 1), 600, nil, control.Catchup{Type: "incremental", Percent: 54.5, RemainingTime: "6s"}},
		{"tables are copied meanwhile", 15 * time.Second, shard("streaming", 160*mib, 210*mib), shard("streaming", 1, 1), 600, copying, control.Catchup{Type: "full", Percent: 12.5, RemainingTime: "1m30s"}},
		{"less than is always on its way", 20 * time.Second, shard("streaming", 219*mib+1, 220*mib), shard("streaming", mib, mib), 2, nil, control.Catchup{Type: "incremental", Percent: 100, RemainingTime: "0s"}},
		{"it stays", 30 * time.Second, shard("streaming", 220*mib, 900*mib), shard("backoff", mib, mib), 99, nil, control.Catchup{Type: "incremental", Percent: 100, RemainingTime: "0s"}},
	} {
		got := c.look(began.Add(step.at), []control.ShardStatus{step.a, step.b}, step.lag, step.copying)
		got.RemainingSeconds = nil
		if got != step.want {
			t.Errorf("%s: %+v, want %+v", step.name, got, step.want)
		}
	}
}

func TestCatchupUnderLoad(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newCatchup(began, []pipeline.LSN{0})
	look := func(published, flushed pipeline.LSN, lag float64) control.Catchup {
		return c.look(began.Add(time.Second), []control.ShardStatus{{State: "streaming", Published: published, Flushed: flushed, LagBytes: int64(flushed - published)}}, lag, nil)
	}
	if got := look(1<<30, 2<<30, 0.1); got.Percent == 100 {
		t.Errorf("what was there at the beginning is missing: %+v", got)
	}
	if got := look(3<<30, 3<<30+50<<20, 0.1); got.Percent != 100 {
		t.Errorf("a busy shard whose commits are published at once: %+v", got)
	}
}

func TestReplaying(t *testing.T) {
	var r replaying
	for _, step := range []struct {
		name                string
		start, current, end pipeline.Seq
		want                control.Replay
	}{
		{"nothing is known", 0, 0, 0, control.Replay{}},
		{"half", 100, 150, 200, control.Replay{Start: 100, Current: 150, End: 200, Percent: 50}},
		{"the stream grows", 100, 160, 300, control.Replay{Start: 100, Current: 160, End: 300, Percent: 30}},
		{"not quite", 100, 299, 300, control.Replay{Start: 100, Current: 299, End: 300, Percent: 99.5}},
		{"there", 100, 300, 300, control.Replay{Start: 100, Current: 300, End: 300, Percent: 100}},
		{"it stays", 100, 310, 400, control.Replay{Start: 100, Current: 300, End: 300, Percent: 100}},
		{"another worker", 310, 320, 410, control.Replay{Start: 310, Current: 320, End: 410, Percent: 10}},
	} {
		if got := r.look(step.start, step.current, step.end); got != step.want {
			t.Errorf("%s: %+v, want %+v", step.name, got, step.want)
		}
	}
}
