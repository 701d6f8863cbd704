package merge

import (
	"shardcdc/pipeline"
)

// shard is one stream's state.
type shard struct {
	id        pipeline.ShardID
	through   pipeline.LSN // of the checkpoint started from: what ends at or below is dealt with
	received  pipeline.LSN
	processed pipeline.LSN
	confirmed pipeline.LSN
	floor     pipeline.CSN
	ownDate   pipeline.Timestamp // the latest date of a record of its own, received since its clock last stepped back
	lastEnd   pipeline.LSN       // of the last record offered
	clock     history

	queue    fifo[entry]
	pausedAt *txn // the decision at the head of the queue waits for this transaction

	prepared map[prepareKey]*member   // received or known from the checkpoint; second phase not received
	resent   map[pipeline.LSN]*member // pending by the checkpoint and not received again yet, by PREPARE end

	// For checkpoints: prepared fragments that are processed and not yet behind everything, in order of
	// their PREPAREs; and one-phase commits that are not taken yet, in order of position and so of CSN (I5).
	members []*member
	untaken fifo[untakenCommit]

	// Probes. asked is the number of the last one asked, answered of the last one answered; wanted > asked
	// means that one must be asked.
	asked, answered, wanted uint64
	overtakes               pipeline.CSN // the highest CSN given when the outstanding probe was asked
	answers                 fifo[answer] // those that an unclosed transaction may need, oldest first
	reached                 uint64       // the last one whose position has been received
	doubted                 []*txn       // decisions that wait for reached, to see whether this shard's dates can be trusted
	marks                   []mark       // answers whose position has not been received
	unclosed                fifo[*txn]   // decided transactions that wait for this shard, in order of decision
}

// entry is a record that waits to be processed, or the instant of a probe.
type entry struct {
	kind     pipeline.RecordKind // 0: a mark
	fragment *pipeline.Fragment  // one-phase commit
	member   *member             // the others; nil when there is nothing left to do but to pass
	end      pipeline.LSN
	csn      pipeline.CSN // mark
}

type prepareKey struct {
	gid string
	xid pipeline.XID
}

// untakenCommit is a one-phase commit that waits; before is where processing stood ahead of it.
type untakenCommit struct {
	before pipeline.LSN
	csn    pipeline.CSN
}

type answer struct {
	id      uint64
	flushed pipeline.LSN
}

type mark struct {
	id    uint64
	at    pipeline.LSN
	clock pipeline.Timestamp
	csn   pipeline.CSN
}

func newShard(id pipeline.ShardID, floor pipeline.CSN, c *pipeline.ShardCheckpoint) *shard {
	s := &shard{
		id: id, through: c.Through, confirmed: c.Safe(), floor: floor,
		received: c.Safe(), processed: c.Through, lastEnd: c.Safe(),
		clock:    history{latest: floor.Time()},
		prepared: map[prepareKey]*member{},
		resent:   map[pipeline.LSN]*member{},
	}
	for _, p := range c.Pending {
		// Until it is received again it stands in checkpoints by its position alone.
		mb := &member{shard: s, start: p.Start, end: p.End, awaited: true}
		s.resent[p.End] = mb
		s.members = append(s.members, mb)
	}
	for _, o := range c.Open {
		t := &txn{csn: max(floor, 1), sealed: true, taken: true} // 0 would say that it has no CSN yet
		mb := &member{shard: s, txn: t, gid: o.GID, xid: o.XID, processed: true}
		t.unsettled = 1
		s.prepared[prepareKey{o.GID, o.XID}] = mb
		s.members = append(s.members, mb)
	}
	return s
}
