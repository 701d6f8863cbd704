package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"shardcdc/pipeline"
)

// genesis makes transactions one after another. A later one waits for the locks of earlier ones, so there is
// no deadlock and the order of the holders of a row is the order in which they were made.
type genesis struct {
	w    *World
	rows [][]row // by shard
	gids []*Txn  // last users of a gid, in the order made
	last micros  // the last instant at which something happened
}

// row says from when on a row may be locked.
type row struct{ forWrite, forRead micros }

func newGenesis(w *World) *genesis {
	g := &genesis{w: w, rows: make([][]row, w.Options.Shards), last: 1}
	for i := range g.rows {
		g.rows[i] = make([]row, w.Rows)
	}
	return g
}

// txn makes transaction id. Its kind is one-phase,
// two-phase (XA and its like), and two-phase decided by a one-phase commit of the initiator (Citus).
func (g *genesis) txn(id int) {
	w := g.w
	r := w.rand("txn", id)
	t := &Txn{ID: id, Ack: never, Origin: chance(r, w.Origin)}
	t.Begin = int64(id)*w.Interval + r.Int64N(1+2*w.Interval)
	switch {
	case w.Options.Shards > 1 && chance(r, w.Citus):
		t.Origin = false
		g.participants(r, t, 2)
		g.name(r, t, true)
		g.execute(r, t)
		g.citus(r, t)
	case chance(r, w.TwoPhase):
		g.participants(r, t, 1)
		g.name(r, t, false)
		g.execute(r, t)
		g.twoPhase(r, t)
	default:
		t.Frags = []*Frag{{Txn: t, Shard: pipeline.ShardID(r.IntN(w.Options.Shards))}}
		g.onePhase(r, t, t.Frags[0], g.execute(r, t))
		t.Ack = t.Frags[0].Ended + around(r, w.Latency/4)
	}
	g.release(t)
	w.Txns = append(w.Txns, t)
}

// participants gives t fragments on different shards, now and then two on one.
func (g *genesis) participants(r *rand.Rand, t *Txn, least int) {
	n := least + r.IntN(g.w.Options.Shards-least+1)
	for _, s := range r.Perm(g.w.Options.Shards)[:n] {
		t.Frags = append(t.Frags, &Frag{Txn: t, Shard: pipeline.ShardID(s)})
	}
}

// name gives the fragments gids: all the same, or with a suffix each. Some names are used again, once,
// when everything about their first user has ended everywhere.
func (g *genesis) name(r *rand.Rand, t *Txn, citus bool) {
	suffix := citus || chance(r, g.w.Suffix)
	if suffix && chance(r, 25) {
		t.Frags = append(t.Frags, &Frag{Txn: t, Shard: t.Frags[len(t.Frags)-1].Shard})
	}
	t.GlobalID = fmt.Sprintf("g%d", t.ID)
	if p := g.again(r, t, citus); p != nil {
		t.GlobalID = p.GlobalID
	} else if !citus || g.w.ListReuse {
		g.gids = append(g.gids, t)
	}
	suffix = suffix || !sameShards(t, t)
	for i, f := range t.Frags {
		f.GID = t.GlobalID
		if suffix {
			f.GID = fmt.Sprintf("%s_%d", t.GlobalID, i)
		}
	}
}

