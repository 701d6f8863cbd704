package node

import (
	"math"
	"time"

	"shardcdc/dumper"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

const (
	backlogMax = 1 << 20         // less than this is on its way all the time
	lagMax     = time.Second     // or so old, when the shards write much
	speedAfter = time.Second     // the speed is measured over this time at least
	speedOver  = 5 * time.Second // and over about this time
)

// catchup is how far a capture is with what the shards had written before it. It is fed by whoever asks for the status.
type catchup struct {
	began time.Time
	from  []pipeline.LSN // published when it began
	goal  []pipeline.LSN // flushed at the first look; 0: not known yet
	done  bool

	at      time.Time // of an earlier look
	backlog int64     // then
	speed   float64   // bytes per second by which the backlog fell since
}

func newCatchup(now time.Time, published []pipeline.LSN) catchup {
	return catchup{began: now, from: published, goal: make([]pipeline.LSN, len(published))}
}

// look is the picture at this moment.
func (c *catchup) look(now time.Time, shards []control.ShardStatus, lagSeconds float64, copying *control.CopyStatus) control.Catchup {
	passed, backlog, known, reached := int64(0), int64(0), true, true
	for i, s := range shards {
		if c.goal[i] == 0 && s.State == dumper.Streaming.String() {
			c.goal[i] = s.Flushed
		}
		known = known && c.goal[i] != 0
		reached = reached && s.Published >= c.goal[i]
		passed += max(0, int64(s.Published)-int64(c.from[i]))
		backlog += max(0, s.LagBytes)
	}
	c.done = c.done || known && (backlog <= backlogMax || reached && lagSeconds < lagMax.Seconds())
	c.measure(now, passed, backlog)
	out := control.Catchup{Type: control.CatchupIncremental, Percent: 100}
	remaining := 0.0
	if !c.done {
		out.Percent = 0 // as long as some shard's backlog is not known
		if known {
			out.Percent = min(part(passed, passed+backlog), 99.9)
		}
		remaining = math.Inf(1)
		if c.speed > 0 {
			remaining = float64(backlog) / c.speed
		}
	}
	if copying != nil {
		out.Type = control.CatchupFull
		if !copying.State.Ended() {
			out.Percent = min(out.Percent, copying.SyncPercent)
			if copying.RemainingSeconds == 0 {
				remaining = math.Inf(1)
			}
			remaining = max(remaining, copying.RemainingSeconds)
		}
	}
	out.RemainingTime = "unknown"
	if !math.IsInf(remaining, 1) {
		out.RemainingSeconds = &remaining
		out.RemainingTime = time.Duration(remaining * float64(time.Second)).Round(time.Second).String()
	}
	return out
}

// measure keeps the speed up to date. At the first look it is the mean since the beginning.
func (c *catchup) measure(now time.Time, passed, backlog int64) {
	switch {
	case c.at.IsZero():
		c.speed = float64(passed) / max(now.Sub(c.began).Seconds(), 0.001)
		c.at, c.backlog = now, backlog
	case now.Sub(c.at) >= speedAfter:
		c.speed = float64(c.backlog-backlog) / now.Sub(c.at).Seconds()
		if now.Sub(c.at) >= speedOver {
			c.at, c.backlog = now, backlog
		}
	}
}

// part is a share in percent; 100 only for all of it.
func part(n, of int64) float64 {
	if n >= of {
		return 100
	}
	return math.Floor(1000*float64(n)/float64(of)) / 10
}

// replaying is how far a worker is with what the stream held.
type replaying struct{ last control.Replay }

// look is the picture at this moment: from the first sequence to apply to the last one that the stream is known to hold.
// Once that is reached it stays as it is.
func (r *replaying) look(start, current, end pipeline.Seq) control.Replay {
	if r.last.Percent >= 100 && r.last.Start == start {
		return r.last
	}
	end = max(end, current)
	r.last = control.Replay{Start: start, Current: current, End: end}
	if end > 0 {
		r.last.Percent = part(int64(max(current, start)-start), int64(max(end, start)-start))
	}
	return r.last
}
