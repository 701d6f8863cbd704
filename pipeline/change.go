package pipeline

import (
	"encoding/binary"
	"fmt"
)

// Op is what a change did; its values are the type bytes of pgoutput.
type Op byte

const (
	Insert   Op = 'I'
	Update   Op = 'U'
	Delete   Op = 'D'
	Truncate Op = 'T'
	Message  Op = 'M' // a transactional logical message (pg_logical_emit_message)
	// Read is a row as it was when its table was copied, not a change. PostgreSQL does not send it: it has the form of an
	// Insert, and is made where a copied chunk enters the stream.
	Read Op = 'C'
)

func (o Op) String() string {
	switch o {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Truncate:
		return "truncate"
	case Message:
		return "message"
	case Read:
		return "read"
	}
	return fmt.Sprintf("op(%q)", byte(o))
}

// Kinds of a Value in a Tuple.
const (
	Null      byte = 'n' // SQL NULL; in an old key tuple: not sent
	Unchanged byte = 'u' // a TOAST value that the update did not touch: neither NULL nor a value
	Text      byte = 't' // the type's text form
	Binary    byte = 'b' // the type's binary form
)

// Value is one column's value: a view into the message.
type Value struct {
	Kind byte
	Data []byte
}

// Tuple is a row as pgoutput sends it (TupleData): a view into the message. A nil Tuple is an absent row.
type Tuple []byte

// Values appends the tuple's values to dst, in the order of the relation's columns. The tuple must have
// passed ParseChange, which checks it whole.
func (t Tuple) Values(dst []Value) []Value {
	if len(t) < 2 {
		return dst
	}
	n := int(binary.BigEndian.Uint16(t))
	b := t[2:]
	for range n {
		kind := b[0]
		b = b[1:]
		if kind == Null || kind == Unchanged {
			dst = append(dst, Value{Kind: kind})
			continue
		}
		l := binary.BigEndian.Uint32(b)
		dst = append(dst, Value{Kind: kind, Data: b[4 : 4+l : 4+l]})
		b = b[4+l:]
	}
	return dst
}

// Columns is the number of values.
func (t Tuple) Columns() int {
	if len(t) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(t))
}

// Kinds of an old tuple.
const (
	OldNone byte = 0
	OldKey  byte = 'K' // the identity's columns only; the others are Null and mean "not sent"
	OldFull byte = 'O' // the whole row (REPLICA IDENTITY FULL)
)

// Truncate flags.
const (
	TruncateCascade         byte = 1
	TruncateRestartIdentity byte = 2
)

// Change is one row change, truncation or logical message: a view into a pgoutput message.
type Change struct {
	Op         Op
	RelationID uint32    // insert, update, delete, read
	Relation   *Relation // the same, resolved; nil after ParseChange
	OldKind    byte      // OldNone, OldKey, OldFull
	Old        Tuple
	New        Tuple

	TruncateIDs   []uint32    // truncate: every table of the statement, in order
	Truncated     []*Relation // the same, resolved; nil after ParseChange
	TruncateFlags byte

	Prefix  string // message
	Content []byte
	LSN     LSN // message: the end of its WAL record
}

// ParseChange decodes an I, U, D, T, M or C message (the type byte included; not from inside a streamed block)
// and checks it to the last byte. Tuples of c are views into msg. The slices of *c are reused.
func ParseChange(msg []byte, c *Change) error {
	*c = Change{TruncateIDs: c.TruncateIDs[:0], Truncated: c.Truncated[:0]}
	if len(msg) < 5 {
		return fmt.Errorf("change: %w", errShort)
	}
	c.Op = Op(msg[0])
	cur := CursorOf(msg[1:])
	switch c.Op {
	case Insert, Read:
		c.RelationID = cur.Uint32()
		if k := cur.Byte(); k != 'N' {
			return fmt.Errorf("%s: tuple kind %q, want 'N'", c.Op, k)
		}
		c.New = cur.tuple()
	case Update:
		c.RelationID = cur.Uint32()
		k := cur.Byte()
		if k == OldKey || k == OldFull {
			c.OldKind = k
			c.Old = cur.tuple()
			k = cur.Byte()
		}
		if k != 'N' {
			return fmt.Errorf("update: tuple kind %q, want 'N'", k)
		}
		c.New = cur.tuple()
	case Delete:
		c.RelationID = cur.Uint32()
		c.OldKind = cur.Byte()
		if c.OldKind != OldKey && c.OldKind != OldFull {
			return fmt.Errorf("delete: tuple kind %q, want 'K' or 'O'", c.OldKind)
		}
		c.Old = cur.tuple()
	case Truncate:
		n := cur.Uint32()
		c.TruncateFlags = cur.Byte()
		if uint64(n)*4 != uint64(cur.left()) {
			return fmt.Errorf("truncate: %d tables in %d bytes", n, cur.left())
		}
		for range n {
			c.TruncateIDs = append(c.TruncateIDs, cur.Uint32())
		}
	case Message:
		if flags := cur.Byte(); flags&1 == 0 {
			return fmt.Errorf("logical message: not transactional")
		}
		c.LSN = LSN(cur.Uint64())
		c.Prefix = cur.CString()
		c.Content = cur.Take(int(cur.Uint32()))
	default:
		return fmt.Errorf("change: unknown message type %q", msg[0])
	}
	if err := cur.End(); err != nil {
		return fmt.Errorf("%s: %w", c.Op, err)
	}
	return nil
}

// tuple takes one TupleData and checks every length in it.
func (c *Cursor) tuple() Tuple {
	b := c.b[c.at:]
	size := tupleSize(b)
	if c.short || size == 0 {
		c.cutShort()
		return nil
	}
	c.at += size
	return Tuple(b[:size:size])
}

// tupleSize is the length of the TupleData that b begins with; 0: there is none that is whole.
func tupleSize(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	at := 2
	for range binary.BigEndian.Uint16(b) {
		if at == len(b) {
			return 0
		}
		kind := b[at]
		at++
		switch kind {
		case Null, Unchanged:
		case Text, Binary:
			if len(b)-at < 4 {
				return 0
			}
			l := binary.BigEndian.Uint32(b[at:])
			at += 4
			if uint64(l) > uint64(len(b)-at) {
				return 0
			}
			at += int(l)
		default:
			return 0
		}
	}
	return at
}
