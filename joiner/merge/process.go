package merge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline"
)

// wake schedules a shard's queue to be processed.
func (m *Merger) wake(s *shard) { m.runnable = append(m.runnable, s) }

// run processes until nothing moves.
func (m *Merger) run() error {
	for len(m.runnable) > 0 || len(m.sealed) > 0 || len(m.closing) > 0 {
		for i := 0; i < len(m.closing); i++ { // sealing one may close others
			if err := m.trySeal(m.closing[i]); err != nil {
				return err
			}
		}
		m.closing = m.closing[:0]
		for len(m.sealed) > 0 {
			t := m.sealed[len(m.sealed)-1]
			m.sealed = m.sealed[:len(m.sealed)-1]
			m.tryPlace(t)
		}
		if len(m.runnable) == 0 {
			break
		}
		s := m.runnable[len(m.runnable)-1]
		m.runnable = m.runnable[:len(m.runnable)-1]
		if err := m.process(s); err != nil {
			return err
		}
	}
	m.forgetDoubtful()
	m.assertInvariants()
	return m.refuseDeadlock()
}

// refuseDeadlock stops when every paused stream waits for a transaction that is sealed: these need nothing but
// processing, and nothing will be processed any more. It happens only when fragments of two transactions were
// put together; see the package doc's BUGs.
func (m *Merger) refuseDeadlock() error {
	var waits []string
	for _, s := range m.shards {
		t := s.pausedAt
		if t == nil || t.csn != 0 {
			continue
		}
		if !t.sealed {
			return nil
		}
		waits = append(waits, fmt.Sprintf("shard %d for %q", s.id, t.global))
	}
	if len(waits) == 0 {
		return nil
	}
	return m.fail("streams wait for each other: %s. A gid was used again by a transaction with other participants. "+
		"Try: unique gids, or gid rules that keep them apart; then cdcctl drop-subscription and cdcctl create-subscription", strings.Join(waits, ", "))
}

// process takes records from the head of a shard's queue until it is empty or a decision has to wait.
func (m *Merger) process(s *shard) error {
	if s.pausedAt != nil && s.pausedAt.csn == 0 {
		return nil
	}
	s.pausedAt = nil
	for s.queue.len() > 0 {
		e := s.queue.first()
		if !m.step(s, e) {
			return m.failure
		}
		s.processed = max(s.processed, e.end)
		s.queue.pop()
	}
	s.processed = max(s.processed, s.received)
	return m.failure
}

// step processes one entry. It returns false when the entry has to stay where it is.
func (m *Merger) step(s *shard, e *entry) bool {
	switch {
	case e.kind == 0:
		s.floor = max(s.floor, e.csn)
		return true
	case e.member != nil:
		return m.stepMember(s, e)
	case e.fragment != nil:
		m.stepCommit(s, e.fragment)
	}
	return true
}

// stepCommit gives a one-phase commit its CSN.
func (m *Merger) stepCommit(s *shard, f *pipeline.Fragment) {
	csn := s.floor + 1
	if f.Origin == "" {
		csn = max(csn, pipeline.CSNAt(f.Time))
	}
	if f.Changes == 0 {
		s.floor = max(s.floor, csn)
		return
	}
	p := m.waiting.make()
	p.tx.CSN, p.tx.CommitTime = csn, f.Time
	p.one[0] = f
	p.tx.Fragments = p.one[:]
	m.waiting.place(p)
	s.floor = p.tx.CSN
	s.untaken.push(untakenCommit{before: s.processed, csn: p.tx.CSN})
	m.counts.Commits++
}

// stepMember processes a record of a distributed transaction.
func (m *Merger) stepMember(s *shard, e *entry) bool {
	mb, t := e.member, e.member.txn
	switch e.kind {
	case pipeline.Prepare:
		m.bind(s, mb)
		return true
	case pipeline.Commit: // a decision with rows of its own
		if !mb.processed {
			m.bind(s, mb)
		}
		if t.csn == 0 {
			m.pause(s, t)
			return false
		}
		s.floor = max(s.floor, t.csn)
		if !t.empty {
			s.untaken.push(untakenCommit{before: s.processed, csn: t.csn})
		}
		return true
	default: // COMMIT PREPARED
		if t.csn == 0 {
			m.pause(s, t)
			return false
		}
		s.floor = max(s.floor, t.csn)
		m.settled(mb)
		return true
	}
}

// bind processes a PREPARE, or the own rows of a decision.
func (m *Merger) bind(s *shard, mb *member) {
	if mb.rolledBack {
		return
	}
	mb.bound = s.floor
	mb.processed = true
	m.counts.Prepares++
	if t := mb.txn; t != nil && t.sealed {
		t.unprocessed--
		if t.unprocessed == 0 {
			m.sealed = append(m.sealed, t)
		}
	}
}

// pause stops a stream until t is placed. It may be placed right after this step: run looks again.
func (m *Merger) pause(s *shard, t *txn) {
	if s.pausedAt == t {
		return
	}
	s.pausedAt = t
	t.paused = append(t.paused, s)
	m.counts.Pauses++
}

// settled notes that a member's second phase is processed; the last one lets the transaction go.
func (m *Merger) settled(mb *member) {
	t := mb.txn
	t.unsettled--
	f := m.byGlobal[t.global]
	if f == nil {
		return // known from the checkpoint only
	}
	f.prepared = slices.DeleteFunc(f.prepared, func(o *member) bool { return o == mb })
	m.leave(f, t)
}

// leave drops t from its family when no second phase of it is missing.
func (m *Merger) leave(f *family, t *txn) {
	if t.unsettled == 0 && t.doubtful == 0 {
		f.txns = slices.DeleteFunc(f.txns, func(o *txn) bool { return o == t })
		m.forget(t.global)
	}
}

// tryPlace gives t its CSN once it is whole: sealed, and every fragment processed.
func (m *Merger) tryPlace(t *txn) {
	if t.unprocessed > 0 || t.csn != 0 {
		return
	}
	csn := m.Watermark() + 1
	p := &placed{tx: pipeline.Transaction{GID: t.global, CommitTime: t.decidedAt}, t: t}
	for _, mb := range t.members {
		csn = max(csn, mb.bound+1)
		if mb.fragment.Origin == "" {
			csn = max(csn, pipeline.CSNAt(mb.fragment.Time))
		}
		if mb.fragment.Changes > 0 {
			p.tx.Fragments = append(p.tx.Fragments, mb.fragment)
		}
	}
	p.tx.CSN = csn
	t.empty = len(p.tx.Fragments) == 0
	if t.empty {
		t.release()
	} else {
		slices.SortFunc(p.tx.Fragments, func(a, b *pipeline.Fragment) int {
			return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Start, b.Start))
		})
		m.waiting.place(p)
	}
	t.csn = p.tx.CSN
	m.counts.Placed++
	for _, s := range t.paused {
		m.wake(s)
	}
	t.paused = nil
	m.leave(m.byGlobal[t.global], t)
}
