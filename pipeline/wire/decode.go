package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"shardcdc/pipeline"
)

const (
	// typesMax bounds the types of one relation: PostgreSQL allows 1600 columns.
	typesMax = 1600

	// The smallest encodings, which bound what a count may announce.
	relationBytesMin    = 3
	typeBytesMin        = 3
	fragmentBytesMin    = 11
	transactionBytesMin = 4 + fragmentBytesMin
	useBytesMin         = 2

	// Limits of a Decoder's memory of relations; when one is reached it starts anew.
	cachedRelationsMax     = 10_000
	cachedRelationBytesMax = 16 << 20
)

// Decoder reads frames. It remembers the relations that it has seen: the same description gives the same
// *pipeline.Relation in later units too, so that readers may key what they derive from one by its pointer, and
// a version is parsed once. The memory is bounded, so the same description may come back as another pointer:
// treat an unknown pointer as a new version, never as an error. The zero value is ready. Not for concurrent use.
type Decoder struct {
	known      map[string]*pipeline.Relation // by the encoded description
	knownBytes int
}

// DecodeUnit decodes one frame with a Decoder of its own.
func DecodeUnit(frame []byte) (*Unit, error) { return new(Decoder).DecodeUnit(frame) }

// DecodeUnit decodes and checks one frame: everything but the inside of the rows, which Fragment.Walk checks.
// Bodies are views into frame. Whatever frame holds, it returns an error rather than panic, and allocates no more
// than some thirty times its length.
func (d *Decoder) DecodeUnit(frame []byte) (*Unit, error) {
	u, err := d.decode(frame)
	if err != nil {
		return nil, fmt.Errorf("decode unit: %w", err)
	}
	return u, nil
}

func (d *Decoder) decode(frame []byte) (*Unit, error) {
	if err := checkHeader(frame); err != nil {
		return nil, err
	}
	length, headSize := lengths(frame)
	if length != uint64(len(frame)) {
		return nil, fmt.Errorf("%d bytes, its header says %d", len(frame), length)
	}
	head, end := frame[:headSize], len(frame)-checksumSize
	bodies := frame[headSize:end:end]
	crc, err := checkHead(head)
	if err != nil {
		return nil, err
	}
	if have, want := crc32.Update(crc, castagnoli, bodies), binary.BigEndian.Uint32(frame[end:]); have != want {
		return nil, fmt.Errorf("damaged: checksum %08x, want %08x", have, want)
	}
	u, err := d.head(head, bodies)
	if err != nil {
		return nil, err
	}
	return u, u.check(true)
}

// lengths are those of the frame and of its head.
func lengths(header []byte) (frame, head uint64) {
	return binary.BigEndian.Uint64(header[lengthAt:]), binary.BigEndian.Uint64(header[lengthAt+8:])
}

// checkHeader checks what a frame begins with. The version comes first: another version may have another header.
func checkHeader(frame []byte) error {
	if len(frame) < len(magic)+2 || string(frame[:len(magic)]) != magic {
		return fmt.Errorf("no unit of shardcdc: begins with %q, want %q", frame[:min(len(frame), len(magic))], magic)
	}
	if v := frame[len(magic)]; v != Version {
		return unknownVersion(v)
	}
	if flags := frame[len(magic)+1]; flags != 0 {
		return fmt.Errorf("flags %#x are unknown; this build knows none. Try: upgrade this reader to the release of the writing node", flags)
	}
	if len(frame) < headerSize {
		return fmt.Errorf("%w: %d bytes, the header alone has %d", errShort, len(frame), headerSize)
	}
	length, head := lengths(frame)
	if head < uint64(headSizeMin) || length < head || length-head < checksumSize {
		return fmt.Errorf("a head of %d bytes in a frame of %d: the smallest head has %d", head, length, headSizeMin)
	}
	return nil
}

// checkHead checks the head's own checksum, and returns the checksum of all of it, to go on from.
func checkHead(head []byte) (crc uint32, err error) {
	end := len(head) - checksumSize
	have := crc32.Checksum(head[:end], castagnoli)
	if want := binary.BigEndian.Uint32(head[end:]); have != want {
		return 0, fmt.Errorf("damaged: checksum of the head %08x, want %08x", have, want)
	}
	return crc32.Update(have, castagnoli, head[end:]), nil
}

