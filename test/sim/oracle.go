package sim

import (
	"cmp"
	"slices"

	"shardcdc/pipeline"
)

// oracle holds the stream that consumers see, and compares it with the world.
type oracle struct {
	w       *World
	stored  []*Txn // in the stream's order
	index   map[*Txn]int
	last    pipeline.CSN
	tail    pipeline.Checkpoint // of the last stored unit: where a node would start
	known   pipeline.Checkpoint // of the last unit that the running node knows to be stored
	left    int                 // transactions in the stream, joined ones counted once
	joined  int
	arrived map[*Entry]bool // records that some node has read
	passed  []passed        // by shard
}

func newOracle(w *World) *oracle {
	o := &oracle{w: w, index: map[*Txn]int{}, arrived: map[*Entry]bool{}, passed: make([]passed, len(w.Shards))}
	for _, s := range w.Shards {
		o.tail.Shards = append(o.tail.Shards, pipeline.ShardCheckpoint{Through: s.Origin})
	}
	return o
}

func (o *oracle) checkpoint() pipeline.Checkpoint { return cloneCheckpoint(o.tail) }

func (o *oracle) boot() { o.known = o.checkpoint() }

func (o *oracle) delivered(e *Entry) { o.arrived[e] = true }

func (o *oracle) acked(c *pipeline.Checkpoint) { o.known = cloneCheckpoint(*c) }

// store judges one more unit of the stream.
func (o *oracle) store(b *pipeline.Batch) {
	must(b.Previous == o.last, "unit says that csn %s came before it, but it was %s", csnString(b.Previous), csnString(o.last))
	for _, t := range b.Transactions {
		must(t.CSN > o.last, "ordered: csn %s after csn %s", csnString(t.CSN), csnString(o.last))
		must(t.CSN > o.tail.Watermark, "ordered: csn %s below the watermark %s of a unit before",
			csnString(t.CSN), csnString(o.tail.Watermark))
		o.last = t.CSN
		o.transaction(t)
	}
	must(len(b.Transactions) == 0 || b.Checkpoint.Watermark >= o.last, "watermark %s below the unit's last csn %s",
		csnString(b.Checkpoint.Watermark), csnString(o.last))
	must(b.Checkpoint.Last == o.last, "checkpoint says that csn %s was last, but it was %s",
		csnString(b.Checkpoint.Last), csnString(o.last))
	must(b.Checkpoint.Watermark >= o.tail.Watermark, "watermark goes back from %s to %s",
		csnString(o.tail.Watermark), csnString(b.Checkpoint.Watermark))
	must(len(b.Checkpoint.Shards) == len(o.w.Shards), "checkpoint of %d shards", len(b.Checkpoint.Shards))
	before := o.tail
	o.tail = cloneCheckpoint(b.Checkpoint)
	for i, s := range o.w.Shards {
		must(o.tail.Shards[i].Through >= before.Shards[i].Through, "safe: shard %d goes back from %s to %s",
			i, before.Shards[i].Through, o.tail.Shards[i].Through)
		o.safe(s, o.tail.Shards[i].Safe(), "checkpoint")
	}
}

// transaction judges atomicity and once.
func (o *oracle) transaction(t *pipeline.Transaction) {
	var owner *Txn
	var others []*Txn
	seen := map[*Frag]bool{}
	for _, p := range t.Fragments {
		f := o.w.byEnd[place{p.Shard, p.End}]
		must(f != nil, "atomic: %s is no fragment of the world", p)
		must(!seen[f], "once: %s is twice in its transaction", p)
		if owner != nil && owner != f.Txn && o.w.mayStop() && owner.GlobalID == f.Txn.GlobalID {
			others = append(others, f.Txn)
			seen[f] = true
			continue
		}
		must(owner == nil || owner == f.Txn, "atomic: %s belongs to transaction %d, not to that of the fragments before it", p, f.Txn.ID)
		must(p.XID == f.XID && p.GID == f.GID && p.Changes == f.Changes, "atomic: %s is not what was read", p)
		owner = f.Txn
		seen[f] = true
	}
	must(owner != nil, "atomic: csn %s has no fragments", csnString(t.CSN))
	slices.SortFunc(others, func(a, b *Txn) int { return cmp.Compare(a.ID, b.ID) })
	o.joined += len(others)
	o.left++
	for _, owner := range append(slices.Compact(others), owner) {
		o.owner(t, owner, seen)
	}
}

// owner judges one transaction that left: the only one of t, but where gids are mixed up.
func (o *oracle) owner(t *pipeline.Transaction, owner *Txn, seen map[*Frag]bool) {
	must(owner.committed(), "atomic: transaction %d was never committed", owner.ID)
	for _, f := range owner.Frags {
		must(seen[f] || f.Changes == 0, "atomic: transaction %d left without its fragment on shard %d", owner.ID, f.Shard)
	}
	_, again := o.index[owner]
	must(!again, "once: transaction %d left again", owner.ID)
	must(t.GID == owner.GlobalID, "transaction %d is named %q, not %q", owner.ID, t.GID, owner.GlobalID)
	must(slices.IsSortedFunc(t.Fragments, func(a, b *pipeline.Fragment) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.End, b.End))
	}), "fragments of transaction %d are not sorted", owner.ID)
	must(o.w.mayStop() || slices.ContainsFunc(owner.Frags, func(f *Frag) bool {
		return f.GID == "" && f.Content.Time == t.CommitTime || f.Second != nil && f.Second.Time == t.CommitTime
	}), "transaction %d has commit time %s, which none of its commits has", owner.ID, t.CommitTime)
	o.index[owner] = o.left
	o.stored = append(o.stored, owner)
}

