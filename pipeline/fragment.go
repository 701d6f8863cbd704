package pipeline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

	// The body is the fragment's changes: pgoutput messages I, U, D, T, M as they were received (without the xid that
	// streamed ones carry), and C (see Read), each behind its length (4 bytes, big endian). It is in memory, in Body; or, when it is too
	// large for that, elsewhere, in Content, and Body is nil. Append adds to Body, Walk reads either.
	Body    []byte
	Content Content
	Changes int // messages in the body
	Ops     Ops // what they do; it may name more than there is
	// Relations says which version of a table the changes refer to: each table at its first use, and again
	// where its version changes within the fragment.
	Relations []RelationUse
	// Decides lists gids whose commit this one-phase commit decides (Citus: rows of pg_dist_transaction).
	Decides []string
}

// Content is a body that is not in memory.
type Content interface {
	Size() int64
	// Open reads it from the beginning to Size. Several readers may be open.
	Open() (io.ReadCloser, error)
	// Release frees what the content takes; afterwards it cannot be opened. It may be called more than once.
	Release()
}

// RelationUse says that from Offset on in the body, changes with Relation's ID mean this version.
type RelationUse struct {
	Offset   int64
	Relation *Relation
}

// Ops is a set of kinds of changes.
type Ops uint8

// OpsOf is the set with this kind only; of what is no change, the empty set.
func OpsOf(op Op) Ops {
	switch op {
	case Insert:
		return 1
	case Update:
		return 2
	case Delete:
		return 4
	case Truncate:
		return 8
	case Message:
		return 16
	case Read:
		return 32
	}
	return 0
}

// Has says whether a change of this kind may be there.
func (o Ops) Has(op Op) bool { return o&OpsOf(op) != 0 }

// Size is the number of bytes of the body.
func (f *Fragment) Size() int64 {
	if f.Content != nil {
		return f.Content.Size()
	}
	return int64(len(f.Body))
}

// Append adds one message to the body in memory.
func (f *Fragment) Append(msg []byte) {
	f.Body = binary.BigEndian.AppendUint32(f.Body, uint32(len(msg)))
	f.Body = append(f.Body, msg...)
	f.Count(msg)
}

// Count notes a message that is being added to the body.
func (f *Fragment) Count(msg []byte) {
	f.Changes++
	f.Ops |= OpsOf(Op(msg[0]))
}

// OpenBody reads the body, wherever it is.
func (f *Fragment) OpenBody() (io.ReadCloser, error) {
	if f.Content != nil {
		return f.Content.Open()
	}
	return io.NopCloser(bytes.NewReader(f.Body)), nil
}

// Walk calls fn with every change in order, its relations resolved. The change and what it points to are
// valid until fn returns. An error names the fragment.
func (f *Fragment) Walk(fn func(*Change) error) error { return new(Walker).Walk(f, fn) }

// Walker walks over fragments, one after the other, without allocating anything for each. The zero value is ready. Not for
// concurrent use, nor within its own fn.
type Walker struct{ w walk }

// Walk is the fragment's.
func (k *Walker) Walk(f *Fragment, fn func(*Change) error) error {
	w := &k.w
	if w.rels == nil {
		w.rels = make(map[uint32]*Relation, len(f.Relations))
	}
	clear(w.rels)
	w.f, w.fn, w.at, w.next = f, fn, 0, 0
	defer func() { w.f, w.fn = nil, nil }()
	if f.Content != nil {
		return w.content()
	}
	rest, err := w.through(f.Body)
	if err == nil && len(rest) > 0 {
		err = w.cutOff()
	}
	return err
}

// walk is one pass over a body.
type walk struct {
	f    *Fragment
	fn   func(*Change) error
	at   int64 // in the body
	next int   // in f.Relations
	rels map[uint32]*Relation
	c    Change
}

func (w *walk) cutOff() error { return fmt.Errorf("fragment %s: body is cut off", w.f) }

// through takes the whole messages at the beginning of b and returns the rest.
func (w *walk) through(b []byte) ([]byte, error) {
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint32(b))
		if n > len(b)-4 {
			break
		}
		if err := w.message(b[4 : 4+n : 4+n]); err != nil {
			return nil, err
		}
		w.at += int64(4 + n)
		b = b[4+n:]
	}
	return b, nil
}

func (w *walk) message(msg []byte) error {
	uses := w.f.Relations
	for w.next < len(uses) && uses[w.next].Offset <= w.at {
		w.rels[uses[w.next].Relation.ID] = uses[w.next].Relation
		w.next++
	}
	if err := ParseChange(msg, &w.c); err != nil {
		return fmt.Errorf("fragment %s: %w", w.f, err)
	}
	if err := w.c.resolve(w.rels); err != nil {
		return fmt.Errorf("fragment %s: %w", w.f, err)
	}
	return w.fn(&w.c)
}

// walkBytes is how much of a content is read at a time; a larger message makes the buffer grow. One of more than walkKeep has
// it grow to what the message takes, no more, and shrink again behind it.
const (
	walkBytes = 256 << 10
	walkKeep  = 8 << 20
)

// content reads a body that is elsewhere, piece by piece.
func (w *walk) content() (err error) {
	r, err := w.f.Content.Open()
	if err != nil {
		return fmt.Errorf("fragment %s: %w", w.f, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := make([]byte, max(1, min(walkBytes, w.f.Size())))
	have := 0
	for {
		n, readErr := r.Read(buf[have:])
		have += n
		rest, err := w.through(buf[:have])
		if err != nil {
			return err
		}
		have = copy(buf, rest)
		switch {
		case errors.Is(readErr, io.EOF) && have == 0 && w.at == w.f.Size():
			return nil
		case errors.Is(readErr, io.EOF):
			return w.cutOff()
		case readErr != nil:
			return fmt.Errorf("fragment %s: read the body: %w", w.f, readErr)
		case have == len(buf):
			larger, err := w.larger(buf)
			if err != nil {
				return err
			}
			copy(larger, buf)
			buf = larger
		case have == 0 && len(buf) > walkKeep:
			buf = make([]byte, walkBytes)
		}
	}
}

// larger is the buffer for a message of which have is the beginning.
func (w *walk) larger(have []byte) ([]byte, error) {
	size := 2 * len(have)
	if len(have) >= 4 {
		need := 4 + int64(binary.BigEndian.Uint32(have))
		if need > w.f.Size()-w.at {
			return nil, w.cutOff()
		}
		if need > walkKeep {
			size = int(need)
		}
	}
	return make([]byte, size), nil
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
	case Insert, Update, Delete, Read:
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
