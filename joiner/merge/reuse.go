package merge

import (
	"slices"

	"shardcdc/pipeline"
)

// While streams lag, fragments of two transactions that used one gid after the other can meet in one txn: the
// later one's from a stream that is ahead, the earlier one's from one that is behind. They are told apart as
// soon as a second phase, a rollback or a list of the earlier or the later one is received, which is before
// either is sealed: everything about the earlier one was written before anything about the later one.

// after says whether o was prepared, by a clock that can be compared, after the instant at.
func (m *Merger) after(o *member, at pipeline.Timestamp) bool {
	return o.fragment != nil && o.fragment.Origin == "" && o.fragment.Time > at.Add(m.skew)
}

// part returns the transaction that mb, committed at the instant at of its shard's clock, belongs to. What was
// prepared after that belongs to a later one.
func (m *Merger) part(mb *member, at pipeline.Timestamp) *txn {
	t := mb.txn
	later := func(o *member) bool { return o != mb && m.after(o, at) }
	if !t.decided && mb.second != 0 {
		// One that is decided, and neither earlier nor later than mb, is mb's.
		for _, n := range m.byGlobal[t.global] {
			if n.decided && n.trusted && !n.sealed && m.joins(n, mb.shard, mb.fragment) && !slices.ContainsFunc(n.members, later) {
				m.move(t, n, func(o *member) bool { return o == mb })
				return n
			}
		}
	}
	if t.sealed || !slices.ContainsFunc(t.members, later) {
		return t
	}
	if !t.decided {
		m.move(t, m.beside(t, 1), later)
		return t
	}
	if !t.trusted {
		return t
	}
	// Nothing later joins a transaction that was decided by this clock: it was t's later members whose second
	// phase, or list, was received first.
	n := m.earlier(t, mb, at)
	m.move(t, n, func(o *member) bool { return !later(o) })
	return n
}

// naming finds the transaction that waits for f by its list.
func (m *Merger) naming(global string, s *shard, f *pipeline.Fragment) *txn {
	for _, t := range m.byGlobal[global] {
		if !t.sealed && t.listed[f.GID] && m.joins(t, s, f) {
			return t
		}
	}
	return nil
}

// earlier finds the transaction, other than the later t, that mb, which ended at the instant at, belongs to, or
// makes one.
func (m *Merger) earlier(t *txn, mb *member, at pipeline.Timestamp) *txn {
	for _, n := range m.byGlobal[t.global] {
		fits := n != t && !n.sealed && m.joins(n, mb.shard, mb.fragment)
		if fits && !slices.ContainsFunc(n.members, func(o *member) bool { return m.after(o, at) }) {
			return n
		}
	}
	return m.beside(t, 0)
}

// listing finds or makes the transaction that a list decides, and has in it what the list names and nothing
// else, as far as it is received.
func (m *Merger) listing(s *shard, r *pipeline.Record, global string) *txn {
	f := r.Fragment
	later := func(o *member) bool { return f.Origin == "" && m.after(o, r.Time) }
	named := func(o *member) bool { return slices.Contains(f.Decides, o.gid) && !later(o) }
	t := m.find(global, func(t *txn) bool {
		return t.decider == nil && slices.ContainsFunc(t.members, named) && !m.closedAt(t, s, r.End) && (!t.clocked(f) || r.Time <= t.decidedAt.Add(m.skew)) &&
			!(t.decided && slices.ContainsFunc(t.members, later))
	})
	if stranger := func(o *member) bool { return !named(o) }; slices.ContainsFunc(t.members, stranger) {
		m.move(t, m.beside(t, 0), stranger)
	}
	for _, o := range slices.Clone(m.byGlobal[global]) {
		if o != t && !o.sealed {
			m.move(o, t, func(mb *member) bool {
				return mb != o.decider && named(mb) && slices.ContainsFunc(o.members, later)
			})
		}
	}
	return t
}

// beside makes a transaction of the same global id that stands before t (0) or behind it (1) in age.
func (m *Merger) beside(t *txn, after int) *txn {
	n := &txn{global: t.global}
	same := m.byGlobal[t.global]
	m.byGlobal[t.global] = slices.Insert(same, slices.Index(same, t)+after, n)
	return n
}

// move takes members from one transaction to another.
func (m *Merger) move(from, to *txn, moves func(*member) bool) {
	var moved, kept []*member
	for _, mb := range from.members {
		if moves(mb) {
			moved = append(moved, mb)
		} else {
			kept = append(kept, mb)
		}
	}
	for _, mb := range moved {
		mb.txn = to
		if !mb.processed {
			from.unprocessed--
			to.unprocessed++
		}
	}
	from.members = kept
	to.members = append(to.members, moved...)
	from.relist()
	to.relist()
}

// relist finds which gids of the decision's list are missing.
func (t *txn) relist() {
	if t.sealed || t.decider == nil {
		return
	}
	t.listed = map[string]bool{}
	for _, gid := range t.decider.fragment.Decides {
		t.listed[gid] = true
	}
	for _, mb := range t.members {
		delete(t.listed, mb.gid)
	}
}

// clocked says whether f's time can be compared with that of t's decision.
func (t *txn) clocked(f *pipeline.Fragment) bool { return t.decided && t.trusted && f.Origin == "" }

// disagree stops: a transaction was committed on one shard and rolled back on another.
func (m *Merger) disagree(global string, s *shard) error {
	return m.fail("transaction %q was committed on one shard and rolled back on another (found on shard %d): its halves disagree. "+
		"Try: compare the shards' data by hand, then cdcctl drop-subscription and cdcctl create-subscription", global, s.id)
}
