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
func (m *Merger) Probes(dst []Probe) []Probe {
	for _, s := range m.shards {
		if s.queue.len() == 0 && len(s.marks) == 0 && m.holdsBack(s) {
			s.wanted = max(s.wanted, s.answered+1)
		}
		if s.wanted > s.asked && s.asked == s.answered && len(s.marks) < marksMax {
			s.asked++
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
	s.marks = append(s.marks, mark{at: flushed, csn: pipeline.CSNAt(clock)})
	m.receivedUpTo(s, s.received)
	m.wake(s)
	return m.run()
}

// decide marks t as committed. at is the time of the decision on s; own says that it is s's own clock's.
func (m *Merger) decide(t *txn, s *shard, at pipeline.Timestamp, own bool) {
	t.decided, t.decidedAt, t.trusted = true, at, own
	t.need = make([]uint64, len(m.shards))
	t.closed = make([]bool, len(m.shards))
	t.left = len(m.shards)
	for j, other := range m.shards {
		if other == s {
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
	// Every PREPARE of t on s lies before its second phase there. A decision by a list says nothing about
	// later gid-less work, and its own shard holds no further fragment either: PREPAREs precede it.
	m.close(t, s)
}

// close notes that s holds nothing more of t than what is received.
func (m *Merger) close(t *txn, s *shard) {
	if t.sealed || t.closed[s.id] {
		return
	}
	t.closed[s.id] = true
	t.left--
	m.closing = append(m.closing, t)
}

// trySeal fixes the members of t if every shard is closed for it; if they are listed and in, every shard that
// has one is enough. (A listed fragment alone may be that of an earlier transaction with the same gid, until
// its second phase is received or its shard is closed.)
func (m *Merger) trySeal(t *txn) error {
	if t.sealed || !t.decided || t.left > 0 && !t.wholeByList() {
		return nil
	}
	if t.rolledBackAt > t.earliestPrepare(nil) && !(t.trusted && t.rolledBackPrepared > t.decidedAt.Add(m.skew)) {
		return m.disagree(t.global, t.rolledBackOn)
	}
	t.sealed = true
	t.left = 0
	t.listed = nil
	m.sealed = append(m.sealed, t)
	return nil
}

func (t *txn) wholeByList() bool {
	return t.decider != nil && len(t.listed) == 0 &&
		!slices.ContainsFunc(t.members, func(mb *member) bool { return !t.closed[mb.shard.id] })
}

// receivedUpTo moves a stream's position and closes the shard for the transactions that it completes.
func (m *Merger) receivedUpTo(s *shard, to pipeline.LSN) {
	s.received = max(s.received, to)
	left := s.marks[:0]
	for _, mk := range s.marks {
		if mk.at <= s.received {
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
	} else if t.trusted && s.ownDate > t.decidedAt.Add(m.skew) {
		m.counts.ByDate++
	} else {
		return false
	}
	m.close(t, s)
	return true
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
