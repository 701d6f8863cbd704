package merge

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"shardcdc/pipeline"
)

// world is a small history of a sharded cluster in physical time, drawn by rapid, and what has to come of it.
// It knows nothing of the merge: transactions take locks on keys, commit, and write WAL.
type world struct {
	skew    time.Duration
	offsets []time.Duration // of the shards' clocks from physical time
	events  []event         // in physical order
	ends    []pipeline.LSN  // end of each shard's WAL

	owner     map[position]string // the transaction of each fragment
	committed map[string]int      // fragments with changes of every transaction that has to come out
	conflicts [][]string          // per key of a shard: its transactions in their order

	reuse  bool // global ids are used again; then no commit lists gids
	now    time.Duration
	locked map[key]bool
	orders map[key]int // index into conflicts
	active []*global
	free   []reusable // global ids that may be used again
	xid    pipeline.XID
}

type event struct {
	at     time.Duration
	shard  int
	record pipeline.Record
}

type position struct {
	shard pipeline.ShardID
	end   pipeline.LSN
}

type key struct{ shard, n int }

type reusable struct {
	id    string
	since time.Duration
}

// global is a distributed transaction under way.
type global struct {
	name     string // unique in the world
	begun    time.Duration
	id       string // its global id
	parts    []part // still to be prepared
	prepared []part // prepared, second phase not written
	list     []string
	decider  *part // the commit that lists the gids, not written yet
	outcome  pipeline.RecordKind
	rows     int
}

type part struct {
	key  key
	gid  string
	xid  pipeline.XID
	end  pipeline.LSN
	rows int
}

const keysPerShard = 3

func drawWorld(t *rapid.T, reuse bool) *world {
	w := &world{
		skew:  100 * time.Millisecond,
		owner: map[position]string{}, committed: map[string]int{}, locked: map[key]bool{}, orders: map[key]int{},
		now: time.Hour, reuse: reuse,
	}
	for range rapid.IntRange(1, 4).Draw(t, "shards") {
		w.offsets = append(w.offsets, time.Duration(rapid.IntRange(-49, 49).Draw(t, "clock offset ms"))*time.Millisecond)
		w.ends = append(w.ends, 0)
	}
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		w.now += time.Duration(rapid.SampledFrom([]int{0, 1, 1, 1, 20, 400}).Draw(t, "pass ms")) * time.Millisecond
		switch rapid.SampledFrom([]string{"commit", "commit", "begin", "go on", "go on", "go on"}).Draw(t, "do") {
		case "commit":
			w.commit(t)
		case "begin":
			w.begin(t)
		case "go on":
			w.goOn(t)
		}
	}
	w.log(t)
	return w
}

// write appends a record to a shard's WAL.
func (w *world) write(shard int, r pipeline.Record) pipeline.Record {
	r.Start = w.ends[shard] + 8
	r.End = w.ends[shard] + 16
	w.ends[shard] = r.End
	if r.Time == 0 {
		r.Time = w.clock(shard, w.now)
	}
	if f := r.Fragment; f != nil {
		f.Shard, f.Start, f.End, f.XID, f.GID, f.Time = pipeline.ShardID(shard), r.Start, r.End, r.XID, r.GID, r.Time
	}
	w.events = append(w.events, event{w.now, shard, r})
	return r
}

// clock is what a shard's clock shows.
func (w *world) clock(shard int, at time.Duration) pipeline.Timestamp {
	return pipeline.Timestamp(0).Add(at + w.offsets[shard])
}

func newFragment(rows int) *pipeline.Fragment {
	f := &pipeline.Fragment{}
	for range rows {
		f.Append([]byte("tenbyt"))
	}
	return f
}

// lock takes a free key of a shard.
func (w *world) lock(t *rapid.T, shard int) (key, bool) {
	k := key{shard, rapid.IntRange(0, keysPerShard-1).Draw(t, "key")}
	if w.locked[k] {
		return k, false
	}
	w.locked[k] = true
	return k, true
}

// unlock lets go of a key that a transaction wrote; it stands in the key's history if it came to something.
func (w *world) unlock(k key, name string, wrote bool) {
	delete(w.locked, k)
	if !wrote {
		return
	}
	i, ok := w.orders[k]
	if !ok {
		i = len(w.conflicts)
		w.orders[k] = i
		w.conflicts = append(w.conflicts, nil)
	}
	w.conflicts[i] = append(w.conflicts[i], name)
}

func (w *world) nextXID() pipeline.XID {
	w.xid++
	return w.xid
}

func (w *world) commit(t *rapid.T) {
	shard := rapid.IntRange(0, len(w.ends)-1).Draw(t, "shard")
	k, ok := w.lock(t, shard)
	if !ok {
		return
	}
	rows := rapid.IntRange(0, 2).Draw(t, "rows")
	f := newFragment(rows)
	r := pipeline.Record{Kind: pipeline.Commit, Fragment: f, XID: w.nextXID()}
	switch rapid.IntRange(0, 9).Draw(t, "kind of date") {
	case 0: // replicated: a remote date
		f.Origin = "remote"
		r.Time = pipeline.Timestamp(rapid.Int64Range(1, 1<<45).Draw(t, "remote date"))
	case 1: // the date is taken some time before the record is written
		r.Time = w.clock(shard, w.now-3*time.Millisecond)
	}
	r = w.write(shard, r)
	name := fmt.Sprintf("commit %d", r.XID)
	w.owner[position{f.Shard, f.End}] = name
	if rows > 0 {
		w.committed[name] = 1
	}
	w.unlock(k, name, rows > 0)
}

