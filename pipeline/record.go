package pipeline

import (
	"encoding/binary"
	"fmt"
)

// Fragment is what one transaction did on one shard. It is immutable once its last message is in.
type Fragment struct {
	Shard  ShardID
	XID    XID
	GID    string    // the name given to PREPARE TRANSACTION; empty for a one-phase commit
	Start  LSN       // where the commit record, or the PREPARE record, begins
	End    LSN       // where it ends
	Time   Timestamp // commit time; of a two-phase fragment the time of its PREPARE
	Origin string    // replication origin's name; empty for a transaction of the shard's own

	// Body is the fragment's changes: pgoutput messages I, U, D, T, M as they were received, each behind its
	// length (4 bytes, big endian). Append adds to it, Walk reads it.
	Body    []byte
	Changes int // messages in Body
	// Relations says which version of a table the changes refer to: each table at its first use, and again
	// where its version changes within the fragment.
	Relations []RelationUse
	// Decides lists gids whose commit this one-phase commit decides (Citus: rows of pg_dist_transaction).
	Decides []string
}

// RelationUse says that from Body[Offset:] on, changes with Relation's ID mean this version.
type RelationUse struct {
	Offset   int
	Relation *Relation
}

// Append adds one message to the body.
func (f *Fragment) Append(msg []byte) {
	f.Body = binary.BigEndian.AppendUint32(f.Body, uint32(len(msg)))
	f.Body = append(f.Body, msg...)
	f.Changes++
}

// Walk calls fn with every change in order, its relations resolved. The change and what it points to are
// valid until fn returns. An error names the fragment.
func (f *Fragment) Walk(fn func(*Change) error) error {
	var (
		c    Change
		rels = make(map[uint32]*Relation, len(f.Relations))
		next int
	)
	for at := 0; at < len(f.Body); {
		for next < len(f.Relations) && f.Relations[next].Offset <= at {
			rels[f.Relations[next].Relation.ID] = f.Relations[next].Relation
			next++
		}
		if len(f.Body)-at < 4 {
			return fmt.Errorf("fragment %s: body is cut off", f)
		}
		n := int(binary.BigEndian.Uint32(f.Body[at:]))
		at += 4
		if n > len(f.Body)-at {
			return fmt.Errorf("fragment %s: body is cut off", f)
		}
		if err := ParseChange(f.Body[at:at+n], &c); err != nil {
			return fmt.Errorf("fragment %s: %w", f, err)
		}
		if err := c.resolve(rels); err != nil {
			return fmt.Errorf("fragment %s: %w", f, err)
		}
		if err := fn(&c); err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (c *Change) resolve(rels map[uint32]*Relation) error {
	find := func(id uint32) (*Relation, error) {
		if r := rels[id]; r != nil {
			return r, nil
		}
		return nil, fmt.Errorf("%s on relation %d, which was never described", c.Op, id)
	}
	var err error
	switch c.Op {
	case Insert, Update, Delete:
		if c.Relation, err = find(c.RelationID); err != nil {
			return err
		}
		for _, t := range []Tuple{c.Old, c.New} {
			if t != nil && t.Columns() != len(c.Relation.Columns) {
				return fmt.Errorf("%s on %s: %d values for %d columns", c.Op, c.Relation, t.Columns(), len(c.Relation.Columns))
			}
		}
	case Truncate:
		for _, id := range c.TruncateIDs {
			r, err := find(id)
			if err != nil {
				return err
			}
			c.Truncated = append(c.Truncated, r)
		}
	}
	return nil
}

// String names the fragment: shard, position, xid and gid.
func (f *Fragment) String() string {
	if f.GID == "" {
		return fmt.Sprintf("shard %d %s xid %d", f.Shard, f.End, f.XID)
	}
	return fmt.Sprintf("shard %d %s xid %d gid %q", f.Shard, f.End, f.XID, f.GID)
}

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
func (t *Transaction) Bytes() int {
	n := 0
	for _, f := range t.Fragments {
		n += len(f.Body)
	}
	return n
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
