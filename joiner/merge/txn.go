package merge

import (
	"slices"

	"shardcdc/pipeline"
)

// member is a fragment of a distributed transaction, from its PREPARE on; or the one-phase commit that decides
// such a transaction and has rows of its own (gid is empty then).
type member struct {
	shard      *shard
	txn        *txn // nil until it is known which of its global id's transactions it belongs to
	gid        string
	global     string // what the gid is a part of; empty for a decider and for what is known from the checkpoint only
	xid        pipeline.XID
	start, end pipeline.LSN
	fragment   *pipeline.Fragment
	bound      pipeline.CSN
	processed  bool
	rolledBack bool
	awaited    bool         // pending by the checkpoint started from, and not received again yet
	second     pipeline.LSN // where its second phase ends, once received

	// From when to when it was prepared, by its shard's clock. until is 0 while no second phase is received.
	// clocked is false when the times may be another clock's.
	from, until pipeline.Timestamp
	clocked     bool
	disputed    bool // the shard's clock stepped back, so from and until are no evidence; see history
}

// done says whether the member's content is handed out, or there was none.
func (mb *member) done() bool { return mb.txn != nil && (mb.txn.taken || mb.txn.empty) }

// txn is a distributed transaction, from its decision on. What is only prepared has none.
type txn struct {
	global  string
	first   *member // the one whose second phase was received first, or the decider
	decider *member // the one-phase commit that lists the others; nil if there is none
	members []*member

	decidedAt pipeline.Timestamp // time of the decision
	trusted   bool               // decidedAt is that shard's own clock

	// Per shard: the first probe asked after the decision, and whether all of the transaction is received, which
	// is then at or below upTo.
	need   []uint64
	closed []bool
	upTo   []pipeline.LSN
	left   int // shards not closed

	sealed      bool
	doubtful    pipeline.CSN // not 0: it may hold another use's fragment; remembered until the watermark is here
	unprocessed int          // members that are not processed
	unsettled   int          // members whose second phase is not processed
	csn         pipeline.CSN
	empty       bool // placed, and there is nothing to hand out
	taken       bool
	paused      []*shard

	// Where another fragment is told apart by dates alone: the probe of each shard that has to be reached before.
	proofs []proof

	few struct { // backs the slices of a transaction on few shards, all in one allocation
		members [2]*member
		need    [fewShards]uint64
		closed  [fewShards]bool
		upTo    [fewShards]pipeline.LSN
	}
}

// fewShards is up to which number a txn has its shards' state within itself.
const fewShards = 4

// newTxn has one member, and is closed on none of so many shards.
func newTxn(first *member, shards int) *txn {
	t := &txn{first: first, left: shards}
	t.members = append(t.few.members[:0], first)
	if shards <= fewShards {
		t.need, t.closed, t.upTo = t.few.need[:shards], t.few.closed[:shards], t.few.upTo[:shards]
	} else {
		t.need, t.closed, t.upTo = make([]uint64, shards), make([]bool, shards), make([]pipeline.LSN, shards)
	}
	return t
}

type proof struct {
	shard *shard
	probe uint64
}

// release lets go of the row data once it is handed out, or if there is none.
func (t *txn) release() {
	for _, mb := range t.members {
		mb.fragment = nil
	}
}

// lists says whether a fragment of this gid may be part of t as far as t's list, if it has one, tells.
func (t *txn) lists(gid string) bool {
	return t.decider == nil || slices.Contains(t.decider.fragment.Decides, gid)
}

// has says whether t has a fragment of this gid on the shard already.
func (t *txn) has(s *shard, gid string) bool {
	return slices.ContainsFunc(t.members, func(mb *member) bool { return mb.shard == s && mb.gid == gid })
}

// on says whether t has a fragment on the shard.
func (t *txn) on(s *shard) bool {
	return slices.ContainsFunc(t.members, func(mb *member) bool { return mb.shard == s })
}

// family is what is known under one global id. Usually that is one transaction; when the id is used again while
// streams lag, it is several.
type family struct {
	prepared []*member // received, and their second phase not processed, oldest first; and the rolled back (see forget)
	txns     []*txn    // decided, and not all second phases processed, oldest first

	few struct { // backs the slices, nearly always
		prepared [2]*member
		txns     [1]*txn
	}
}

func (m *Merger) family(global string) *family {
	f := m.byGlobal[global]
	if f == nil {
		f = &family{}
		f.prepared, f.txns = f.few.prepared[:0], f.few.txns[:0]
		m.byGlobal[global] = f
	}
	return f
}

// forget drops a family of which nothing is under way. Rolled back fragments are kept no longer than that: they
// only tell whether a transaction's halves disagree.
func (m *Merger) forget(global string) {
	f := m.byGlobal[global]
	if f == nil || len(f.txns) > 0 {
		return // also when a settled transaction is remembered
	}
	if !slices.ContainsFunc(f.prepared, func(mb *member) bool { return !mb.rolledBack }) {
		delete(m.byGlobal, global)
	}
}

// together says whether two fragments of a global id can belong to one transaction: all PREPAREs of one come
// before all its second phases, so the times for which two fragments were prepared overlap. slack is how much
// the clocks may differ.
func together(a, b *member, slack pipeline.Timestamp) bool {
	if !a.clocked || !b.clocked {
		return true
	}
	return (b.until == 0 || a.from <= b.until+slack) && (a.until == 0 || b.from <= a.until+slack)
}

// claims says whether mb may be part of t. (Two fragments of one gid on one shard never are: the first one's second
// phase closed the shard for t.)
func (m *Merger) claims(t *txn, mb *member) bool {
	return !t.sealed && t.lists(mb.gid) && (t.decider != nil || m.datesAllow(t.first, mb)) && t.reaches(mb)
}