// head decodes a checked head. The bodies are views; without any (nil) they are announced.
func (d *Decoder) head(head, bodies []byte) (*Unit, error) {
	length, headSize := lengths(head)
	u := &Unit{
		Previous: pipeline.CSN(binary.BigEndian.Uint64(head[csnsAt:])),
		First:    pipeline.CSN(binary.BigEndian.Uint64(head[csnsAt+8:])),
		Last:     pipeline.CSN(binary.BigEndian.Uint64(head[csnsAt+16:])),
	}
	end := len(head) - checksumSize
	r := unitReader{reader: reader{b: head[headerSize:end:end]}, bodies: bodies, left: length - headSize - checksumSize}
	if err := r.relationsOf(d); err != nil {
		return nil, err
	}
	u.Transactions = r.transactionsAfter(u.Previous)
	if r.err != nil {
		return nil, r.err
	}
	if r.rest() != 0 || len(r.fragments) != 0 || len(r.uses) != 0 || r.left != 0 {
		return nil, fmt.Errorf("%d bytes of head, %d fragments, %d relation uses and %d bytes of bodies too many", r.rest(), len(r.fragments), len(r.uses), r.left)
	}
	return u, nil
}

func unknownVersion(v byte) error {
	return fmt.Errorf("version %d is unknown; this build reads version %d. Try: upgrade this reader to the release of the writing node", v, Version)
}

// check is the gate, with or without bodies, and compares the header's range with the transactions.
func (u *Unit) check(bodies bool) error {
	if err := checkTransactions(u.Previous, u.Transactions, bodies); err != nil {
		return err
	}
	first, last := u.Previous, u.Previous
	if n := len(u.Transactions); n > 0 {
		first, last = u.Transactions[0].CSN, u.Transactions[n-1].CSN
	}
	if u.First != first || u.Last != last {
		return fmt.Errorf("header says csn %s to %s, the transactions are csn %s to %s", u.First, u.Last, first, last)
	}
	return nil
}

// unitReader reads a frame's content. Transactions, fragments and uses are cut from one piece each.
type unitReader struct {
	reader
	relations []relationKey
	fragments []pipeline.Fragment
	pointers  []*pipeline.Fragment
	uses      []pipeline.RelationUse
	bodies    []byte // nil: they are still to come
	left      uint64 // bytes of bodies
}

func (r *unitReader) relationsOf(d *Decoder) error {
	r.relations = make([]relationKey, 0, r.count(relationBytesMin))
	for range cap(r.relations) {
		key, err := d.relation(&r.reader)
		if err != nil {
			return err
		}
		r.relations = append(r.relations, key)
	}
	return r.err
}

// relation reads one description, or recognizes it.
func (d *Decoder) relation(r *reader) (relationKey, error) {
	start := r.at
	key := relationKey{shard: pipeline.ShardID(r.uint16())}
	raw := r.bytes()
	n := r.count(typeBytesMin)
	if n > typesMax {
		return key, fmt.Errorf("relation of shard %d: %d types, at most %d are possible", key.shard, n, typesMax)
	}
	types := *r
	for range n {
		r.uint32()
		r.bytes()
		r.bytes()
	}
	if r.err != nil {
		return key, fmt.Errorf("relation of shard %d: %w", key.shard, r.err)
	}
	description := r.b[start:r.at]
	if key.relation = d.known[string(description)]; key.relation != nil {
		return key, nil
	}
	var err error
	if key.relation, err = parseRelation(raw, n, types); err != nil {
		return key, fmt.Errorf("shard %d: %w", key.shard, err)
	}
	d.remember(description, key.relation)
	return key, nil
}

func parseRelation(raw []byte, n int, r reader) (*pipeline.Relation, error) {
	types := make(map[uint32]pipeline.Type, n)
	for range n {
		t := pipeline.Type{OID: r.uint32(), Namespace: r.string(""), Name: r.string("")}
		types[t.OID] = t
	}
	return pipeline.ParseRelation(bytes.Clone(raw), func(oid uint32) (pipeline.Type, bool) {
		t, ok := types[oid]
		return t, ok
	})
}

