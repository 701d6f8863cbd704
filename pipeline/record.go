package pipeline

import "fmt"

// Transaction is a whole distributed transaction at its place in the global order.
type Transaction struct {
	CSN CSN
	// GID is the global id that the fragments share (a gid rule made it from their gids); empty for a
	// one-phase commit.
	GID string
	// CommitTime is the commit time of a one-phase commit, else that of the second phase read first.
	CommitTime Timestamp
	// Fragments, at least one, sorted by shard and then by position.
	Fragments []*Fragment
}

// Bytes is the size of the fragments' bodies.
func (t *Transaction) Bytes() int64 {
	n := int64(0)
	for _, f := range t.Fragments {
		n += f.Size()
	}
	return n
}

// Resident says that the row data is in memory, all of it.
func (t *Transaction) Resident() bool {
	for _, f := range t.Fragments {
		if f.Content != nil {
			return false
		}
	}
	return true
}

// Release lets go of row data that is kept elsewhere. The transaction cannot be read any more.
func (t *Transaction) Release() {
	for _, f := range t.Fragments {
		if f.Content != nil {
			f.Content.Release()
		}
	}
}

// Changes is the number of changes in all fragments.
func (t *Transaction) Changes() int {
	n := 0
	for _, f := range t.Fragments {
		n += f.Changes
	}
	return n
}

// RecordKind says what a Record of a shard's stream is.
type RecordKind uint8

const (
	Commit           RecordKind = iota + 1 // a one-phase commit
	Prepare                                // PREPARE TRANSACTION with its content
	CommitPrepared                         // the second phase
	RollbackPrepared                       // the second phase, undone
)

func (k RecordKind) String() string {
	switch k {
	case Commit:
		return "commit"
	case Prepare:
		return "prepare"
	case CommitPrepared:
		return "commit prepared"
	case RollbackPrepared:
		return "rollback prepared"
	}
	return fmt.Sprintf("record(%d)", uint8(k))
}

// Record is one event of a shard's stream, in the order of its WAL.
type Record struct {
	Kind       RecordKind
	Fragment   *Fragment // Commit and Prepare: the content; GID, XID, Start, End and Time repeat the fragment's
	GID        string    // all but Commit
	XID        XID
	Start, End LSN       // of the record itself
	PrepareEnd LSN       // RollbackPrepared: where the PREPARE record ended
	Time       Timestamp // of the event itself, by the shard's clock
}

// Checkpoint is how far the stream has come: everything that a node needs to go on after a crash. It is
// stored with every unit, so the last complete unit of a stream holds it.
type Checkpoint struct {
	// Last is the CSN of the last transaction in the stream.
	Last CSN
	// Watermark, at least Last: no transaction with this CSN or a lower one will follow.
	Watermark CSN
	Shards    []ShardCheckpoint // indexed by ShardID
}

// ShardCheckpoint is a shard's part of a Checkpoint.
type ShardCheckpoint struct {
	// Through: every record of the shard that ends at or below is dealt with (its fragment is in the stream,
	// rolled back or empty), but for the prepared fragments in Pending.
	Through LSN
	// Pending: prepared fragments that end at or below Through and are not in the stream yet.
	Pending []PendingPrepare
	// Open: fragments in the stream whose second phase has not been read, or lies behind Through.
	Open []OpenPrepare
}

// PendingPrepare is known by the position of its PREPARE record.
type PendingPrepare struct{ Start, End LSN }

// OpenPrepare is known by what its second phase will say.
type OpenPrepare struct {
	XID XID
	GID string
}

// Safe is the position that may be confirmed to the shard's slot, and from which it has to be read again
// after a crash: nothing that ends at or below is needed any more. It never lies inside a PREPARE record.
func (s *ShardCheckpoint) Safe() LSN {
	safe := s.Through
	for _, p := range s.Pending {
		safe = min(safe, p.Start)
	}
	return safe
}

// Batch is what the joiner hands to an output: transactions in rising CSN and the state after the last.
type Batch struct {
	// Previous is the CSN of the last transaction before this batch; a reader compares it to find gaps.
	Previous     CSN
	Transactions []*Transaction // may be empty: then only the checkpoint moved
	Checkpoint   Checkpoint
}

// Last is the CSN of the last transaction in the stream once the batch is in it.
func (b *Batch) Last() CSN {
	if n := len(b.Transactions); n > 0 {
		return b.Transactions[n-1].CSN
	}
	return b.Previous
}
