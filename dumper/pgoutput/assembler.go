package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// OwnPrefix starts the prefix of every logical message that shardcdc writes itself. Those of package mark stay in the
// body; the others have done their work when they are read.
const OwnPrefix = "cdc."

// Assembler puts one session's messages together. The zero value is not usable; see New.
//
// Invariants:
//  1. current is set between a begin and its end, and within a block of a streamed transaction, and only then.
//  2. every relation used by a body stands in the fragment's Relations at or before the use.
//  3. a body has passed pipeline.ParseChange and the column count of its relation.
//  4. memory and spilled are the sums over all transactions half received.
type Assembler struct {
	// Token is what marks have to carry; see mark.From. To be set before the first Feed.
	Token string

	shard  pipeline.ShardID
	limits Limits

	current  *transaction // what changes belong to now; nil: none
	ordinary transaction  // the one that began with B or b; current points here
	streamed map[pipeline.XID]*transaction
	serial   uint64
	memory   int   // bytes of bodies in memory
	spilled  int64 // bytes of bodies in spills

	relations map[uint32]*relation // what the session described outside of streamed transactions
	arrivals  uint64               // descriptions received
	types     map[uint32]pipeline.Type
	kept      []pipeline.XID // see Kept
	slab      slab
	change    pipeline.Change // reused
	values    []pipeline.Value
	length    [4]byte
}

// relation is what is known of a table, by the session or by one streamed transaction.
type relation struct {
	version   *pipeline.Relation
	described bool   // the present session described it; else it is kept for its pointer only
	arrived   uint64 // when it was described
	usedIn    uint64 // serial of the last transaction whose fragment lists this version
	metadata  bool   // Citus' own: kept out of bodies
}

// New makes an Assembler for one shard.
func New(shard pipeline.ShardID, limits Limits) *Assembler {
	return &Assembler{
		shard:     shard,
		limits:    limits.withDefaults(),
		streamed:  make(map[pipeline.XID]*transaction),
		relations: make(map[uint32]*relation),
		types:     make(map[uint32]pipeline.Type),
	}
}

// Reset begins a new session: transactions half received are forgotten, what they spilled is released, and every
// relation has to be described again. A relation that is then described as before keeps its pointer.
func (a *Assembler) Reset() {
	if a.ordinary.fragment != nil {
		a.discard(&a.ordinary)
	}
	for xid, t := range a.streamed {
		a.discard(t)
		delete(a.streamed, xid)
	}
	a.current = nil
	clear(a.types)
	for _, r := range a.relations {
		r.described = false
	}
}

// Open tells whether a transaction that is sent in one piece is half received, and where its commit or PREPARE record
// begins: the stream has not come further than that. Streamed transactions do not hold the position back: the server
// sends their changes before it has read their commit or PREPARE record, so that record ends after every position that
// the server reports until then, and a stream asked for from such a position brings the transaction again as a whole.
func (a *Assembler) Open() (pipeline.LSN, bool) {
	if a.ordinary.fragment == nil {
		return 0, false
	}
	return a.ordinary.fragment.Start, true
}

// Kept lists the subtransactions with changes in the streamed transaction that the last Feed returned, until the next
// Feed. PostgreSQL may have kept to itself that one was rolled back; see the package's doc.
func (a *Assembler) Kept() []pipeline.XID { return a.kept }

// Held is what is half received.
type Held struct {
	Transactions   int
	Bytes, Spilled int64 // of changes: all, and those that are not in memory
	Inside         bool  // the next message belongs to a transaction: the server is sending one
}

// Held sums up what is half received.
func (a *Assembler) Held() Held {
	h := Held{
		Transactions: len(a.streamed), Bytes: int64(a.memory) + a.spilled, Spilled: a.spilled, Inside: a.current != nil,
	}
	if a.ordinary.fragment != nil {
		h.Transactions++
	}
	return h
}

var (
	errOutside = errors.New("outside a transaction")
	errInside  = errors.New("inside a transaction that has not ended")
)

