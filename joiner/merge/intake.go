package merge

import (
	"slices"

	"shardcdc/pipeline"
)

// Offer takes records of a shard, in the order of its WAL, and the position that its stream has reached, which
// is at or behind the last record's end. An error is final: the Merger must not be used any more.
func (m *Merger) Offer(id pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error {
	if m.failure != nil {
		return m.failure
	}
	if int(id) >= len(m.shards) {
		return m.fail("shard %d of %d", id, len(m.shards))
	}
	s := m.shards[id]
	for i := range records {
		r := &records[i]
		if r.End <= s.lastEnd {
			return m.fail("shard %d: %s record at %s after one at %s: positions must rise", id, r.Kind, r.End, s.lastEnd)
		}
		s.lastEnd = r.End
		if err := m.intake(s, r); err != nil {
			return err
		}
		m.receivedUpTo(s, r.End)
	}
	m.receivedUpTo(s, received)
	m.wake(s)
	return m.run()
}

// intake matches one record and queues it.
func (m *Merger) intake(s *shard, r *pipeline.Record) error {
	switch r.Kind {
	case pipeline.Commit:
		return m.intakeCommit(s, r)
	case pipeline.Prepare:
		return m.intakePrepare(s, r)
	case pipeline.CommitPrepared:
		return m.intakeCommitPrepared(s, r)
	case pipeline.RollbackPrepared:
		return m.intakeRollback(s, r)
	}
	return m.fail("shard %d: %s at %s", s.id, r.Kind, r.End)
}

func (m *Merger) intakeCommit(s *shard, r *pipeline.Record) error {
	f := r.Fragment
	if f.Origin == "" {
		m.dated(s, r.Time)
	}
	if r.End <= s.through {
		m.drop(f)
		s.queue.push(entry{kind: pipeline.Commit, end: r.End})
		return nil
	}
	m.held += m.weight(f)
	if len(f.Decides) == 0 {
		s.queue.push(entry{kind: pipeline.Commit, fragment: f, end: r.End})
		return nil
	}
	mb, err := m.decideByList(s, r)
	if err != nil {
		return err
	}
	s.queue.push(entry{kind: pipeline.Commit, member: mb, end: r.End})
	return nil
}

// decideByList takes a one-phase commit that lists the gids of its transaction's other fragments.
func (m *Merger) decideByList(s *shard, r *pipeline.Record) (*member, error) {
	f := r.Fragment
	global := m.conf.GlobalID(f.Decides[0])
	for _, gid := range f.Decides[1:] {
		if g := m.conf.GlobalID(gid); g != global {
			return nil, m.fail("%s decides gids of two transactions, %q and %q. Try: check the gid rules", f, global, g)
		}
	}
	if err := m.refuseLate(s, r, global); err != nil {
		return nil, err
	}
	mb := &member{
		shard: s, xid: r.XID, start: r.Start, end: r.End, fragment: f, from: r.Time, until: r.Time, clocked: f.Origin == "",
	}
	m.dispute(mb)
	t := m.decidedBefore(global, mb)
	if t == nil {
		t = m.decide(global, mb, r.Time, mb.clocked)
	} else {
		mb.txn = t
		t.members = append(t.members, mb)
	}
	t.decider = mb
	m.close(t, s, r.End) // every PREPARE of t comes before its decision
	return mb, nil
}

// decidedBefore finds the transaction that the list decides if a second phase was received before the list.
func (m *Merger) decidedBefore(global string, decider *member) *txn {
	for _, t := range m.family(global).txns {
		if t.decider == nil && slices.Contains(decider.fragment.Decides, t.first.gid) && !t.sealed && t.reaches(decider) {
			return t
		}
	}
	return nil
}

func (m *Merger) intakePrepare(s *shard, r *pipeline.Record) error {
	f := r.Fragment
	if f.Origin == "" {
		m.dated(s, r.Time)
	}
	mb := s.resent[r.End]
	dealtWith := r.End <= s.through
	if _, open := s.prepared[prepareKey{r.GID, r.XID}]; open {
		dealtWith = true // of a transaction without changes, that was decided when the checkpoint was made
	}
	if mb == nil && dealtWith {
		m.drop(f)
		s.queue.push(entry{kind: pipeline.Prepare, end: r.End})
		return nil
	}
	delete(s.resent, r.End)
	global := m.conf.GlobalID(r.GID)
	if err := m.refuseLate(s, r, global); err != nil {
		return err
	}
	if mb == nil {
		mb = &member{}
		s.members = append(s.members, mb)
	}
	*mb = member{
		shard: s, gid: r.GID, global: global, xid: r.XID, start: r.Start, end: r.End, fragment: f, from: r.Time, clocked: f.Origin == "",
	}
	m.dispute(mb)
	family := m.family(global)
	family.prepared = append(family.prepared, mb)
	for _, t := range family.txns {
		if t.decider != nil && !t.sealed {
			m.closing = append(m.closing, t) // its list may be complete
		}
	}
	s.prepared[prepareKey{r.GID, r.XID}] = mb
	m.held += m.weight(f)
	s.queue.push(entry{kind: pipeline.Prepare, member: mb, end: r.End})
	return nil
}

func (m *Merger) intakeCommitPrepared(s *shard, r *pipeline.Record) error {
	mb := s.prepared[prepareKey{r.GID, r.XID}]
	if mb == nil {
		// It was dealt with before, or it changed nothing: of a transaction that only locked rows PostgreSQL (seen on 15) may send
		// the second phase without the PREPARE, for which it found nothing to send (ReorderBufferReplay: no base snapshot).
		// One with changes is known: a position that was started from has those prepared before in its checkpoint.
		s.queue.push(entry{kind: pipeline.CommitPrepared, end: r.End})
		return nil
	}
	delete(s.prepared, prepareKey{r.GID, r.XID})
	mb.second = r.End
	s.queue.push(entry{kind: pipeline.CommitPrepared, member: mb, end: r.End})
	if own := m.ended(mb, r.Time); mb.txn == nil {
		m.commit(mb, r.Time, own)
	}
	if !mb.txn.sealed {
		m.close(mb.txn, s, r.End) // every PREPARE of it on s lies before
	}
	return nil
}

// ended notes until when a member was prepared, also of one that is taken into its transaction already: another use of its
// gid is told from it by that. own says whether the time is the shard's.
func (m *Merger) ended(mb *member, at pipeline.Timestamp) (own bool) {
	// A time well before the PREPARE's is not the shard's own, but set by a session with a replication origin, or the clock
	// was set back meanwhile.
	if own = mb.clocked && at >= mb.from-m.slack; own {
		mb.until = at
	}
	return own
}

// commit finds the transaction of a member whose second phase was received, or makes it.
func (m *Merger) commit(mb *member, at pipeline.Timestamp, own bool) {
	if mb.clocked && !own {
		mb.disputed = true
	}
	for _, t := range m.family(mb.global).txns {
		if m.claims(t, mb) {
			mb.txn = t
			t.members = append(t.members, mb)
			if mb.disputed || t.first.disputed || !together(t.first, mb, 0) {
				for _, s := range m.shards {
					m.prove(t, s, true)
				}
			}
			return
		}
	}
	m.decide(mb.global, mb, at, own)
}

func (m *Merger) intakeRollback(s *shard, r *pipeline.Record) error {
	s.queue.push(entry{kind: pipeline.RollbackPrepared, end: r.End})
	mb := s.prepared[prepareKey{r.GID, r.XID}]
	if mb == nil {
		// Prepared before the position that the shard is read from. Nothing of it was kept, unless the
		// checkpoint still expected it.
		if awaited := s.resent[r.PrepareEnd]; awaited != nil {
			delete(s.resent, r.PrepareEnd)
			awaited.rolledBack, awaited.awaited = true, false
		}
		return nil
	}
	delete(s.prepared, prepareKey{r.GID, r.XID})
	global := m.conf.GlobalID(r.GID)
	if mb.txn != nil {
		return m.disagree(global, s)
	}
	m.held -= m.weight(mb.fragment)
	m.drop(mb.fragment)
	mb.fragment, mb.rolledBack = nil, true
	if mb.clocked && r.Time >= mb.from-m.slack {
		mb.until = r.Time
	}
	m.counts.RolledOut++
	family := m.family(global)
	family.prepared = slices.DeleteFunc(family.prepared, func(o *member) bool {
		return o != mb && o.rolledBack && o.shard == s && o.gid == mb.gid // the latest of a gid says enough
	})
	m.forget(global)
	return nil
}
