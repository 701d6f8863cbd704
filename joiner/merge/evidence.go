package merge

import (
	"slices"

	"shardcdc/pipeline"
)

// Probe asks for a shard's clock and then, after it, its flushed WAL position.
type Probe struct {
	Shard pipeline.ShardID
	ID    uint64
}

// marksMax bounds the answers of one shard whose position its stream has not reached. While a stream is far
// behind, new probes would tell nothing that the next one after catching up does not.
const marksMax = 2

// Probes appends the probes to be made now. Each is given once; a shard has one outstanding at most.
//
// A shard is probed for the highest transaction that waits, not only for the lowest: while one batch becomes durable, the
// next one shall be ready.
func (m *Merger) Probes(dst []Probe) []Probe {
	highest := m.waiting.max()
	for _, s := range m.shards {
		if s.queue.len() == 0 && len(s.marks) == 0 && s.floor < highest {
			s.wanted = max(s.wanted, s.answered+1)
		}
		if s.wanted > s.asked && s.asked == s.answered && len(s.marks) < marksMax {
			s.asked++
			s.overtakes = highest
			dst = append(dst, Probe{Shard: s.id, ID: s.asked})
		}
	}
	return dst
}

// Probed takes the answer to a probe.
func (m *Merger) Probed(id pipeline.ShardID, probe uint64, clock pipeline.Timestamp, flushed pipeline.LSN) error {
	if m.failure != nil {
		return m.failure
	}
	s := m.shards[id]
	if probe != s.asked || probe != s.answered+1 {
		return m.fail("shard %d: answer to probe %d, but %d is the one outstanding", id, probe, s.asked)
	}
	s.answered = probe
	if s.unclosed.len() > 0 {
		s.answers.push(answer{id: probe, flushed: flushed})
	}
	s.marks = append(s.marks, mark{id: probe, at: flushed, clock: clock, csn: max(pipeline.CSNAt(clock), s.overtakes)})
	m.receivedUpTo(s, s.received)
	m.wake(s)
	return m.run()
}

// decide makes the transaction that first, on its shard, says is committed: by a second phase, or by a list.
// Every other shard is to be probed.
func (m *Merger) decide(global string, first *member, at pipeline.Timestamp, own bool) *txn {
	t := newTxn(first, len(m.shards))
	t.global, t.decidedAt, t.trusted = global, at, own
	first.txn = t
	f := m.family(global)
	f.txns = append(f.txns, t)
	for j, other := range m.shards {
		if other == first.shard {
			continue
		}
		// A probe that is asked from now on; one that is under way may have been answered already.
		t.need[j] = other.asked + 1
		other.unclosed.push(t)
		m.receivedUpTo(other, other.received)
		if !t.closed[j] {
			other.wanted = max(other.wanted, t.need[j])
		}
	}
	return t
}

// close notes that what s holds of t ends at or below upTo, and is received.
func (m *Merger) close(t *txn, s *shard, upTo pipeline.LSN) {
	if t.sealed || t.closed[s.id] {
		return
	}
	t.closed[s.id], t.upTo[s.id] = true, upTo
	t.left--
	m.closing = append(m.closing, t)
}

// trySeal fixes the members of t if every shard is closed for it, or if they are listed and in.
func (m *Merger) trySeal(t *txn) error {
	f := m.byGlobal[t.global]
	if t.sealed || t.left > 0 && !m.wholeByList(f, t) {
		return nil
	}
	if !m.absorb(f, t) || m.unproven(f, t) {
		return nil // until more is known
	}
	m.gather(f, t)
	if mb := f.tornBy(t); mb != nil {
		return m.disagree(t.global, mb.shard)
	}
	if err := m.refuseAmbiguous(f, t); err != nil {
		return err
	}
	if err := m.refuseUnlisted(t); err != nil {
		return err
	}
	t.sealed = true
	m.remember(t)
	for _, mb := range t.members {
		if !mb.processed {
			t.unprocessed++
		}
		if mb != t.decider {
			t.unsettled++
		}
	}
	m.sealed = append(m.sealed, t)
	m.retry(f)
	return nil
}

// retry looks again at the family's decisions that are closed and were held up by another one, which might have been the
// same use.
func (m *Merger) retry(f *family) {
	for _, u := range f.txns {
		if !u.sealed && u.left == 0 {
			m.closing = append(m.closing, u)
		}
	}
}

// wholeByList says whether all that t's list names is in. A fragment that is named may still be that of an
// earlier transaction with the same gid, until its shard is closed for t.
func (m *Merger) wholeByList(f *family, t *txn) bool {
	if t.decider == nil {
		return false
	}
	return !slices.ContainsFunc(t.decider.fragment.Decides, func(gid string) bool {
		return !slices.ContainsFunc(f.prepared, func(mb *member) bool {
			in := mb.txn == t || mb.txn == nil && !mb.rolledBack && m.claims(t, mb)
			return mb.gid == gid && in && t.closed[mb.shard.id]
		})
	})
}

// receivedUpTo moves a stream's position and closes the shard for the transactions that it completes.
func (m *Merger) receivedUpTo(s *shard, to pipeline.LSN) {
	s.received = max(s.received, to)
	left := s.marks[:0]
	for _, mk := range s.marks {
		if mk.at <= s.received {
			m.reached(s, &mk)
			s.queue.push(entry{csn: mk.csn})
		} else {
			left = append(left, mk)
		}
	}
	s.marks = left
	for s.unclosed.len() > 0 && m.completes(s, *s.unclosed.first()) {
		s.unclosed.pop()
	}
	m.forgetAnswers(s)
}

// awaited is the first decided transaction that waits for what s will still receive, nil if there is none.
func (s *shard) awaited() *txn {
	for s.unclosed.len() > 0 {
		if t := *s.unclosed.first(); !t.sealed && !t.closed[s.id] {
			return t
		}
		s.unclosed.pop() // closed by other evidence meanwhile
	}
	return nil
}

// completes closes s for t if there is evidence that nothing of t is missing on s.
func (m *Merger) completes(s *shard, t *txn) bool {
	if t.sealed || t.closed[s.id] {
		return true
	}
	if at, ok := s.answerTo(t.need[s.id]); ok && s.received >= at {
		m.counts.ByProbe++
		m.close(t, s, at)
		return true
	}
	if t.trusted && !t.first.disputed && s.ownDate > t.decidedAt+m.slack && m.datesCount(s) {
		m.counts.ByDate++
		m.close(t, s, s.received)
		return true
	}
	return false
}

// datesCount says whether the dates of s's records are evidence: when a position of its server that was asked for is more
// than DatesBehind away.
func (m *Merger) datesCount(s *shard) bool {
	return m.conf.DatesBehind == 0 || slices.ContainsFunc(s.marks, func(mk mark) bool { return mk.at > s.received+m.conf.DatesBehind })
}

// answerTo finds the position that the first probe with this number or a later one gave.
func (s *shard) answerTo(need uint64) (pipeline.LSN, bool) {
	for i := s.answers.head; i < len(s.answers.items); i++ {
		if a := s.answers.items[i]; a.id >= need {
			return a.flushed, true
		}
	}
	return 0, false
}

// forgetAnswers drops answers that no unclosed transaction needs: transactions are unclosed in the order of
// their decisions, so of rising needs.
func (m *Merger) forgetAnswers(s *shard) {
	for s.answers.len() > 0 {
		if s.unclosed.len() > 0 && s.answers.first().id >= (*s.unclosed.first()).need[s.id] {
			return
		}
		s.answers.pop()
	}
}