// Feed takes the next message; walStart is its position in the XLogData header (zero for some kinds) and
// serves errors only. msg is not kept, but may be changed. ok says that rec is a whole record. After an error only Reset
// may be called.
func (a *Assembler) Feed(walStart pipeline.LSN, msg []byte) (rec pipeline.Record, ok bool, err error) {
	if len(msg) == 0 {
		return rec, false, fmt.Errorf("pgoutput at %s: empty message", walStart)
	}
	kind := msg[0]
	a.kept = a.kept[:0]
	switch kind {
	case 'I', 'U', 'D', 'T', 'M', 'R', 'Y':
		err = a.content(msg)
	case 'B', 'b':
		err = a.begin(msg)
	case 'O':
		err = a.origin(msg)
	case 'S':
		err = a.startBlock(msg)
	case 'E':
		err = a.stopBlock(msg)
	case 'A':
		err = a.abort(msg)
	default:
		rec, err = a.end(msg)
		ok = err == nil
	}
	if err != nil {
		return pipeline.Record{}, false, fmt.Errorf("pgoutput %q at %s: %w", kind, a.at(walStart), err)
	}
	return rec, ok, nil
}

// end takes the messages that make a record.
func (a *Assembler) end(msg []byte) (pipeline.Record, error) {
	switch msg[0] {
	case 'C':
		return a.commit(msg)
	case 'P':
		return a.prepared(msg)
	case 'c':
		return a.streamCommit(msg)
	case 'p':
		return a.streamPrepare(msg)
	case 'K', 'r':
		return a.secondPhase(msg)
	}
	return pipeline.Record{}, errors.New("unknown message type")
}

// at is the best position known for an error.
func (a *Assembler) at(walStart pipeline.LSN) pipeline.LSN {
	if walStart == 0 && a.current != nil {
		return a.current.fragment.Start
	}
	return walStart
}

// content takes what may be inside a block, where the number of the (sub)transaction follows the type byte.
func (a *Assembler) content(msg []byte) error {
	if t := a.current; t != nil && t.streamed {
		if len(msg) < 5 {
			return errors.New("the message is too short")
		}
		xid := pipeline.XID(binary.BigEndian.Uint32(msg[1:]))
		msg[4] = msg[0] // what is kept has the form that it has outside of blocks
		msg = msg[4:]
		if msg[0] != 'R' && msg[0] != 'Y' {
			t.enter(xid)
		}
	}
	switch msg[0] {
	case 'R':
		return a.relation(msg)
	case 'Y':
		return a.typ(msg)
	}
	return a.row(msg)
}

// row takes a row change, a truncation or a logical message.
func (a *Assembler) row(msg []byte) error {
	if msg[0] == 'M' && len(msg) > 1 && msg[1]&1 == 0 {
		return a.looseMessage(msg)
	}
	if a.current == nil {
		return errOutside
	}
	if err := pipeline.ParseChange(msg, &a.change); err != nil {
		return err
	}
	c := &a.change
	switch c.Op {
	case pipeline.Insert, pipeline.Update, pipeline.Delete:
		r, err := a.described(c.RelationID)
		if err != nil {
			return err
		}
		if err := columns(c, r.version); err != nil {
			return err
		}
		if r.metadata {
			return a.citus(c, r.version)
		}
		a.use(r)
	case pipeline.Truncate:
		kept, err := a.truncate(msg)
		if err != nil || kept == nil {
			return err
		}
		msg = kept
	case pipeline.Message:
		if strings.HasPrefix(c.Prefix, OwnPrefix) && !(mark.Is(c.Prefix) && mark.From(c.Content, a.Token)) {
			return nil
		}
	}
	return a.append(msg)
}

// use lists r in the fragment where this version of it is first used.
func (a *Assembler) use(r *relation) {
	t := a.current
	if r.usedIn == t.serial {
		return
	}
	r.usedIn = t.serial
	use := pipeline.RelationUse{Offset: t.size, Relation: r.version}
	f := t.fragment
	switch {
	case !t.streamed:
		a.slab.using = append(a.slab.using, use)
	case lastUse(f, r.version.ID) != r.version: // it forgets its relations when a subtransaction is aborted, and gets them again
		f.Relations = append(f.Relations, use)
	}
}

// lastUse is the version of a relation that changes added to the body would mean.
func lastUse(f *pipeline.Fragment, id uint32) *pipeline.Relation {
	for i := len(f.Relations) - 1; i >= 0; i-- {
		if r := f.Relations[i].Relation; r.ID == id {
			return r
		}
	}
	return nil
}

// known are the relations that changes may refer to now.
func (a *Assembler) known() map[uint32]*relation {
	if a.current != nil && a.current.streamed {
		return a.current.relations
	}
	return a.relations
}

// described finds a relation that this session has described.
func (a *Assembler) described(id uint32) (*relation, error) {
	r := a.known()[id]
	if r == nil || !r.described {
		return nil, fmt.Errorf("relation %d was never described", id)
	}
	return r, nil
}

