package wire

import (
	"encoding/binary"
	"fmt"

	"shardcdc/pipeline"
)

// checkTransactions is the gate on both sides. It holds for every unit in a stream:
//
//  1. CSNs rise strictly, beginning above previous.
//  2. A transaction has at least one fragment; fragments are sorted by shard, then by end.
//  3. A body consists of whole length-prefixed messages, as many as Changes says, and Ops names the kind of each.
//  4. Relation uses are in the order of their offsets, which lie within the body.
//
// Without bodies the third rule is left to a gate that sees them go by.
func checkTransactions(previous pipeline.CSN, txs []*pipeline.Transaction, bodies bool) error {
	for _, tx := range txs {
		if tx.CSN <= previous {
			return fmt.Errorf("transaction csn %s follows csn %s: CSNs must rise", tx.CSN, previous)
		}
		previous = tx.CSN
		if len(tx.Fragments) == 0 {
			return fmt.Errorf("transaction csn %s has no fragment", tx.CSN)
		}
		for i, f := range tx.Fragments {
			if i > 0 && !ordered(tx.Fragments[i-1], f) {
				return fmt.Errorf("transaction csn %s: fragment %s follows %s: must be sorted by shard and position", tx.CSN, f, tx.Fragments[i-1])
			}
			if err := checkUses(f); err != nil {
				return inFragment(tx, f, err)
			}
			if !bodies {
				continue
			}
			if err := checkBody(f); err != nil {
				return inFragment(tx, f, err)
			}
		}
	}
	return nil
}

func inFragment(tx *pipeline.Transaction, f *pipeline.Fragment, err error) error {
	return fmt.Errorf("transaction csn %s: fragment %s: %w", tx.CSN, f, err)
}

func ordered(a, b *pipeline.Fragment) bool {
	return a.Shard < b.Shard || a.Shard == b.Shard && a.End <= b.End
}

func checkUses(f *pipeline.Fragment) error {
	if f.Changes < 0 || int64(f.Changes) > f.Size()/messageBytesMin {
		return fmt.Errorf("%d changes announced in a body of %d bytes", f.Changes, f.Size())
	}
	offset := int64(0)
	for _, use := range f.Relations {
		if use.Offset < offset || use.Offset > f.Size() {
			return fmt.Errorf("relation use at offset %d after one at %d in a body of %d bytes", use.Offset, offset, f.Size())
		}
		offset = use.Offset
	}
	return nil
}

// checkBody checks a body in memory.
func checkBody(f *pipeline.Fragment) error {
	g := gate{f: f, left: int64(len(f.Body))}
	for b := f.Body; len(b) > 0; { // what feed does with a body in one piece
		if len(b) < messageBytesMin {
			g.changes++
			return g.cutOff()
		}
		n, err := g.message(b)
		if err != nil {
			return err
		}
		g.left, b = g.left-n, b[n:]
	}
	return g.end()
}

// messageBytesMin is the smallest message in a body: its length and its kind.
const messageBytesMin = 4 + 1

// gate checks one fragment's body as it goes by, cut anywhere.
type gate struct {
	f       *pipeline.Fragment
	left    int64 // of the body
	changes int
	rest    int64   // of the message that goes by
	lead    [5]byte // of the next message, what has come of its length and kind
	led     int
}

// feed takes the next bytes of the body. There are at most left.
func (g *gate) feed(b []byte) error {
	for len(b) > 0 {
		switch {
		case g.rest > 0: // the message before
			n := min(g.rest, int64(len(b)))
			g.rest, g.left, b = g.rest-n, g.left-n, b[n:]
		case g.led == 0 && len(b) >= messageBytesMin: // nearly always
			n, err := g.message(b)
			if err != nil {
				return err
			}
			if n <= int64(len(b)) {
				g.left, b = g.left-n, b[n:]
			} else {
				g.rest = n
			}
		default:
			n := copy(g.lead[g.led:], b)
			b = b[n:]
			if g.led += n; g.led < messageBytesMin {
				return nil
			}
			size, err := g.message(g.lead[:])
			if err != nil {
				return err
			}
			g.rest, g.left, g.led = size-messageBytesMin, g.left-messageBytesMin, 0
		}
	}
	return nil
}

// message looks at the beginning of a message, and returns its size with its length.
func (g *gate) message(lead []byte) (int64, error) {
	g.changes++
	size := 4 + int64(binary.BigEndian.Uint32(lead))
	if size > g.left {
		return 0, g.cutOff()
	}
	if size < messageBytesMin {
		return 0, fmt.Errorf("change %d of %d is empty", g.changes, g.f.Changes)
	}
	if g.f.Ops&opsOf[lead[4]] == 0 {
		return 0, g.unannounced(pipeline.Op(lead[4]))
	}
	return size, nil
}

// opsOf is pipeline.OpsOf as a table: the gate looks at every message.
var opsOf = func() (t [256]pipeline.Ops) {
	for kind := range t {
		t[kind] = pipeline.OpsOf(pipeline.Op(kind))
	}
	return t
}()

func (g *gate) unannounced(kind pipeline.Op) error {
	return fmt.Errorf("change %d of %d is %s, which the fragment does not announce (%#x)", g.changes, g.f.Changes, kind, byte(g.f.Ops))
}

func (g *gate) cutOff() error {
	return fmt.Errorf("change %d of %d is cut off", g.changes, g.f.Changes)
}

// end checks a body that has gone by.
func (g *gate) end() error {
	if g.led > 0 || g.rest > 0 || g.left > 0 {
		g.changes += min(g.led, 1)
		return g.cutOff()
	}
	if g.changes != g.f.Changes {
		return fmt.Errorf("%d changes in the body, %d announced", g.changes, g.f.Changes)
	}
	return nil
}
