package merge

import (
	"slices"

	"shardcdc/pipeline"
)

// What the merge refuses when a transaction is sealed: to go on would tear one without a word.

// refuseAmbiguous stops when gids were used again so soon, or by clocks so wrong, that a fragment of t may belong to another
// use or one of another use to t. (If a list tells, nothing is ambiguous.)
func (m *Merger) refuseAmbiguous(f *family, t *txn) error {
	if t.decider != nil {
		return nil
	}
	if mb := t.disputed(); mb != nil {
		if o := f.another(t); o != nil {
			return m.ambiguous(t, mb, o)
		}
	}
	for _, u := range f.txns {
		if u == t || u.decider != nil {
			continue
		}
		for _, mb := range u.members {
			if t.wants(mb) {
				return m.ambiguous(u, mb, t.first)
			}
		}
	}
	for _, mb := range t.members {
		if o := f.ofLater(t, mb); o != nil && mb != t.first {
			return m.ambiguous(t, mb, o)
		}
	}
	for _, u := range f.txns {
		for _, mb := range u.members {
			if o := f.nearer(u, mb); o != nil && u.decider == nil {
				return m.ambiguous(u, mb, o)
			}
		}
	}
	return nil
}

// disputed finds a fragment whose dates say nothing.
func (t *txn) disputed() *member {
	if i := slices.IndexFunc(t.members, func(mb *member) bool { return mb.disputed }); i >= 0 {
		return t.members[i]
	}
	return nil
}

// another finds a fragment of another use that is under way.
func (f *family) another(t *txn) *member {
	i := slices.IndexFunc(f.prepared, func(mb *member) bool { return mb.txn != t && !mb.rolledBack && (mb.txn == nil || !mb.txn.sealed) })
	if i < 0 {
		return nil
	}
	return f.prepared[i]
}

// remember remembers t beyond its end if one of its fragments is in it only because clocks differ: should that be another
// use's, then the other use will be put together without it, and ambiguous has to know. All that the other use can
// consist of is prepared before the watermark passes.
func (m *Merger) remember(t *txn) {
	last := pipeline.Timestamp(0)
	for _, mb := range t.members {
		if mb.disputed || !together(mb, t.first, 0) {
			last = max(last, mb.from, mb.until, t.decidedAt)
		}
	}
	if last > 0 {
		t.doubtful = pipeline.CSNAt(last + 2*m.slack)
		m.doubtful.push(t)
	}
}

// forgetDoubtful forgets what the watermark has passed, unless something of its global id is under way.
func (m *Merger) forgetDoubtful() {
	if m.doubtful.len() == 0 {
		return
	}
	w := m.Watermark()
	for n := m.doubtful.len(); n > 0 && (*m.doubtful.first()).doubtful <= w; n-- {
		t := m.doubtful.pop()
		f := m.byGlobal[t.global]
		if f.underWay(t) {
			m.doubtful.push(t)
			continue
		}
		t.doubtful = 0
		m.leave(f, t)
	}
}

// underWay says whether a transaction other than t is prepared or decided.
func (f *family) underWay(t *txn) bool {
	return slices.ContainsFunc(f.txns, func(u *txn) bool { return u != t && !u.sealed }) ||
		slices.ContainsFunc(f.prepared, func(mb *member) bool { return mb.txn == nil && !mb.rolledBack })
}

// ambiguous says that mb, of t, may be of the transaction that other is of.
func (m *Merger) ambiguous(t *txn, mb, other *member) error {
	return m.fail("gid %q was used again too soon, or while a clock was wrong: the fragment at %s of shard %d, prepared from %s to %s, may belong "+
		"to the transaction at %s of shard %d, prepared at %s, or to that at %s of shard %d, prepared at %s. "+
		"Try: gids that are not used again before max_clock_skew has passed; then cdcctl drop-subscription and cdcctl create-subscription",
		t.global, mb.end, mb.shard.id, mb.from, mb.until, t.first.end, t.first.shard.id, t.first.from, other.end, other.shard.id, other.from)
}

// refuseUnlisted stops when every shard has received all of t, and a fragment that t's list names is on none of them.
func (m *Merger) refuseUnlisted(t *txn) error {
	if t.decider == nil || t.left > 0 || m.beganWith(t) {
		return nil
	}
	rows := slices.ContainsFunc(t.members, func(mb *member) bool { return mb.fragment.Changes > 0 })
	if !rows {
		return nil // nothing of it leaves; and fragments without rows that were dealt with are not sent again
	}
	for _, gid := range t.decider.fragment.Decides {
		if !slices.ContainsFunc(t.members, func(mb *member) bool { return mb.gid == gid }) {
			return m.fail("%s commits a transaction with a fragment %q that no shard of the subscription holds: part of its data is missing. "+
				"Is a node of the cluster no shard of the subscription? Try: cdcctl drop-subscription, then cdcctl create-subscription with every node, the coordinator included",
				t.decider.fragment, gid)
		}
	}
	return nil
}

// beganWith says whether t was decided about when the reading of a new stream began on some shard: its fragment there may
// lie before the slot's beginning.
func (m *Merger) beganWith(t *txn) bool {
	return m.conf.Start.Watermark == 0 && slices.ContainsFunc(m.shards, func(s *shard) bool {
		return s.clock.first == 0 || t.decidedAt <= s.clock.first+m.slack
	})
}

// disagree stops: a transaction was committed on one shard and rolled back on another.
func (m *Merger) disagree(global string, s *shard) error {
	return m.fail("transaction %q was committed on one shard and rolled back on another (found on shard %d): its halves disagree. "+
		"Try: compare the shards' data by hand, then cdcctl drop-subscription and cdcctl create-subscription", global, s.id)
}

// refuseLate stops when a PREPARE, or a commit that lists gids, was by its date part of a transaction that is
// sealed without it.
func (m *Merger) refuseLate(s *shard, r *pipeline.Record, global string) error {
	family := m.byGlobal[global]
	if r.Fragment.Origin != "" || family == nil {
		return nil
	}
	for _, t := range family.txns {
		if t.sealed && t.trusted && t.decider == nil && r.Time < t.decidedAt-m.slack {
			return m.fail("%s (%s) is dated %s and turned up after its transaction %q, decided at %s, was put together without it. "+
				"Nothing after the last published transaction has left. Try: cdcctl check, compare the clocks of the shards", r.Fragment, r.Kind, r.Time, global, t.decidedAt)
		}
	}
	return nil
}
