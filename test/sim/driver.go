package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"shardcdc/pipeline"
)

// Config is what the thing under test is made with.
type Config struct {
	Shards       int
	MaxClockSkew time.Duration
	GlobalID     func(gid string) string
	Start        pipeline.Checkpoint
	BytesMax     int
	DatesBehind  pipeline.LSN
	Watermarks   bool
}

// Probe asks a shard for its clock and then for the end of its flushed WAL.
type Probe struct {
	Shard pipeline.ShardID
	ID    uint64
}

// Merger is the thing under test; the contract is that of joiner/merge.
type Merger interface {
	Offer(shard pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error
	Probes(dst []Probe) []Probe
	Probed(shard pipeline.ShardID, id uint64, clock pipeline.Timestamp, flushed pipeline.LSN) error
	Admits(shard pipeline.ShardID) bool
	Take(bytesMax int) (pipeline.Batch, bool)
	Idle() bool
	Heartbeat() (pipeline.Batch, bool)
	Durable(c *pipeline.Checkpoint)
	Confirmed(shard pipeline.ShardID) pipeline.LSN
}

// Stats say what a run has met, so that a test can see that worlds are not all alike.
type Stats struct {
	Records, Emitted, Units, Crashes, Probes, Refused int
	Joined                                            int // transactions that left together with another one
	Stops                                             int // loud ones
}

func (s *Stats) add(o Stats) {
	s.Records += o.Records
	s.Emitted += o.Emitted
	s.Units += o.Units
	s.Crashes += o.Crashes
	s.Probes += o.Probes
	s.Refused += o.Refused
	s.Joined += o.Joined
	s.Stops += o.Stops
}

// violation is what the oracle throws; everything else that panics is a fault of the thing under test.
type violation string

// Run lets the merger that start makes read the world, and returns what is wrong with it: "" is nothing.
// A non-nil trace gets every step in words.
func Run(w *World, start func(*World, Config) (Merger, error), trace *strings.Builder) (stats Stats, fault string) {
	d := &driver{
		World: w, start: start, trace: trace,
		rng: rand.New(rand.NewPCG(w.Observer, 0xd21)),
	}
	defer func() {
		stats = d.stats
		stats.Joined = d.oracle.joined
		switch p := recover().(type) {
		case nil:
		case violation:
			fault = string(p)
		default:
			fault = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	d.oracle = newOracle(w)
	d.run()
	return d.stats, ""
}

// driver is one node that captures, and the stream that it fills.
type driver struct {
	*World
	start func(*World, Config) (Merger, error)
	rng   *rand.Rand
	trace *strings.Builder
	stats Stats

	now     micros
	m       Merger
	streams []*stream
	asked   []asked
	flying  []flight // taken, not stored yet
	unacked []flight // stored, not acknowledged to the merger yet
	oracle  *oracle

	checked micros // the clocks were looked at until here
	wrong   bool   // they were seen to be wrong since the boot
	stopped bool   // the merger has stopped
	stops   int    // since the beginning
}

// flight is a batch on its way, and what it looked like when it was taken.
type flight struct {
	batch pipeline.Batch
	seen  string
}

// stream is one shard's replication connection.
type stream struct {
	*Shard
	next int          // index of the next record
	at   pipeline.LSN // received up to
	lag  micros
	dead micros // nothing comes before this instant: the backlog grows
	cap  int    // records in one Offer, at most
}

// asked is a probe that is not answered yet.
type asked struct {
	Probe
	from, due micros
}

func (d *driver) run() {
	d.boot()
	left := d.Crashes
	steps := 40 + 6*d.records()
	for i := 0; i < steps && d.now < d.End+d.Lag && d.stops < stopsMax; i++ {
		d.now += around(d.rng, (d.End+d.Lag)/int64(steps))
		d.step()
		if d.stopped {
			d.boot()
		}
		if left > 0 && d.rng.IntN(steps) < 1+d.Crashes {
			left--
			d.crash()
		}
	}
	if d.stops < stopsMax {
		d.settle()
	}
	d.oracle.final()
}

// stopsMax is how often a stopped node is started again: what it publishes then is judged as well.
const stopsMax = 3

// clocksAgree looks at the clocks, as a node does all the time and before it publishes: while they differ by too much, and
// with what was put together in that time, nothing leaves.
func (d *driver) clocksAgree() bool {
	d.wrong = d.wrong || d.wrongClock(d.checked, d.now)
	d.checked = d.now
	return !d.wrong
}

func (d *driver) records() int {
	n := 0
	for _, s := range d.World.Shards {
		n += len(s.WAL)
	}
	return n
}

// boot starts a node from what the stream holds. First start and recovery are the same.
func (d *driver) boot() {
	c := d.oracle.checkpoint()
	m, err := d.start(d.World, Config{
		DatesBehind: pipeline.LSN(d.DatesBehind), Watermarks: d.Watermarks,
		Shards: d.Options.Shards, MaxClockSkew: time.Duration(d.MaxClockSkew) * time.Microsecond,
		GlobalID: globalID, Start: cloneCheckpoint(c), BytesMax: d.BytesMax,
	})
	d.check(err, "New")
	d.m, d.streams, d.asked, d.flying, d.unacked = m, nil, nil, nil, nil
	d.wrong, d.checked, d.stopped = false, d.now, false
	for i, s := range d.World.Shards {
		st := &stream{Shard: s, at: c.Shards[i].Safe(), cap: 1 + d.rng.IntN(d.Batch)}
		for st.next < len(s.WAL) && s.WAL[st.next].End <= st.at {
			st.next++
		}
		switch d.rng.IntN(4) {
		case 0:
			st.lag = d.Lag
		case 1: // gigabytes behind
			st.dead = d.now + d.rng.Int64N(1+d.End+d.Lag)
		}
		d.streams = append(d.streams, st)
		d.logf("boot     shard %d from %s", i, st.at)
	}
	d.oracle.boot()
}

// globalID is the gid rule of the world: what stands before the last underscore.
func globalID(gid string) string {
	if i := strings.LastIndexByte(gid, '_'); i >= 0 {
		return gid[:i]
	}
	return gid
}

// step does one thing that a node does, and looks at the confirmed positions.
func (d *driver) step() {
	d.clocksAgree()
	switch n := d.rng.IntN(100); {
	case n < 50:
		d.deliver(d.streams[d.rng.IntN(len(d.streams))], d.now)
	case n < 60:
		d.ask()
	case n < 70:
		d.answer(false)
	case n < 82:
		d.take()
	case n < 90:
		d.store()
	case n < 97:
		d.ack()
	default:
		d.m.Idle()
		d.heartbeat()
	}
	d.oracle.confirmed(d.m)
}

// deliver offers what shard s has sent until now.
func (d *driver) deliver(s *stream, now micros) {
	if now < s.dead {
		return
	}
	if !d.m.Admits(s.ID) {
		d.stats.Refused++
		d.logf("refused  shard %d", s.ID)
		return
	}
	now = max(0, now-s.lag)
	var records []pipeline.Record
	for n := s.written(now); s.next < n && len(records) < s.cap; s.next++ {
		e := s.WAL[s.next]
		records = append(records, e.record())
		s.at = e.End
		d.oracle.delivered(e)
		d.logf("offer    shard %d %s", s.ID, e)
	}
	limit := s.flushed(now)
	if s.next < len(s.WAL) {
		limit = min(limit, s.WAL[s.next].Start)
	}
	if limit > s.at && chance(d.rng, 70) { // a keepalive
		s.at += pipeline.LSN(d.rng.Uint64N(uint64(limit-s.at) + 1))
		if chance(d.rng, 50) {
			s.at = limit
		}
	}
	d.stats.Records += len(records)
	d.logf("received shard %d %s", s.ID, s.at)
	d.check(d.m.Offer(s.ID, records, s.at), "Offer")
}

func (d *driver) ask() {
	for _, p := range d.m.Probes(nil) {
		d.logf("probe    shard %d id %d", p.Shard, p.ID)
		for _, a := range d.asked {
			d.must(a.Shard != p.Shard, "two probes of shard %d are outstanding", p.Shard)
		}
		d.stats.Probes++
		d.asked = append(d.asked, asked{p, d.now, d.now + around(d.rng, d.Latency)})
	}
}

// answer answers one probe that is due (any, when the world is quiet): the clock first, then the position.
func (d *driver) answer(any bool) bool {
	for i, a := range d.asked {
		if !any && a.due > d.now {
			continue
		}
		d.asked = slices.Delete(d.asked, i, i+1)
		read := a.from + d.rng.Int64N(d.now-a.from+1)
		flushed := read + d.rng.Int64N(d.now-read+1)
		s := d.World.Shards[a.Shard]
		clock, at := s.clock.at(read), s.flushed(flushed)
		d.logf("probed   shard %d id %d clock %s flushed %s", a.Shard, a.ID, clockString(clock), at)
		d.check(d.m.Probed(a.Shard, a.ID, clock, at), "Probed")
		return true
	}
	return false
}

func (d *driver) take() bool {
	if len(d.flying) >= d.InFlight {
		return false
	}
	b, ok := d.m.Take(d.TakeBytes)
	if ok {
		d.must(len(b.Transactions) > 0, "Take returned a batch without transactions")
		d.fly("take", b)
	}
	return ok
}

func (d *driver) heartbeat() bool {
	if len(d.flying) >= d.InFlight {
		return false
	}
	b, ok := d.m.Heartbeat()
	if ok {
		d.must(len(b.Transactions) == 0, "Heartbeat returned transactions")
		d.fly("beat", b)
	}
	return ok
}

func (d *driver) fly(what string, b pipeline.Batch) {
	d.logf("%-8s %s", what, d.oracle.describe(&b))
	d.flying = append(d.flying, flight{b, fmt.Sprintf("%+v", b.Checkpoint)})
}

// store makes the oldest unit durable. The node does not know it yet.
func (d *driver) store() bool {
	if len(d.flying) == 0 {
		return false
	}
	if !d.clocksAgree() {
		d.logf("the clocks differ")
		d.boot()
		return false
	}
	f := d.flying[0]
	d.flying = d.flying[1:]
	d.logf("store    until csn %s", csnString(f.batch.Last()))
	d.must(f.seen == fmt.Sprintf("%+v", f.batch.Checkpoint), "the checkpoint of a batch changed after Take")
	d.oracle.store(&f.batch)
	d.unacked = append(d.unacked, f)
	d.stats.Units++
	d.stats.Emitted += len(f.batch.Transactions)
	return true
}

func (d *driver) ack() bool {
	if len(d.unacked) == 0 {
		return false
	}
	c := cloneCheckpoint(d.unacked[0].batch.Checkpoint)
	d.unacked = d.unacked[1:]
	d.logf("ack      %s", checkpointString(&c))
	d.m.Durable(&c)
	d.oracle.acked(&c)
	return true
}

// crash kills the node. Of the units on their way, the first few were stored all the same.
func (d *driver) crash() {
	d.stats.Crashes++
	d.logf("crash    with %d units on their way", len(d.flying))
	for n := d.rng.IntN(len(d.flying) + 1); n > 0 && len(d.flying) > 0; n-- {
		d.store()
	}
	d.boot()
}

// settle lets everything come to rest: no new WAL but a growing end, every probe answered, nothing lags.
// What is ready must leave within a number of rounds that grows with the two-phase transactions only.
func (d *driver) settle() {
	d.logf("settle")
	d.now = max(d.now, d.End)
	for _, s := range d.World.Shards {
		d.now = max(d.now, s.clock.wrong.to)
	}
	rounds := 20
	for _, t := range d.Txns {
		rounds += 3 + len(t.Frags)
	}
	for range rounds {
		d.round()
		if d.stopped && d.stops < stopsMax {
			d.boot()
		}
	}
	if d.stops > 0 {
		return // it stands still, and says why
	}
	for _, s := range d.streams {
		d.must(s.next == len(s.WAL), "stuck: shard %d is not admitted at %s", s.ID, s.at)
	}
	d.oracle.settled(d.m)
	probes := d.stats.Probes
	for range 5 {
		d.round()
	}
	d.must(d.stats.Probes == probes, "%d probes although nothing waits", d.stats.Probes-probes)
}

func (d *driver) round() {
	d.now += d.MaxClockSkew + 1000
	for _, s := range d.streams {
		s.lag, s.dead = 0, 0
		for more := true; more && d.m.Admits(s.ID); {
			n := s.next
			d.deliver(s, d.now)
			more = s.next > n
		}
		if s.next == len(s.WAL) && d.m.Admits(s.ID) {
			s.at = s.flushed(d.now)
			d.logf("received shard %d %s", s.ID, s.at)
			d.check(d.m.Offer(s.ID, nil, s.at), "Offer")
		}
	}
	d.ask()
	for d.answer(true) {
	}
	for range 1 + len(d.Txns) {
		took := d.take()
		beat := !took && d.heartbeat()
		d.store()
		d.ack()
		if !took && !beat && len(d.flying)+len(d.unacked) == 0 {
			break
		}
	}
	d.oracle.confirmed(d.m)
}

func (d *driver) check(err error, call string) {
	if err != nil && d.mayStop() && strings.Contains(err.Error(), "Try: ") {
		d.logf("stop     %s", err)
		if !d.stopped {
			d.stopped = true
			d.stops++
			d.stats.Stops++
		}
		return
	}
	d.must(err == nil, "%s: %v", call, err)
}

func (d *driver) must(ok bool, format string, args ...any) {
	if !ok {
		must(false, format, args...)
	}
}

func must(ok bool, format string, args ...any) {
	if !ok {
		panic(violation(fmt.Sprintf(format, args...)))
	}
}

func (d *driver) logf(format string, args ...any) {
	if d.trace != nil {
		fmt.Fprintf(d.trace, "%9d  "+format+"\n", append([]any{d.now}, args...)...)
	}
}

func cloneCheckpoint(c pipeline.Checkpoint) pipeline.Checkpoint {
	c.Shards = slices.Clone(c.Shards)
	for i := range c.Shards {
		c.Shards[i].Pending = slices.Clone(c.Shards[i].Pending)
		c.Shards[i].Open = slices.Clone(c.Shards[i].Open)
	}
	return c
}