// safe judges a position below which nothing of s would be read again.
func (o *oracle) safe(s *Shard, at pipeline.LSN, what string) {
	k := &o.passed[s.ID]
	if at < k.at { // after a restart
		*k = passed{}
	}
	// What was judged once stays right: nothing that arrived or was stored is taken back.
	for ; k.entries < len(s.WAL); k.entries++ {
		e := s.WAL[k.entries]
		if e.Start >= at {
			break
		}
		f := e.Frag
		if e != f.Content {
			if e.End > at {
				break
			}
			must(o.arrived[e], "safe: %s %s of shard %d passes %s, which was not read yet", what, at, s.ID, e)
			continue
		}
		must(e.End <= at || e.Kind != pipeline.Prepare, "safe: %s %s of shard %d lies inside %s", what, at, s.ID, e)
		if e.End > at {
			break
		}
		_, in := o.index[f.Txn]
		switch {
		case in:
		case f.Changes == 0 && o.w.mayStop(): // it may have left with another use of its gid, and nothing of it is missing
		case e.Kind == pipeline.Commit:
			must(o.arrived[e] && f.Txn.changes() == 0, "safe: %s %s of shard %d passes %s, which is not in the stream", what, at, s.ID, e)
		case f.Second == nil, !o.arrived[f.Second]:
			must(f.Txn.committed() && f.Txn.changes() == 0, "safe: %s %s of shard %d passes the undecided %s", what, at, s.ID, e)
		case !f.RollBack:
			must(f.Txn.changes() == 0, "safe: %s %s of shard %d passes %s, which is not in the stream", what, at, s.ID, e)
		}
	}
	k.at = at
}

// passed is how much of a shard's WAL was judged to be safe to forget.
type passed struct {
	at      pipeline.LSN
	entries int
}

// confirmed judges what the slots would be told now.
func (o *oracle) confirmed(m Merger) {
	for i, s := range o.w.Shards {
		at := m.Confirmed(s.ID)
		safe := o.known.Shards[i].Safe()
		must(at <= safe, "safe: shard %d confirmed to %s, the durable checkpoint is safe to %s", i, at, safe)
		o.safe(s, at, "confirmed")
	}
}

// settled judges whether everything has left that could, and whether the slots were told.
func (o *oracle) settled(m Merger) {
	for _, t := range o.w.Txns {
		_, in := o.index[t]
		must(in || !t.committed() || t.changes() == 0, "complete: transaction %d was committed and is not in the stream", t.ID)
	}
	for _, s := range o.w.Shards {
		want := s.Origin
		for _, e := range s.WAL {
			if e.Kind == pipeline.Prepare && e.Frag.Second == nil && !e.Frag.Txn.committed() {
				want = e.Start
				break
			}
			want = e.End
		}
		must(m.Confirmed(s.ID) >= want, "stuck: shard %d is confirmed to %s only, nothing is needed before %s",
			s.ID, m.Confirmed(s.ID), want)
	}
}

// final judges the order of the whole stream.
func (o *oracle) final() {
	o.conflicts()
	for _, u := range o.stored {
		o.reads(u)
		o.realTime(u)
	}
}

// before judges that t left before u, if both did.
func (o *oracle) before(t, u *Txn, why string, args ...any) {
	i, emitted := o.index[t]
	j, both := o.index[u]
	if emitted && both && t != u {
		must(i < j || i == j && o.w.mayStop(), "ordered: transaction %d left before %d, but "+why, append([]any{u.ID, t.ID}, args...)...)
	}
}

// conflicts follows each row through its holders, in the order in which they had the lock.
func (o *oracle) conflicts() {
	type holder struct {
		*Txn
		Lock
	}
	rows := map[[2]int][]holder{}
	for _, t := range o.stored {
		for _, f := range t.Frags {
			for _, l := range f.Locks {
				k := [2]int{int(f.Shard), l.Row}
				rows[k] = append(rows[k], holder{t, l})
			}
		}
	}
	for k, hs := range rows {
		slices.SortFunc(hs, func(a, b holder) int { return cmp.Compare(a.Taken, b.Taken) })
		for i, b := range hs {
			for _, a := range hs[:i] {
				if a.Write || b.Write {
					o.before(a.Txn, b.Txn, "held row %d of shard %d after it", k[1], k[0])
				}
			}
		}
	}
}

// reads judges that u left after whatever it saw. Where u left a record on the shard that it read from, the
// WAL shows it; elsewhere only the clocks do, and they are off by up to 2*Skew.
func (o *oracle) reads(u *Txn) {
	for _, q := range u.Reads {
		for _, t := range o.stored {
			for _, f := range t.Frags {
				wrote := slices.ContainsFunc(f.Locks, func(l Lock) bool { return l.Row == q.Row && l.Write })
				if f.Shard != q.Shard || !wrote || f.visible() > q.At {
					continue
				}
				shown := u.on(q.Shard) != nil || o.timed() && !u.Origin && !t.Origin && t.visible()+2*o.w.Skew < u.stamped()
				if shown {
					o.before(t, u, "read row %d of shard %d from it", q.Row, q.Shard)
				}
			}
		}
	}
}

// timed says whether times tell anything: not when clocks were wrong, nor where transactions may leave with another one, which
// makes those behind them late.
func (o *oracle) timed() bool { return o.w.WrongClocks == 0 && !o.w.mayStop() }

// realTime judges that u left after whatever was acknowledged before it began.
func (o *oracle) realTime(u *Txn) {
	if !o.timed() {
		return
	}
	for _, t := range o.stored {
		if t.Origin || u.Origin || t.Ack > u.Begin || t.visible()+2*o.w.Skew >= u.stamped() {
			continue
		}
		o.before(t, u, "began after it was acknowledged")
	}
}