func (w *world) begin(t *rapid.T) {
	g := &global{name: fmt.Sprintf("global %d", w.nextXID()), begun: w.now, outcome: pipeline.CommitPrepared}
	g.id = w.drawID(t, g.name)
	if rapid.IntRange(0, 4).Draw(t, "undone") == 0 {
		g.outcome = pipeline.RollbackPrepared
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "fragments") {
		k, ok := w.lock(t, rapid.IntRange(0, len(w.ends)-1).Draw(t, "shard"))
		if !ok {
			continue
		}
		g.parts = append(g.parts, part{key: k, gid: fmt.Sprintf("%s_%d", g.id, i), xid: w.nextXID(), rows: rapid.IntRange(0, 2).Draw(t, "rows")})
	}
	if len(g.parts) == 0 {
		return
	}
	if !w.reuse && rapid.IntRange(0, 2).Draw(t, "list") == 0 {
		if k, ok := w.lock(t, rapid.IntRange(0, len(w.ends)-1).Draw(t, "decider")); ok {
			g.decider = &part{key: k, xid: w.nextXID(), rows: rapid.IntRange(0, 1).Draw(t, "rows")}
		}
	}
	w.active = append(w.active, g)
}

// drawID gives a global id, one that was used before only if that is long ago on every clock.
func (w *world) drawID(t *rapid.T, fresh string) string {
	if w.reuse && len(w.free) > 0 && w.free[0].since+3*w.skew < w.now && rapid.Bool().Draw(t, "use a gid again") {
		id := w.free[0].id
		w.free = w.free[1:]
		return id
	}
	return fresh
}

// goOn does the next thing of a distributed transaction: a PREPARE, the deciding commit, or a second phase.
func (w *world) goOn(t *rapid.T) {
	if len(w.active) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.active)-1).Draw(t, "transaction")
	g := w.active[i]
	switch {
	case len(g.parts) > 0:
		w.prepare(g)
	case g.decider != nil:
		w.decide(g)
	default:
		w.second(g, rapid.IntRange(0, len(g.prepared)-1).Draw(t, "participant"))
	}
	if len(g.parts) == 0 && g.decider == nil && len(g.prepared) == 0 {
		w.active = append(w.active[:i], w.active[i+1:]...)
		if w.now-g.begun < time.Second { // what was prepared longer ago is in dispute after a restart: see the package doc
			w.free = append(w.free, reusable{g.id, w.now})
		}
	}
}

func (w *world) prepare(g *global) {
	p := g.parts[0]
	g.parts = g.parts[1:]
	f := newFragment(p.rows)
	r := w.write(p.key.shard, pipeline.Record{Kind: pipeline.Prepare, Fragment: f, GID: p.gid, XID: p.xid})
	p.end = r.End
	g.prepared = append(g.prepared, p)
	g.list = append(g.list, p.gid)
	w.owner[position{f.Shard, f.End}] = g.name
	if p.rows > 0 {
		g.rows++
	}
}

func (w *world) decide(g *global) {
	p := g.decider
	g.decider = nil
	if g.outcome == pipeline.RollbackPrepared {
		w.unlock(p.key, g.name, false)
		return
	}
	f := newFragment(p.rows)
	f.Decides = g.list
	w.write(p.key.shard, pipeline.Record{Kind: pipeline.Commit, Fragment: f, XID: p.xid})
	w.owner[position{f.Shard, f.End}] = g.name
	if p.rows > 0 {
		g.rows++
	}
	w.decided(g)
	w.unlock(p.key, g.name, p.rows > 0)
}

func (w *world) decided(g *global) {
	if g.rows > 0 {
		w.committed[g.name] = g.rows
	}
}

func (w *world) second(g *global, i int) {
	p := g.prepared[i]
	g.prepared = append(g.prepared[:i:i], g.prepared[i+1:]...)
	w.write(p.key.shard, pipeline.Record{Kind: g.outcome, GID: p.gid, XID: p.xid, PrepareEnd: p.end})
	if g.outcome == pipeline.CommitPrepared {
		w.decided(g)
	}
	w.unlock(p.key, g.name, g.outcome == pipeline.CommitPrepared && p.rows > 0)
}

// log shows the history, so that a failure can be read.
func (w *world) log(t *rapid.T) {
	t.Logf("clocks are off by %v", w.offsets)
	for _, e := range w.events {
		r := e.record
		text := fmt.Sprintf("%8s %s %s %s at %X", e.at, name(pipeline.ShardID(e.shard)), r.Kind, r.GID, uint64(r.End))
		if f := r.Fragment; f != nil {
			text += fmt.Sprintf(" rows=%d origin=%q decides=%v (%s)", f.Changes, f.Origin, f.Decides, w.owner[position{f.Shard, f.End}])
		}
		t.Log(text)
	}
}

// wal is what a shard has written in the first n events, and where its WAL ends.
func (w *world) wal(shard, n int) ([]pipeline.Record, pipeline.LSN) {
	var out []pipeline.Record
	end := pipeline.LSN(0)
	for _, e := range w.events[:n] {
		if e.shard == shard {
			out = append(out, e.record)
			end = e.record.End
		}
	}
	return out, end
}
