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
		s.ownDate = max(s.ownDate, r.Time)
	}
	if r.End <= s.through {
		s.queue.push(entry{kind: pipeline.Commit, end: r.End})
		return nil
	}
	m.held += len(f.Body)
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
	t := m.listing(s, r, global)
	mb := &member{shard: s, txn: t, xid: r.XID, start: r.Start, end: r.End, fragment: f}
	t.members = append(t.members, mb)
	t.unprocessed++
	t.decider = mb
	if !t.decided {
		m.decide(t, s, r.Time, f.Origin == "")
	}
	m.close(t, s) // no PREPARE of t follows its decision, on any shard
	t.relist()
	return mb, m.trySeal(t)
}

func (m *Merger) intakePrepare(s *shard, r *pipeline.Record) error {
	f := r.Fragment
	if f.Origin == "" {
		s.ownDate = max(s.ownDate, r.Time)
	}
	mb := s.resent[r.End]
	dealtWith := r.End <= s.through
	if _, open := s.prepared[prepareKey{r.GID, r.XID}]; open {
		dealtWith = true // of a transaction without changes, that was decided when the checkpoint was made
	}
	if mb == nil && dealtWith {
		s.queue.push(entry{kind: pipeline.Prepare, end: r.End})
		return nil
	}
	if mb == nil {
		mb = &member{}
	}
	delete(s.resent, r.End)
	global := m.conf.GlobalID(r.GID)
	if err := m.refuseLate(s, r, global); err != nil {
		return err
	}
	t := m.naming(global, s, f)
	if t == nil {
		t = m.find(global, func(t *txn) bool { return m.joins(t, s, f) })
	}
	if t.rolledBackOn == s {
		t.rolledBackAt = 0 // a later attempt under the same global id: all PREPAREs of one come before any second phase
	}
	inCheckpoint := mb.awaited
	*mb = member{shard: s, txn: t, gid: r.GID, xid: r.XID, start: r.Start, end: r.End, fragment: f}
	if !inCheckpoint {
		s.members = append(s.members, mb)
	}
	t.members = append(t.members, mb)
	t.unprocessed++
	s.prepared[prepareKey{r.GID, r.XID}] = mb
	m.held += len(f.Body)
	s.queue.push(entry{kind: pipeline.Prepare, member: mb, end: r.End})
	t.relist()
	return m.trySeal(t)
}

// find returns the oldest transaction of the global id that fits and is not sealed, or a new one.
func (m *Merger) find(global string, fits func(*txn) bool) *txn {
	for _, t := range m.byGlobal[global] {
		if !t.sealed && fits(t) {
			return t
		}
	}
	t := &txn{global: global}
	m.byGlobal[global] = append(m.byGlobal[global], t)
	return t
}

// joins says whether a prepared fragment may be one of t.
func (m *Merger) joins(t *txn, s *shard, f *pipeline.Fragment) bool {
	for _, mb := range t.members {
		if mb.shard == s && mb.gid == f.GID {
			return false
		}
	}
	if t.decider != nil && !slices.Contains(t.decider.fragment.Decides, f.GID) {
		return false
	}
	if m.closedAt(t, s, f.End) {
		return false
	}
	return !t.clocked(f) || f.Time <= t.decidedAt.Add(m.skew)
}

// closedAt says whether a record that ends at end came too late on s to be part of t.
func (m *Merger) closedAt(t *txn, s *shard, end pipeline.LSN) bool {
	if !t.decided {
		return false
	}
	if t.closed[s.id] {
		return true
	}
	at, ok := s.answerTo(t.need[s.id])
	return ok && end > at
}

// refuseLate stops when a PREPARE, or a commit that lists gids, was by its date part of a transaction that is sealed without it.
func (m *Merger) refuseLate(s *shard, r *pipeline.Record, global string) error {
	if r.Fragment.Origin != "" {
		return nil
	}
	for _, t := range m.byGlobal[global] {
		if t.sealed && t.trusted && t.decider == nil && r.Time < t.decidedAt.Add(-m.skew) {
			return m.fail("%s (%s) is dated %s and turned up after its transaction %q, decided at %s, was put together without it. "+
				"Nothing after the last published transaction has left. Try: cdcctl check, compare the clocks of the shards", r.Fragment, r.Kind, r.Time, global, t.decidedAt)
		}
	}
	return nil
}

func (m *Merger) intakeCommitPrepared(s *shard, r *pipeline.Record) error {
	mb := s.prepared[prepareKey{r.GID, r.XID}]
	if mb == nil {
		if r.End <= s.through {
			s.queue.push(entry{kind: pipeline.CommitPrepared, end: r.End})
			return nil
		}
		return m.fail("shard %d: COMMIT PREPARED %q (xid %d) at %s, but its PREPARE was neither received nor is it in the stream. "+
			"Was the slot made while it was prepared, or moved by hand? Try: cdcctl drop-subscription, then cdcctl create-subscription", s.id, r.GID, r.XID, r.End)
	}
	delete(s.prepared, prepareKey{r.GID, r.XID})
	mb.second = r.End
	t := mb.txn
	s.queue.push(entry{kind: pipeline.CommitPrepared, member: mb, end: r.End})
	if t.done() {
		return nil
	}
	if t.rolledBackAt >= mb.fragment.Time.Add(m.skew) && t.rolledBackPrepared <= r.Time.Add(m.skew) {
		return m.disagree(t.global, s)
	}
	own := mb.fragment.Origin == "" && r.Time >= mb.fragment.Time
	if own {
		t = m.part(mb, r.Time)
	}
	if !t.decided {
		m.decide(t, s, r.Time, own)
	}
	m.close(t, s)
	return m.trySeal(t)
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
	t := mb.txn
	if mb.fragment != nil && mb.fragment.Origin == "" {
		t = m.part(mb, r.Time)
	}
	if t.taken || t.sealed || t.decided && r.Time >= t.earliestPrepare(mb).Add(m.skew) {
		return m.disagree(m.conf.GlobalID(r.GID), s)
	}
	m.detach(mb, r.Time)
	t.relist()
	return m.trySeal(t)
}

// detach takes a rolled back fragment out of its transaction.
func (m *Merger) detach(mb *member, at pipeline.Timestamp) {
	t := mb.txn
	mb.rolledBack = true
	m.held -= len(mb.fragment.Body)
	m.counts.RolledOut++
	t.members = slices.DeleteFunc(t.members, func(o *member) bool { return o == mb })
	if !mb.processed {
		t.unprocessed--
	}
	if t.rolledBackAt < at {
		t.rolledBackAt, t.rolledBackOn, t.rolledBackPrepared = at, mb.shard, mb.fragment.Time
	}
	mb.fragment = nil
	if len(t.members) == 0 {
		m.forget(t)
	}
}

// earliestPrepare is the earliest prepare time of t's members but for one.
func (t *txn) earliestPrepare(but *member) pipeline.Timestamp {
	earliest := pipeline.Timestamp(1<<63 - 1)
	for _, mb := range t.members {
		if mb != but && mb.fragment != nil {
			earliest = min(earliest, mb.fragment.Time)
		}
	}
	return earliest
}

// forget drops a transaction from the index by global id.
func (m *Merger) forget(t *txn) {
	left := slices.DeleteFunc(m.byGlobal[t.global], func(o *txn) bool { return o == t })
	if len(left) == 0 {
		delete(m.byGlobal, t.global)
		return
	}
	m.byGlobal[t.global] = left
}
