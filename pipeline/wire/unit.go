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

	lengthAt     = len(magic) + 2 // of the frame; behind it that of the head
	csnsAt       = lengthAt + 2*8 // previous, first, last
	headerSize   = csnsAt + 3*8
	checksumSize = 4
	headSizeMin  = headerSize + 4 + checksumSize // four counts
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