// columns compares the number of values with the number of columns.
func columns(c *pipeline.Change, r *pipeline.Relation) error {
	for _, t := range [...]pipeline.Tuple{c.Old, c.New} {
		if t != nil && t.Columns() != len(r.Columns) {
			return fmt.Errorf("%s on %s: %d values for %d columns", c.Op, r, t.Columns(), len(r.Columns))
		}
	}
	return nil
}

// truncate lists the tables of a.change, which is parsed from msg. It returns the message without Citus'
// metadata tables, or nil when no other table is left.
func (a *Assembler) truncate(msg []byte) ([]byte, error) {
	var kept []uint32
	for _, id := range a.change.TruncateIDs {
		r, err := a.described(id)
		if err != nil {
			return nil, err
		}
		if r.metadata {
			continue
		}
		a.use(r)
		kept = append(kept, id)
	}
	switch len(kept) {
	case len(a.change.TruncateIDs):
		return msg, nil
	case 0:
		return nil, nil
	}
	out := binary.BigEndian.AppendUint32([]byte{'T'}, uint32(len(kept)))
	out = append(out, a.change.TruncateFlags)
	for _, id := range kept {
		out = binary.BigEndian.AppendUint32(out, id)
	}
	return out, nil
}

// looseMessage takes a logical message that belongs to no transaction: it is checked and left out.
func (a *Assembler) looseMessage(msg []byte) error {
	if a.current != nil {
		return fmt.Errorf("logical message without a transaction: %w", errInside)
	}
	r := readerOf(msg[2:])
	r.Uint64() // lsn
	r.CString()
	r.Take(int(r.Uint32()))
	return r.end()
}

// citus takes a change of Citus' metadata. Only new rows of pg_dist_transaction mean something here: each
// names a prepared transaction that this one commits.
func (a *Assembler) citus(c *pipeline.Change, r *pipeline.Relation) error {
	if r.Name != "pg_dist_transaction" || c.Op != pipeline.Insert {
		return nil
	}
	i := slices.IndexFunc(r.Columns, func(c pipeline.Column) bool { return c.Name == "gid" })
	if i < 0 {
		return fmt.Errorf("%s is published without its column gid. Try: publish all of its columns", r)
	}
	a.values = c.New.Values(a.values[:0])
	if a.values[i].Kind != pipeline.Text {
		return fmt.Errorf("insert on %s: gid of kind %q, want text", r, a.values[i].Kind)
	}
	f := a.current.fragment
	f.Decides = append(f.Decides, string(a.values[i].Data))
	return nil
}

// relation takes a table's description.
func (a *Assembler) relation(msg []byte) error {
	v, err := pipeline.ParseRelation(msg, func(oid uint32) (pipeline.Type, bool) {
		t, ok := a.types[oid]
		return t, ok
	})
	if err != nil {
		return err
	}
	a.arrivals++
	known := a.known()
	if r := known[v.ID]; r != nil && same(r.version, v) {
		r.described, r.arrived = true, a.arrivals
		return nil
	}
	if r := a.relations[v.ID]; r != nil && same(r.version, v) {
		v = r.version
	} else if t := a.current; t != nil && t.streamed {
		if last := lastUse(t.fragment, v.ID); last != nil && same(last, v) {
			v = last // what came between was rolled back
		}
	}
	known[v.ID] = &relation{version: v, described: true, arrived: a.arrivals, metadata: citusMetadata(v)}
	return nil
}

func same(a, b *pipeline.Relation) bool {
	return bytes.Equal(a.Raw, b.Raw) && slices.Equal(a.Types, b.Types)
}

func citusMetadata(r *pipeline.Relation) bool {
	const prefix = "pg_dist_"
	return r.Namespace == "pg_catalog" && len(r.Name) >= len(prefix) && r.Name[:len(prefix)] == prefix
}

// typ takes the name of a user-defined type. The names have one place for the whole session: PostgreSQL sends those of a
// table's columns directly before every description of the table, so no other name of theirs can come in between.
func (a *Assembler) typ(msg []byte) error {
	r := readerOf(msg[1:])
	t := pipeline.Type{OID: r.Uint32(), Namespace: r.CString(), Name: r.CString()}
	if err := r.end(); err != nil {
		return err
	}
	if t.Namespace == "" {
		t.Namespace = "pg_catalog"
	}
	a.types[t.OID] = t
	return nil
}