// again picks an earlier transaction whose name t may use, and moves t behind its end. On the same shards
// this may be at once if the earlier one was committed. Else nothing but the clocks can tell the two apart, so
// they must be further apart than the clocks' error (no coordinator that restarts its numbers comes near that).
func (g *genesis) again(r *rand.Rand, t *Txn, citus bool) *Txn {
	if t.Origin || len(g.gids) == 0 || citus && !g.w.ListReuse || !chance(r, g.w.Reuse) {
		return nil
	}
	i := r.IntN(len(g.gids))
	p := g.gids[i]
	end := micros(0)
	for _, f := range p.Frags {
		end = max(end, f.Ended)
	}
	if end == never || p.Origin || end > t.Begin+20*g.w.Interval {
		return nil
	}
	sameKind := citus == (p.Frags[0].GID == "")
	if sameKind && chance(r, 50) { // the same participants
		t.Frags = nil
		for _, f := range p.Frags {
			t.Frags = append(t.Frags, &Frag{Txn: t, Shard: f.Shard})
		}
	}
	if g.w.AtOnce > 0 && chance(r, g.w.AtOnce) {
		g.w.reused, g.w.TooSoon = true, true
		t.Begin = max(t.Begin, end+around(r, 2))
		g.gids = slices.Delete(g.gids, i, i+1)
		return p
	}
	if !sameKind || !sameShards(p, t) || slices.ContainsFunc(p.Frags, func(f *Frag) bool { return f.RollBack }) {
		end += 2 * g.w.MaxClockSkew
	} else if g.w.Skew > 0 {
		g.w.TooSoon = true
	}
	g.w.reused = true
	t.Begin = max(t.Begin, end+around(r, 2))
	g.gids = slices.Delete(g.gids, i, i+1)
	return p
}

// sameShards also wants one fragment per shard: of two on one, a prefix might be taken for the whole.
func sameShards(a, b *Txn) bool {
	list := func(t *Txn) (s []pipeline.ShardID) {
		for _, f := range t.Frags {
			s = append(s, f.Shard)
		}
		slices.Sort(s)
		return s
	}
	la, lb := list(a), list(b)
	return slices.Equal(la, lb) && len(slices.Compact(la)) == len(a.Frags)
}

// execute runs t's statements, one after another as its client sends them, and returns when it was through.
func (g *genesis) execute(r *rand.Rand, t *Txn) micros {
	w := g.w
	now := t.Begin
	if chance(r, w.Reader) {
		for range 1 + r.IntN(3) {
			now += around(r, w.Latency/4)
			t.Reads = append(t.Reads, Read{
				Shard: pipeline.ShardID(r.IntN(w.Options.Shards)), Row: r.IntN(w.Rows), At: now,
			})
		}
	}
	for _, f := range t.Frags {
		empty := chance(r, w.Empty)
		for range 1 + r.IntN(3) {
			now = g.lock(r, f, now+around(r, w.Latency/4), !empty && chance(r, 80))
		}
		for _, l := range f.Locks {
			if l.Write {
				f.Changes++
				f.Bytes += 1 + r.IntN(60)
			}
		}
	}
	return now
}

// lock takes a row that is free soon enough for f and returns when it had it; if none is, f goes without.
func (g *genesis) lock(r *rand.Rand, f *Frag, now micros, write bool) micros {
	rows := g.rows[f.Shard]
	for range 3 {
		n := r.IntN(len(rows))
		if slices.ContainsFunc(f.Txn.Frags, func(o *Frag) bool {
			return o.Shard == f.Shard && slices.ContainsFunc(o.Locks, func(l Lock) bool { return l.Row == n })
		}) {
			continue
		}
		free := rows[n].forRead
		if write {
			free = rows[n].forWrite
		}
		if free > now+10*g.w.Interval+10*g.w.Latency {
			continue
		}
		taken := max(now, free+1)
		f.Locks = append(f.Locks, Lock{Row: n, Write: write, Taken: taken})
		return taken
	}
	return now
}

// onePhase commits f after the instant now.
func (g *genesis) onePhase(r *rand.Rand, _ *Txn, f *Frag, now micros) {
	f.Stamped = now + around(r, g.w.Latency/4)
	f.Written = f.Stamped + around(r, g.w.Latency/10)
	f.Ended = f.Written
}

// prepare writes the PREPAREs of frags, one after another or at once, and returns when the last was durable.
func (g *genesis) prepare(r *rand.Rand, frags []*Frag, now micros) micros {
	serial := chance(r, 50)
	done := now
	for _, f := range frags {
		from := now
		if serial {
			from = done
		}
		f.Stamped = from + around(r, g.w.Latency/2)
		f.Written = f.Stamped + around(r, g.w.Latency/10)
		done = max(done, f.Written)
	}
	return done
}

