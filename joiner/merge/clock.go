package merge

import (
	"slices"
	"time"

	"shardcdc/pipeline"
)

// stampDelay is how long a server may take from reading its clock for a commit or PREPARE to writing the record.
// A record that is dated earlier than one before it by less than MaxClockSkew and this is no sign of a clock that was set.
const stampDelay = pipeline.Timestamp(time.Second / time.Microsecond)

// history is what a shard's stream has told of its clock. Along the WAL the dates go forward. Where they go back by more
// than the clocks are allowed to differ, the clock was set, and one of two things holds: it was ahead before, and what is
// dated later than the new time is wrong; or it is behind now, and what is dated earlier than the old time is wrong.
// Which one it was cannot be seen in the stream, so both are disputed: these dates are no evidence for anything. A clock
// that was wrong for a while, forth or back, steps back once, at the end or at the beginning of that while.
type history struct {
	latest pipeline.Timestamp // the latest date seen; at the start the watermark's, which all shards had reached
	lowest pipeline.Timestamp // the earliest one since then, that members were compared with; 0: none
	first  pipeline.Timestamp // the first one
}

// dated takes the date of a record of the shard's own.
func (m *Merger) dated(s *shard, at pipeline.Timestamp) {
	if h := &s.clock; h.first != 0 && at >= h.latest { // nearly always
		h.latest = at
		s.ownDate = max(s.ownDate, at)
		return
	}
	if m.looked(s, at) {
		s.ownDate = at
		return
	}
	s.ownDate = max(s.ownDate, at)
}

// looked takes any reading of the shard's clock in the order of its WAL: a record's date, a probe's clock at its position.
// It reports whether the clock was set back just before.
func (m *Merger) looked(s *shard, at pipeline.Timestamp) bool {
	h := &s.clock
	if h.first == 0 {
		h.first = at
	}
	if !m.isStep(h.latest, at) {
		h.latest = max(h.latest, at)
		return false
	}
	if h.lowest != 0 && at >= h.lowest {
		return false // all that is dated later is disputed already
	}
	step := h.lowest == 0 || m.isStep(h.lowest, at)
	h.lowest = at
	m.disputeAhead(s, at)
	if step {
		m.counts.StepsBack++
	}
	return step
}

// disputeAhead marks the shard's fragments that are dated later than its clock, which was set back to at.
func (m *Merger) disputeAhead(s *shard, at pipeline.Timestamp) {
	mark := func(mb *member) {
		if mb.shard == s && mb.clocked && (m.isStep(mb.from, at) || m.isStep(mb.until, at)) {
			mb.disputed = true
		}
	}
	for _, f := range m.byGlobal {
		for _, mb := range f.prepared {
			mark(mb)
		}
		for _, t := range f.txns {
			mark(t.first) // a commit that lists gids is not among the prepared
		}
	}
}

// isStep says whether a clock that showed from and then to was set.
func (m *Merger) isStep(from, to pipeline.Timestamp) bool { return to < from-m.slack-stampDelay }

// dispute marks a new fragment whose date is behind an earlier one.
func (m *Merger) dispute(mb *member) {
	h := &mb.shard.clock
	mb.disputed = mb.clocked && m.isStep(h.latest, mb.from)
	if !mb.disputed {
		h.lowest = 0 // what goes back from here on has to be compared with this fragment
	}
}

// reached notes that a probe's position is received, and with it all that the shard had written when it showed that time.
func (m *Merger) reached(s *shard, mk *mark) {
	s.reached = mk.id
	if mk.at >= s.lastEnd { // else later dates are known already
		m.looked(s, mk.clock)
	}
	m.closing = append(m.closing, s.doubted...)
	s.doubted = s.doubted[:0]
}

// unproven says whether t has to wait for probes, because dates alone keep a fragment away from it, whose clocks may be seen
// to have been wrong further on in their streams; or because only that clocks differ lets it have one, which then may be
// another use's, and the other fragments of that use are in the streams up to there. Positions that are too far away are
// not waited for.
func (m *Merger) unproven(f *family, t *txn) bool {
	if mb := m.keptAwayByDate(f, t); mb != nil {
		m.prove(t, t.first.shard, false)
		m.prove(t, mb.shard, false)
	}
	missing := false
	for _, p := range t.proofs {
		if p.shard.reached < p.probe && !m.datesCount(p.shard) {
			p.shard.doubted = append(p.shard.doubted, t)
			missing = true
		}
	}
	return missing
}

// prove has t wait for a probe of s that is asked from now on; anew: even if it waits for one already.
func (m *Merger) prove(t *txn, s *shard, anew bool) {
	i := slices.IndexFunc(t.proofs, func(p proof) bool { return p.shard == s })
	switch {
	case i < 0:
		t.proofs = append(t.proofs, proof{s, s.asked + 1})
	case anew:
		t.proofs[i].probe = s.asked + 1
	default:
		return
	}
	s.wanted = max(s.wanted, s.asked+1)
}

// keptAwayByDate finds a fragment that could be t's but for its date.
func (m *Merger) keptAwayByDate(f *family, t *txn) *member {
	if t.decider != nil {
		return nil // its list tells
	}
	only := func(mb *member) bool {
		return mb.txn != t && !mb.rolledBack && (mb.txn == nil || !mb.txn.sealed) && t.reaches(mb) && !m.datesAllow(t.first, mb)
	}
	for _, mb := range f.prepared {
		if !t.has(mb.shard, mb.gid) && only(mb) {
			return mb
		}
	}
	for _, u := range f.txns {
		if u.decider != nil && only(u.decider) && u.lists(t.first.gid) { // what is sealed may have left, and its list with it
			return u.decider
		}
	}
	return nil
}
