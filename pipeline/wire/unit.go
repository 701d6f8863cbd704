package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"shardcdc/pipeline"
)

const (
	magic = "CDCU"
	// Version is the format that this build writes, and the only one that it reads.
	Version = 1

	headerSize   = len(magic) + 2 + 8 + 3*8
	lengthAt     = len(magic) + 2
	checksumSize = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendChecksum(dst, of []byte) []byte {
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(of, castagnoli))
}

// Unit is a decoded frame. Bodies of its fragments are views into the frame, which must not change as long as
// they are used; everything else is its own.
type Unit struct {
	// Previous is the CSN of the last transaction before this unit.
	Previous pipeline.CSN
	// First and Last are the CSNs of the unit's transactions; both equal Previous when it has none.
	First, Last  pipeline.CSN
	Transactions []*pipeline.Transaction
}

// Follows checks that nothing is missing or repeated between the last transaction that the reader has seen and
// this unit.
func (u *Unit) Follows(last pipeline.CSN) error {
	switch {
	case u.Previous > last:
		return fmt.Errorf("gap in the stream: the unit of csn %s to %s follows csn %s, but the last one read is csn %s",
			u.First, u.Last, u.Previous, last)
	case u.Previous < last:
		return fmt.Errorf("overlap in the stream: the unit of csn %s to %s follows csn %s, but csn %s has been read already",
			u.First, u.Last, u.Previous, last)
	}
	return nil
}

// checkTransactions is the gate on both sides. It holds for every unit in a stream:
//
//  1. CSNs rise strictly, beginning above previous.
//  2. A transaction has at least one fragment; fragments are sorted by shard, then by end.
//  3. A body consists of whole length-prefixed messages, as many as Changes says.
//  4. Relation uses are in the order of their offsets, which lie within the body.
func checkTransactions(previous pipeline.CSN, txs []*pipeline.Transaction) error {
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
			if err := checkFragment(f); err != nil {
				return fmt.Errorf("transaction csn %s: fragment %s: %w", tx.CSN, f, err)
			}
		}
	}
	return nil
}

func ordered(a, b *pipeline.Fragment) bool {
	return a.Shard < b.Shard || a.Shard == b.Shard && a.End <= b.End
}

func checkFragment(f *pipeline.Fragment) error {
	changes := 0
	for b := f.Body; len(b) > 0; changes++ {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return fmt.Errorf("change %d of %d is cut off", changes+1, f.Changes)
		}
		b = b[4+int(binary.BigEndian.Uint32(b)):]
	}
	if changes != f.Changes {
		return fmt.Errorf("%d changes in the body, %d announced", changes, f.Changes)
	}
	offset := int64(0)
	for _, use := range f.Relations {
		if use.Offset < offset || use.Offset > int64(len(f.Body)) {
			return fmt.Errorf("relation use at offset %d after one at %d in a body of %d bytes", use.Offset, offset, len(f.Body))
		}
		offset = use.Offset
	}
	return nil
}