// fate of a two-phase transaction.
type fate struct {
	rollback bool
	decided  micros // never: not in this world
	died     bool   // the coordinator died: its client hears nothing
}

func (g *genesis) fate(r *rand.Rand, prepared micros) fate {
	w := g.w
	d := fate{rollback: chance(r, w.Rollback), decided: prepared + around(r, w.Latency)}
	if chance(r, w.Orphan) {
		d.died = true
		d.decided += around(r, 30*w.Latency+10*w.Interval)
		if chance(r, 40) {
			d.decided = never
		}
	}
	return d
}

// second writes the second phases of frags after the instant d.decided, in any order. Half way through, the
// coordinator may die; what is left comes much later.
func (g *genesis) second(r *rand.Rand, frags []*Frag, d fate) (last micros, died bool) {
	w := g.w
	died = d.died
	late := micros(0)
	for n, i := range r.Perm(len(frags)) {
		f := frags[i]
		f.RollBack = d.rollback
		if d.decided == never {
			f.Ended, last = never, never
			continue
		}
		if n > 0 && !died && chance(r, w.HalfWay) {
			died, late = true, around(r, 30*w.Latency+20*w.Interval)
		}
		f.EndStamped = d.decided + late + around(r, w.Latency)
		f.Ended = f.EndStamped + around(r, w.Latency/10)
		last = max(last, f.Ended)
	}
	return last, died
}

func (g *genesis) twoPhase(r *rand.Rand, t *Txn) {
	now := g.prepare(r, t.Frags, t.through()+1)
	d := g.fate(r, now)
	if d.rollback && len(t.Frags) > 1 && chance(r, 40) { // the reason: one participant never got that far
		f := t.Frags[0]
		f.Written, f.Ended = never, f.Stamped
		g.second(r, t.Frags[1:], d)
		return
	}
	last, died := g.second(r, t.Frags, d)
	if !d.rollback && last != never {
		switch {
		case !died:
			t.Ack = last + around(r, g.w.Latency/4)
		case chance(r, 30): // told that it is committed although a second phase failed
			for _, f := range t.Frags {
				t.Ack = min(t.Ack, f.Ended+1)
			}
		}
	}
}

// citus commits the first fragment in one phase, which decides the others.
func (g *genesis) citus(r *rand.Rand, t *Txn) {
	own, others := t.Frags[0], t.Frags[1:]
	own.GID = ""
	own.Decides = make([]string, len(others))
	for i, f := range others {
		own.Decides[i] = f.GID
	}
	now := g.prepare(r, others, t.through()+1)
	d := g.fate(r, now)
	if d.rollback || d.decided == never { // the initiator's own part is undone with its session
		own.Written, own.Ended = never, now+around(r, g.w.Latency)
		g.second(r, others, d)
		return
	}
	g.onePhase(r, t, own, now)
	d.decided = max(d.decided, own.Written)
	if _, died := g.second(r, others, d); !died || chance(r, 50) {
		t.Ack = own.Written + around(r, g.w.Latency)
	}
}

// through is when t had executed its last statement.
func (t *Txn) through() micros {
	now := t.Begin
	for _, q := range t.Reads {
		now = max(now, q.At)
	}
	for _, f := range t.Frags {
		for _, l := range f.Locks {
			now = max(now, l.Taken)
		}
	}
	return now
}

// release frees the rows that t locked from the instants on at which its fragments ended.
func (g *genesis) release(t *Txn) {
	for _, f := range t.Frags {
		for _, l := range f.Locks {
			row := &g.rows[f.Shard][l.Row]
			row.forWrite = max(row.forWrite, f.Ended)
			if l.Write {
				row.forRead = max(row.forRead, f.Ended)
			}
		}
		for _, at := range []micros{f.Written, f.Ended} {
			if at != never {
				g.last = max(g.last, at)
			}
		}
	}
}
