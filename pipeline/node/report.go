package node

import (
	"fmt"
	"sync"
	"time"

	"shardcdc/joiner/merge"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// captureReport collects what the status of a subscription says. It outlives attempts.
type captureReport struct {
	mu         sync.Mutex
	st         control.CaptureStatus
	running    *capture
	ended      bool               // running has; its shards are shown as they were
	catchup    catchup            // of running
	publishing pipeline.Timestamp // earliest commit of the batch that is being published; 0: none is
}

func newCaptureReport(n *Node, sub *control.Subscription) *captureReport {
	return &captureReport{st: control.CaptureStatus{
		Subscription: sub.Name, Node: n.conf.Name, State: "starting", Since: time.Now(), Durability: string(n.conf.Durability),
	}}
}

// start notes a capture that goes on behind the last transaction that is in the stream.
func (r *captureReport) start(c *capture, last pipeline.CSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.ended, r.publishing = c, false, 0
	r.st.Epoch, r.st.StreamSeq, r.st.PublishedCSN = c.pub.Epoch(), c.pub.LastSeq(), last
	r.st.Stalled = ""
	r.catchup = newCatchup(time.Now(), c.joiner.Status().Published)
	if r.st.State != "failed" {
		r.st.State, r.st.Since = "running", time.Now()
	}
}

// works notes that every shard streams: only then the error of a failed attempt is over.
func (r *captureReport) works() control.CaptureStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.st.State != "running" {
		r.st.State, r.st.Error, r.st.Since = "running", "", time.Now()
	}
	return r.st
}

// failed notes an error; news says that it worked before.
func (r *captureReport) failed(err error) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if news = r.st.State != "failed"; news {
		r.st.Since = time.Now()
	}
	r.st.State, r.st.Error = "failed", err.Error()
	r.ended = true
	return news
}

func (r *captureReport) stalled(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.st.Stalled = ""
	if err != nil {
		r.st.Stalled = err.Error()
	}
}

func (r *captureReport) publishes(b *pipeline.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tx := range b.Transactions {
		if r.publishing == 0 || tx.CommitTime < r.publishing {
			r.publishing = tx.CommitTime
		}
	}
}

func (r *captureReport) published(b *pipeline.Batch, seq pipeline.Seq) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.publishing = 0
	r.st.StreamSeq = seq
	r.st.PublishedCSN = b.Last()
	for _, tx := range b.Transactions {
		r.st.Transactions++
		r.st.Changes += uint64(tx.Changes())
		if len(tx.Fragments) > 1 {
			r.st.Distributed++
		}
	}
	if n := len(b.Transactions); n > 0 {
		at := b.Transactions[n-1].CommitTime.Time()
		r.st.PublishedTime = &at
	}
}

// status is the present state, of every stage.
func (r *captureReport) status() control.CaptureStatus {
	r.mu.Lock()
	st, c, ended, publishing := r.st, r.running, r.ended, r.publishing
	r.mu.Unlock()
	if c == nil {
		return st
	}
	if !ended && c.streams() {
		st = r.works()
	}
	now := time.Now()
	j := c.joiner.Status()
	st.Watermark, st.Waiting, st.Undecided, st.Decided, st.BytesHeld = j.Watermark, j.Waiting, j.Undecided, j.Decided, j.BytesHeld
	st.Spilled = c.spill.Used()
	st.Copy, st.NewTables = c.copying.Status()
	st.InDoubt, st.Unfinished, st.OldestUnfinished = prepared(c.sub, j.InDoubt), j.Unfinished, prepared(c.sub, j.Oldest)
	for i, sh := range c.sub.Shards {
		m, d := j.Shards[i], c.dumpers[i].Status()
		st.Open += d.OpenTransactions
		st.OpenBytes += d.OpenBytes
		out := control.ShardStatus{
			Name: sh.Name, State: d.State.String(), Received: d.Received, Merged: m.Processed, Published: j.Published[i],
			Confirmed: d.Confirmed, Flushed: max(d.Flushed, d.Received), RetainedWAL: int64(d.RetainedBytes), WALStatus: d.WALStatus,
			ClockOffset: d.ClockOffset.Seconds(), Queued: m.Queued, PausedAt: m.PausedAt, Probes: d.Probes, Nudges: d.Nudges,
			ServerVersion: version(d.ServerVersion),
		}
		if d.State.String() != "streaming" {
			out.Error = d.Error
		}
		out.LagBytes = int64(out.Flushed - out.Published)
		if out.LagBytes > 0 && m.Date > 0 && j.Published[i] < m.Received {
			out.LagSeconds = max(0, now.Sub(m.Date.Time()).Seconds())
		}
		if m.WaitedFor != "" && (j.Waiting > 0 || j.Decided > 0) {
			st.WaitsFor = append(st.WaitsFor, fmt.Sprintf("shard %s: %s", sh.Name, m.WaitedFor))
		}
		st.Shards = append(st.Shards, out)
	}
	st.LagSeconds = lag(publishing, j.WaitingSince, now)
	st.Catchup = r.caughtUp(now, &st)
	return st
}

// caughtUp looks how far it is with what was there before it began.
func (r *captureReport) caughtUp(now time.Time, st *control.CaptureStatus) control.Catchup {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.catchup.look(now, st.Shards, st.LagSeconds, st.Copy)
}

func prepared(sub *control.Subscription, p merge.Prepared) *control.Prepared {
	if p.GID == "" {
		return nil
	}
	out := &control.Prepared{GID: p.GID, Shard: sub.Shards[p.Shard].Name}
	if p.At != 0 {
		since := p.At.Time()
		out.Since = &since
	}
	return out
}

// lag is how long ago the earliest commit that is not in the stream was made: in the batch that is being published,
// or behind it. Zeros: none.
func lag(publishing, waiting pipeline.Timestamp, now time.Time) float64 {
	since := publishing
	if since == 0 || waiting != 0 && waiting < since {
		since = waiting
	}
	if since == 0 {
		return 0
	}
	return max(0, now.Sub(since.Time()).Seconds())
}

func version(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", n/10000, n%10000)
}
