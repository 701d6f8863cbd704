package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"shardcdc/pipeline"
)

// Encoder writes frames. The zero value is ready; it keeps no state between frames but its scratch memory, so
// encoding allocates nothing once dst is large enough. Not for concurrent use.
type Encoder struct {
	index map[relationKey]int // the frame's relations
	order []relationKey       // the same, in order of first use
	uses  []int               // index of every relation use, in order
}

// relationKey: equal pointers are the same version of a table.
type relationKey struct {
	shard    pipeline.ShardID
	relation *pipeline.Relation
}

// AppendUnit appends one frame with all transactions of the batch, which must be in memory; its checkpoint is not
// part of the frame. It refuses a batch that breaks a rule which readers check, and then returns dst as it was.
func (e *Encoder) AppendUnit(dst []byte, b *pipeline.Batch) ([]byte, error) {
	for _, tx := range b.Transactions {
		if !tx.Resident() {
			return dst, fmt.Errorf("encode unit: transaction csn %s is not in memory", tx.CSN)
		}
	}
	if err := checkTransactions(b.Previous, b.Transactions, true); err != nil {
		return dst, fmt.Errorf("encode unit: %w", err)
	}
	start := len(dst)
	dst, crc, err := e.appendHead(dst, b)
	if err != nil {
		return dst[:start], fmt.Errorf("encode unit: %w", err)
	}
	bodies := len(dst)
	for _, tx := range b.Transactions {
		for _, f := range tx.Fragments {
			dst = append(dst, f.Body...)
		}
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Update(crc, castagnoli, dst[bodies:])), nil
}

// appendHead appends everything that stands before the bodies, and returns the checksum so far.
func (e *Encoder) appendHead(dst []byte, b *pipeline.Batch) ([]byte, uint32, error) {
	defer e.reset()
	fragments, err := e.collect(b)
	if err != nil {
		return dst, 0, err
	}
	start, bodies := len(dst), int64(0)
	dst = appendHeader(dst, b)
	dst = e.appendRelations(dst)
	dst = binary.AppendUvarint(dst, uint64(len(b.Transactions)))
	dst = binary.AppendUvarint(dst, uint64(fragments))
	dst = binary.AppendUvarint(dst, uint64(len(e.uses)))
	previous, uses := b.Previous, e.uses
	for _, tx := range b.Transactions {
		dst = binary.AppendUvarint(dst, uint64(tx.CSN-previous))
		dst = binary.AppendVarint(dst, int64(tx.CommitTime))
		dst = appendString(dst, tx.GID)
		dst = binary.AppendUvarint(dst, uint64(len(tx.Fragments)))
		for _, f := range tx.Fragments {
			dst = appendFragment(dst, f, tx.CommitTime, uses[:len(f.Relations)])
			uses = uses[len(f.Relations):]
			bodies += f.Size()
		}
		previous = tx.CSN
	}
	size := len(dst) - start + checksumSize
	binary.BigEndian.PutUint64(dst[start+lengthAt:], uint64(int64(size)+bodies+checksumSize))
	binary.BigEndian.PutUint64(dst[start+lengthAt+8:], uint64(size))
	crc := crc32.Checksum(dst[start:], castagnoli)
	dst = binary.BigEndian.AppendUint32(dst, crc)
	return dst, crc32.Update(crc, castagnoli, dst[len(dst)-checksumSize:]), nil
}

func (e *Encoder) reset() {
	clear(e.index)
	clear(e.order)
	e.order, e.uses = e.order[:0], e.uses[:0]
}

// collect numbers the relations and counts the fragments.
func (e *Encoder) collect(b *pipeline.Batch) (fragments int, err error) {
	if e.index == nil {
		e.index = make(map[relationKey]int)
	}
	for _, tx := range b.Transactions {
		fragments += len(tx.Fragments)
		for _, f := range tx.Fragments {
			for _, use := range f.Relations {
				key := relationKey{f.Shard, use.Relation}
				i, ok := e.index[key]
				if !ok {
					if r := use.Relation; r == nil || len(r.Raw) == 0 || len(r.Types) > typesMax {
						return 0, fmt.Errorf("transaction csn %s: fragment %s: relation at offset %d has no usable description", tx.CSN, f, use.Offset)
					}
					i = len(e.order)
					e.index[key] = i
					e.order = append(e.order, key)
				}
				e.uses = append(e.uses, i)
			}
		}
	}
	return fragments, nil
}

func appendHeader(dst []byte, b *pipeline.Batch) []byte {
	first := b.Previous
	if len(b.Transactions) > 0 {
		first = b.Transactions[0].CSN
	}
	dst = append(dst, magic...)
	dst = append(dst, Version, 0)
	dst = append(dst, make([]byte, 2*8)...) // lengths: known at the end
	dst = binary.BigEndian.AppendUint64(dst, uint64(b.Previous))
	dst = binary.BigEndian.AppendUint64(dst, uint64(first))
	return binary.BigEndian.AppendUint64(dst, uint64(b.Last()))
}

func (e *Encoder) appendRelations(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(e.order)))
	for _, key := range e.order {
		dst = binary.AppendUvarint(dst, uint64(key.shard))
		dst = appendString(dst, key.relation.Raw)
		dst = binary.AppendUvarint(dst, uint64(len(key.relation.Types)))
		for _, t := range key.relation.Types {
			dst = binary.AppendUvarint(dst, uint64(t.OID))
			dst = appendString(dst, t.Namespace)
			dst = appendString(dst, t.Name)
		}
	}
	return dst
}

func appendFragment(dst []byte, f *pipeline.Fragment, commit pipeline.Timestamp, uses []int) []byte {
	dst = binary.AppendUvarint(dst, uint64(f.Shard))
	dst = binary.AppendUvarint(dst, uint64(f.XID))
	dst = binary.AppendUvarint(dst, uint64(f.Start))
	dst = binary.AppendUvarint(dst, uint64(f.End-f.Start))
	dst = binary.AppendVarint(dst, int64(f.Time-commit))
	dst = appendString(dst, f.Origin)
	dst = appendString(dst, f.GID)
	dst = binary.AppendUvarint(dst, uint64(len(uses)))
	for i, index := range uses {
		dst = binary.AppendUvarint(dst, uint64(f.Relations[i].Offset))
		dst = binary.AppendUvarint(dst, uint64(index))
	}
	dst = binary.AppendUvarint(dst, uint64(f.Changes))
	dst = append(dst, byte(f.Ops))
	return binary.AppendUvarint(dst, uint64(f.Size()))
}

func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