// datesAllow says whether two fragments can belong to one transaction as far as dates tell.
func (m *Merger) datesAllow(a, b *member) bool {
	return a.disputed || b.disputed || together(a, b, m.slack)
}

// reaches says whether mb can belong to t as far as positions tell: it was not prepared after t was decided.
func (t *txn) reaches(mb *member) bool {
	return !t.closed[mb.shard.id] || mb.end <= t.upTo[mb.shard.id]
}

// gather takes into t every fragment that is part of it and whose second phase has not been received. All of t
// is received; a fragment of an earlier transaction with this global id would have its second phase by now, and
// one of a later transaction was prepared after t's decision.
func (m *Merger) gather(f *family, t *txn) {
	for _, mb := range f.prepared {
		if mb.txn == nil && !mb.rolledBack && m.claims(t, mb) {
			mb.txn = t
			t.members = append(t.members, mb)
		}
	}
}

// absorb takes into t the family's decisions that were taken for others by dates that are disputed by now or that a list
// contradicts, if positions allow it. Without a list, each has to be closed before, or a fragment of it could still come; until then absorb returns false.
func (m *Merger) absorb(f *family, t *txn) bool {
	same := func(u *txn) bool { return u != t && !u.sealed && m.sameUse(t, u) }
	if slices.ContainsFunc(f.txns, func(u *txn) bool { return same(u) && u.left > 0 && t.decider == nil && u.decider == nil }) {
		return false
	}
	f.txns = slices.DeleteFunc(f.txns, func(u *txn) bool {
		if !same(u) {
			return false
		}
		t.take(u)
		return true
	})
	return true
}

// take makes u, which is the same use of the global id, a part of t.
func (t *txn) take(u *txn) {
	if t.first.disputed && !u.first.disputed {
		t.first, t.decidedAt, t.trusted = u.first, u.decidedAt, u.trusted
	}
	if u.decider != nil {
		t.decider = u.decider
	}
	for _, mb := range u.members {
		mb.txn = t
	}
	t.members = append(t.members, u.members...)
	for _, s := range u.paused {
		s.pausedAt = t
	}
	t.paused = append(t.paused, u.paused...)
	u.sealed = true // nothing waits for it any more
}

// sameUse says whether two decisions that only dates keep apart are one: a list names what the other has, or the dates are
// disputed.
func (m *Merger) sameUse(t, u *txn) bool {
	list, otherList := t.decider != nil, u.decider != nil
	if list && otherList || !list && !otherList && !t.first.disputed && !u.first.disputed {
		return false
	}
	return t.admits(u) && u.admits(t)
}

// admits says whether every fragment of u may be t's by position, gid and list.
func (t *txn) admits(u *txn) bool {
	return !slices.ContainsFunc(u.members, func(mb *member) bool {
		return mb != u.decider && (!t.lists(mb.gid) || t.has(mb.shard, mb.gid)) || !t.reaches(mb)
	})
}

// wants says whether mb, which another decision has, may be t's instead, and t has nothing else on its shard: dates in
// dispute tell neither way, others speak for t.
func (t *txn) wants(mb *member) bool {
	u := mb.txn
	if u == t || t.decider != nil || mb == u.first || t.on(mb.shard) || !t.reaches(mb) {
		return false
	}
	return mb.disputed || t.first.disputed || u.first.disputed || together(mb, t.first, 0) && !together(mb, u.first, 0)
}

// ofLater finds a prepared fragment that cannot be t's and overlaps with mb, which is t's only because clocks differ.
func (f *family) ofLater(t *txn, mb *member) *member {
	if mb.disputed || t.first.disputed || mb.from <= t.first.until || together(mb, t.first, 0) {
		return nil
	}
	i := slices.IndexFunc(f.prepared, func(o *member) bool {
		return o.txn == nil && !o.rolledBack && (t.has(o.shard, o.gid) || !t.reaches(o)) && together(mb, o, 0) && !f.follows(mb, o)
	})
	if i < 0 {
		return nil
	}
	return f.prepared[i]
}

// nearer finds a fragment on mb's shard that overlaps with t, which has mb only because clocks differ.
func (f *family) nearer(t *txn, mb *member) *member {
	if mb == t.first || mb.disputed || t.first.disputed || together(mb, t.first, 0) {
		return nil
	}
	nearer := func(o *member) bool {
		toCome := o.txn == nil && !t.sealed && t.reaches(o) // sealing will take it, too
		return o.shard == mb.shard && o.txn != t && !toCome && !o.rolledBack && !o.disputed && together(o, t.first, 0)
	}
	if i := slices.IndexFunc(f.prepared, nearer); i >= 0 {
		return f.prepared[i]
	}
	for _, u := range f.txns {
		if i := slices.IndexFunc(u.members, nearer); i >= 0 {
			return u.members[i]
		}
	}
	return nil
}

// follows says whether mb's gid was used again on its shard by a fragment that overlaps with o, too: then that one is o's.
func (f *family) follows(mb, o *member) bool {
	return slices.ContainsFunc(f.prepared, func(y *member) bool {
		return y.shard == mb.shard && y.gid == mb.gid && y.end > mb.end && together(y, o, 0)
	})
}

// tornBy finds a rolled back fragment that was, by the clocks, part of t.
func (f *family) tornBy(t *txn) *member {
	for _, mb := range f.prepared {
		if mb.rolledBack && t.lists(mb.gid) && !t.has(mb.shard, mb.gid) && !t.first.disputed && !mb.disputed && together(t.first, mb, 0) {
			return mb
		}
	}
	return nil
}
