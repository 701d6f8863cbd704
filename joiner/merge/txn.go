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
	unprocessed int // members that are not processed
	unsettled   int // members whose second phase is not processed
	csn         pipeline.CSN
	empty       bool // placed, and there is nothing to hand out
	taken       bool
	paused      []*shard
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

// family is what is known under one global id. Usually that is one transaction; when the id is used again while
// streams lag, it is several.
type family struct {
	prepared []*member // received, and their second phase not processed, oldest first; and the rolled back (see forget)
	txns     []*txn    // decided, and not all second phases processed, oldest first
}

func (m *Merger) family(global string) *family {
	f := m.byGlobal[global]
	if f == nil {
		f = &family{}
		m.byGlobal[global] = f
	}
	return f
}

// forget drops a family of which nothing is under way. Rolled back fragments are kept no longer than that: they
// only tell whether a transaction's halves disagree.
func (m *Merger) forget(global string) {
	f := m.byGlobal[global]
	if f == nil || len(f.txns) > 0 {
		return
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
	return !t.sealed && t.lists(mb.gid) && together(t.first, mb, m.slack) &&
		(!t.closed[mb.shard.id] || mb.end <= t.upTo[mb.shard.id])
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

// tornBy finds a rolled back fragment that was, by the clocks, part of t.
func (f *family) tornBy(t *txn) *member {
	for _, mb := range f.prepared {
		if mb.rolledBack && t.lists(mb.gid) && !t.has(mb.shard, mb.gid) && together(t.first, mb, 0) {
			return mb
		}
	}
	return nil
}