func (d *Decoder) remember(description []byte, relation *pipeline.Relation) {
	if len(d.known) >= cachedRelationsMax || d.knownBytes+len(description) > cachedRelationBytesMax || d.known == nil {
		d.known, d.knownBytes = make(map[string]*pipeline.Relation), 0
	}
	d.known[string(description)] = relation
	d.knownBytes += len(description)
}

func (r *unitReader) transactionsAfter(previous pipeline.CSN) []*pipeline.Transaction {
	var list []*pipeline.Transaction
	txs := make([]pipeline.Transaction, r.count(transactionBytesMin))
	r.fragments = make([]pipeline.Fragment, r.count(fragmentBytesMin))
	r.uses = make([]pipeline.RelationUse, r.count(useBytesMin))
	r.pointers = make([]*pipeline.Fragment, len(r.fragments))
	if len(txs) > 0 {
		list = make([]*pipeline.Transaction, len(txs))
	}
	for i := range txs {
		tx := &txs[i]
		previous += pipeline.CSN(r.uvarint())
		tx.CSN = previous
		tx.CommitTime = pipeline.Timestamp(r.varint())
		tx.GID = r.string("")
		tx.Fragments = r.fragmentsOf(tx)
		if r.err != nil {
			r.err = fmt.Errorf("transaction csn %s: %w", tx.CSN, r.err)
			return nil
		}
		list[i] = tx
	}
	return list
}

var errTooMany = errors.New("more fragments or relation uses than the unit announced")

func (r *unitReader) fragmentsOf(tx *pipeline.Transaction) []*pipeline.Fragment {
	n := r.count(fragmentBytesMin)
	if n > len(r.fragments) {
		r.fail(errTooMany)
		return nil
	}
	list := r.pointers[:n:n]
	r.pointers = r.pointers[n:]
	for i := range list {
		list[i] = &r.fragments[0]
		r.fragments = r.fragments[1:]
		r.fragment(list[i], tx)
	}
	return list
}

func (r *unitReader) fragment(f *pipeline.Fragment, tx *pipeline.Transaction) {
	f.Shard = pipeline.ShardID(r.uint16())
	f.XID = pipeline.XID(r.uint32())
	f.Start = pipeline.LSN(r.uvarint())
	f.End = f.Start + pipeline.LSN(r.uvarint())
	f.Time = tx.CommitTime + pipeline.Timestamp(r.varint())
	f.Origin = r.string("")
	f.GID = r.string(tx.GID)
	n := r.count(useBytesMin)
	if n > len(r.uses) {
		r.fail(errTooMany)
		return
	}
	if n > 0 {
		f.Relations = r.uses[:n:n]
		r.uses = r.uses[n:]
	}
	for i := range f.Relations {
		f.Relations[i] = r.use(f.Shard)
	}
	f.Changes = int(r.atMost(math.MaxInt64))
	f.Ops = pipeline.Ops(r.byte())
	size := r.atMost(r.left)
	r.left -= size
	switch {
	case size == 0:
	case r.bodies == nil:
		f.Content = Announced(size)
	default:
		f.Body = r.bodies[:size:size]
		r.bodies = r.bodies[size:]
	}
}

func (r *unitReader) use(shard pipeline.ShardID) pipeline.RelationUse {
	offset := r.atMost(math.MaxInt64)
	index := r.uvarint()
	if r.err != nil {
		return pipeline.RelationUse{}
	}
	if index >= uint64(len(r.relations)) {
		r.fail(fmt.Errorf("use of relation %d of %d", index, len(r.relations)))
		return pipeline.RelationUse{}
	}
	if key := r.relations[index]; key.shard != shard {
		r.fail(fmt.Errorf("use of relation %s of shard %d by shard %d", key.relation, key.shard, shard))
		return pipeline.RelationUse{}
	}
	return pipeline.RelationUse{Offset: int64(offset), Relation: r.relations[index].relation}
}
