package dumper_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"shardcdc/dumper"
	"shardcdc/pipeline"
)

// TestProbeCoversOwnCommits: what was committed before the probe has been offered once the position is reached.
func TestProbeCoversOwnCommits(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{})
	var before pipeline.Timestamp
	for i := range 300 {
		exec(t, s.conn, fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		d.Probe(uint64(i))
		got.wait(t, "the probed position", func() bool {
			return len(got.answers) == i+1 && got.received >= got.answers[i].flushed
		})
		got.mu.Lock()
		a, n := got.answers[i], len(got.records)
		if a.id != uint64(i) || n != i+1 {
			t.Fatalf("probe %d answered %d; %d records of %d have come", i, a.id, n, i+1)
		}
		if commit := got.records[i].Time; a.clock < commit || a.clock < before {
			t.Fatalf("probe %d: clock %s, commit %s, the probe before %s", i, a.clock, commit, before)
		}
		before = a.clock
		got.mu.Unlock()
	}
	st := d.Status()
	if st.Probes != 300 || st.Nudges != 0 || st.ClockUncertainty <= 0 || st.ClockUncertainty > time.Second {
		t.Errorf("%+v", st)
	}
	if off := st.ClockOffset.Abs(); off > st.ClockUncertainty+time.Millisecond {
		t.Errorf("the clock of this very machine is off by %s ± %s", st.ClockOffset, st.ClockUncertainty)
	}
}

// TestProbeIsNeverLost: every probe is answered though its connection is ended all the time.
func TestProbeIsNeverLost(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond})
	const n = 100
	for i := range n {
		d.Probe(uint64(i))
		if i%5 == 0 {
			exec(t, s.conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc "+s.src.Slot+"' AND backend_type = 'client backend'")
		}
	}
	got.wait(t, "all answers", func() bool { return len(got.answers) >= n })
	for i, a := range got.answers {
		if a.id != uint64(i) {
			t.Fatalf("answer %d is for %d", i, a.id)
		}
	}
}

// TestNudge: a large open transaction leaves the flushed position inside a record; the stream would stand still below
// it for seconds.
func TestNudge(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{Nudge: true, NudgeAfter: 50 * time.Millisecond})
	await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
	watcher := connect(t, s.src.DSN)
	exec(t, s.conn, "CREATE SEQUENCE ids", "BEGIN")
	// A position that was reached already tells nothing: the walwriter moves it only five times a second.
	insert := func() bool {
		exec(t, s.conn, "INSERT INTO t SELECT nextval('ids') FROM generate_series(1, 1000)")
		var flushed string
		row(t, watcher, "SELECT pg_current_wal_flush_lsn()::text", &flushed)
		return lsn(t, flushed)%8192 == 0 && lsn(t, flushed) > got.position()
	}
	// Now and then the server flushes the rest just in time, and no nudge is needed.
	probes := 0
	for ; d.Status().Nudges == 0; probes++ {
		i := probes
		if i == 50 {
			t.Fatal("never nudged")
		}
		await(t, "the flushed position lies inside a record", insert)
		asked := time.Now()
		d.Probe(uint64(i))
		got.wait(t, "the position", func() bool {
			return len(got.answers) == i+1 && got.received >= got.answers[i].flushed
		})
		if took := time.Since(asked); took > 5*time.Second {
			t.Errorf("the position was reached after %s", took)
		}
	}
	// A nudge works before it is counted, so another probe may have been sent.
	if n := d.Status().Nudges; n > uint64(probes) || n > 2 {
		t.Errorf("%d nudges for %d probes", n, probes)
	}
	exec(t, s.conn, "ROLLBACK")
}

// TestProbesAskedMeanwhile: a probe asked for while another is under way is answered by the next one.
func TestProbesAskedMeanwhile(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{ProbeInterval: time.Nanosecond})
	const n = 20000
	for i := range 2 { // the second is answered after the first look at the slot: the prober is idle then
		d.Probe(uint64(i))
		got.wait(t, "the connection", func() bool { return len(got.answers) == i+1 })
	}
	for i := 2; i < n; i++ {
		d.Probe(uint64(i))
		runtime.Gosched()
	}
	got.wait(t, "all answers", func() bool { return len(got.answers) >= n })
	for i, a := range got.answers {
		if a.id != uint64(i) {
			t.Fatalf("answer %d is for %d", i, a.id)
		}
	}
}
