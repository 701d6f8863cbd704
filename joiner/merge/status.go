package merge

import "shardcdc/pipeline"

// Status describes what the merge holds and what it waits for.
type Status struct {
	Watermark pipeline.CSN
	Last      pipeline.CSN // of the last transaction taken
	Waiting   int          // transactions placed that may not leave yet
	Undecided int          // distributed transactions prepared and not decided
	Decided   int          // decided and not placed
	BytesHeld int
	Counts    Counts
	Shards    []ShardStatus
	InDoubt   Prepared // the undecided transaction prepared first; none: the zero value
	// Unfinished counts prepared fragments of committed transactions whose second phase has not been received:
	// their shards hold locks for them. Oldest is the one prepared first, as far as that is known.
	Unfinished int
	Oldest     Prepared
	// WaitingSince is the earliest commit, as far as it is known, that is not handed out; 0: none.
	WaitingSince pipeline.Timestamp
}

// Prepared is a fragment without a second phase.
type Prepared struct {
	GID   string
	Shard pipeline.ShardID
	At    pipeline.Timestamp // 0: not known
}

// ShardStatus is a shard's part of Status.
type ShardStatus struct {
	Received, Processed, Through, Confirmed pipeline.LSN
	Floor                                   pipeline.CSN
	Date                                    pipeline.Timestamp // the latest of a record of its own, received
	Queued                                  int                // records received and not processed
	PausedAt                                string             // global id of the transaction that the stream waits for
	WaitedFor                               string             // why progress needs this shard; empty if it does not
}

// Status reports the present state.
func (m *Merger) Status() Status {
	st := Status{
		Watermark: m.Watermark(), Last: m.last, Waiting: m.waiting.len(), BytesHeld: m.held, Counts: m.counts,
	}
	if first := m.waiting.min(); first != nil {
		st.waits(first.tx.CommitTime)
	}
	for _, f := range m.byGlobal {
		st.count(f)
	}
	for _, s := range m.shards {
		st.Shards = append(st.Shards, m.shardStatus(s))
		for _, mb := range s.members {
			if mb.txn != nil && mb.second == 0 {
				st.Unfinished++
				st.Oldest.earlier(mb)
			}
		}
	}
	return st
}

func (st *Status) waits(since pipeline.Timestamp) {
	if st.WaitingSince == 0 || since < st.WaitingSince {
		st.WaitingSince = since
	}
}

func (p *Prepared) earlier(mb *member) {
	if p.GID == "" || mb.from < p.At {
		*p = Prepared{GID: mb.gid, Shard: mb.shard.id, At: mb.from}
	}
}

func (st *Status) count(f *family) {
	deciding, undecided := false, false
	for _, t := range f.txns {
		if t.csn == 0 {
			st.Decided++
			st.waits(t.decidedAt)
		}
		deciding = deciding || !t.sealed
	}
	for _, mb := range f.prepared {
		if mb.txn != nil || mb.rolledBack || deciding {
			continue
		}
		undecided = true
		st.InDoubt.earlier(mb)
	}
	if undecided {
		st.Undecided++
	}
}

func (m *Merger) shardStatus(s *shard) ShardStatus {
	out := ShardStatus{
		Received: s.received, Processed: s.processed, Through: s.processed, Confirmed: s.confirmed,
		Floor: s.floor, Date: s.ownDate, Queued: s.queue.len(),
	}
	if s.untaken.len() > 0 {
		out.Through = s.untaken.first().before
	}
	if s.pausedAt != nil {
		out.PausedAt = s.pausedAt.global
	}
	awaited := s.awaited()
	switch {
	case awaited != nil:
		out.WaitedFor = "fragments of " + awaited.global
	case len(s.marks) > 0:
		out.WaitedFor = "its stream to reach " + s.marks[len(s.marks)-1].at.String()
	case s.queue.len() == 0 && m.holdsBack(s):
		out.WaitedFor = "its clock to pass a waiting transaction"
	}
	return out
}
