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
	OldestGID string // the undecided transaction prepared first, and when
	OldestAt  pipeline.Timestamp
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
		Watermark: m.Watermark(), Last: m.last, Waiting: m.tree.Len(), BytesHeld: m.held, Counts: m.counts,
	}
	for _, f := range m.byGlobal {
		st.count(f)
	}
	for _, s := range m.shards {
		st.Shards = append(st.Shards, m.shardStatus(s))
	}
	return st
}

func (st *Status) count(f *family) {
	deciding, undecided := false, false
	for _, t := range f.txns {
		if t.csn == 0 {
			st.Decided++
		}
		deciding = deciding || !t.sealed
	}
	for _, mb := range f.prepared {
		if mb.txn != nil || mb.rolledBack || deciding {
			continue
		}
		undecided = true
		if st.OldestGID == "" || mb.from < st.OldestAt {
			st.OldestGID, st.OldestAt = mb.gid, mb.from
		}
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
