package copying

import (
	"slices"
	"time"

	"shardcdc/pipeline/control"
)

// rateWindow is how long ago a chunk may have been published that counts for the rate.
const rateWindow = 10 * time.Second

// counting is what the status of a job needs besides its ledgers.
type counting struct {
	started int // parts that were done when this node began
	samples []sample
}

type sample struct {
	at          time.Time
	rows, bytes int64
}

func (c *counting) add(now time.Time, rows, bytes int64) {
	c.samples = append(slices.DeleteFunc(c.samples, func(s sample) bool { return now.Sub(s.at) > rateWindow }), sample{now, rows, bytes})
}

// rates are per second, over the window or since the first sample in it.
func (c *counting) rates(now time.Time) (rows, bytes float64) {
	var first time.Time
	for _, s := range c.samples {
		if now.Sub(s.at) > rateWindow {
			continue
		}
		if first.IsZero() {
			first = s.at
		}
		rows, bytes = rows+float64(s.rows), bytes+float64(s.bytes)
	}
	seconds := max(1, now.Sub(first).Seconds())
	return rows / seconds, bytes / seconds
}

// Status is how far the copy is, nil if there never was one; and the tables that match the subscription's patterns and are
// not published.
func (e *Engine) Status() (st *control.CopyStatus, newTables []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	newTables = slices.Clone(e.newTables)
	if e.job == nil {
		return nil, newTables
	}
	j := e.job
	st = &control.CopyStatus{
		Job: j.ID, Kind: j.Kind, State: j.State, TargetRows: j.TargetRows, By: j.By, Requested: j.Requested, Started: j.Started,
		Ended: j.Ended, Error: j.Error, BeginCSN: j.BeginCSN, ConsistentFrom: j.EndCSN, StartIndex: e.counting.started, Tables: []control.CopyTableStatus{},
	}
	for i := range e.jobs {
		if o := &e.jobs[i]; o.ID != j.ID && !o.State.Ended() && !e.ended[o.ID] {
			st.Queued++
		}
	}
	for n, name := range j.Tables {
		t := e.table(n, name)
		t.Keyed = n < len(j.Keyed) && j.Keyed[n]
		st.Tables = append(st.Tables, t)
		st.CurrentIndex, st.TotalIndex = st.CurrentIndex+t.PartsDone, st.TotalIndex+t.Parts
		st.Rows, st.RowsEstimate = st.Rows+t.Rows, st.RowsEstimate+t.RowsEstimate
		st.Bytes, st.BytesEstimate = st.Bytes+t.Bytes, st.BytesEstimate+t.BytesEstimate
	}
	done := j.State == control.CopyDone
	st.Percent = percent(st.Bytes, st.BytesEstimate, st.CurrentIndex, st.TotalIndex, done)
	st.SyncPercent = st.Percent
	if !j.State.Ended() {
		st.RowsPerSecond, st.BytesPerSecond = e.counting.rates(time.Now())
		if left := st.BytesEstimate - st.Bytes; left > 0 && st.BytesPerSecond > 0 {
			st.RemainingSeconds = float64(left) / st.BytesPerSecond
		}
		st.Waiting = e.waiting()
	}
	return st, newTables
}

// table is the status of one table. A shard that was not asked yet counts as a part to come. The lock is held.
func (e *Engine) table(n int, name control.CopyTableName) control.CopyTableStatus {
	t := control.CopyTableStatus{Schema: name.Schema, Name: name.Name, State: control.CopyTableWaiting}
	for _, s := range e.shards {
		p := s.byName[name]
		if p == nil {
			if !s.listed && !e.job.State.Ended() {
				t.Parts++
			}
			continue
		}
		l := p.ledger
		t.Parts++
		if l.Done {
			t.PartsDone++
		}
		t.Rows, t.Bytes, t.Again = t.Rows+l.Rows, t.Bytes+l.Bytes, t.Again+len(l.Redo)
		t.RowsEstimate, t.BytesEstimate = t.RowsEstimate+l.RowsEstimate, t.BytesEstimate+l.BytesEstimate
		if l.Done || l.Rows > 0 || p.begun() {
			t.State = control.CopyTableCopying
		}
	}
	done := t.Parts == t.PartsDone && !slices.ContainsFunc(e.shards, func(s *shard) bool { return !s.listed && !e.job.State.Ended() })
	if done {
		t.State = control.CopyTableDone
	}
	t.Percent = percent(t.Bytes, t.BytesEstimate, t.PartsDone, t.Parts, done)
	return t
}

// begun says that something of the part is being read.
func (p *part) begun() bool {
	return p.rereading || slices.ContainsFunc(p.ranges, func(r cursor) bool { return r.reading || r.after != nil })
}

// percent is 100 only at the end: estimates may be too low.
func percent(bytes, estimate int64, parts, of int, done bool) float64 {
	switch {
	case done:
		return 100
	case estimate > 0:
		return min(99, 100*float64(bytes)/float64(estimate))
	case of > 0:
		return min(99, 100*float64(parts)/float64(of))
	}
	return 0
}

// waiting is what holds the job up, a sentence each. The lock is held.
func (e *Engine) waiting() (all []string) {
	add := func(text string) {
		if text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	add(e.trouble)
	for _, s := range e.shards {
		add(s.trouble)
		for _, p := range s.parts {
			if !p.ledger.Done {
				add(p.trouble)
			}
		}
	}
	return all
}
