// Package pgoutput turns the messages of PostgreSQL's logical decoding plugin pgoutput into records of a
// shard's stream: bytes in, pipeline.Record out. It is pure: no clock, goroutine, lock or I/O.
//
//	a := pgoutput.New(shard)
//	for each XLogData of the session {
//		rec, ok, err := a.Feed(walStart, payload) // payload may be reused afterwards
//		if err != nil { the session is broken: forget it, nothing half received may be used }
//		if ok { hand rec on }
//	}
//
// It expects the options proto_version '3', two_phase 'on', messages 'true', with streaming and binary off
// (PostgreSQL documentation, chapter "Logical Replication Message Formats"; the formats of versions 15 to 18
// are the same byte for byte):
//
//	         B (begin)                    C (commit)
//	outside ───────────► in a one-phase ────────────► outside, Commit
//	         b (begin prepare)            P (prepare)
//	outside ───────────► in a two-phase ────────────► outside, Prepare
//	outside ── K (commit prepared), r (rollback prepared) ──► outside
//
// O (origin) may follow a begin; I, U, D, T and M (row changes, truncation, logical message) come inside a
// transaction; R and Y (relation, type) come anywhere. Every other message and every other order is an error,
// so nothing is ever skipped because it was not understood.
//
// What is left out of a fragment's body, and only this:
//   - Non-transactional logical messages. They belong to no transaction, PostgreSQL sends them even when the
//     transaction that wrote them rolls back, and their place between transactions carries no order.
//   - Transactional logical messages with a prefix that starts with "cdc.": this program's own.
//   - Changes of Citus' metadata tables (pg_catalog.pg_dist_*), which a publication FOR ALL TABLES contains.
//     Inserts into pg_dist_transaction list the gids that the transaction decides; they go to
//     Fragment.Decides.
package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"shardcdc/pipeline"
)

// OwnPrefix starts the prefix of every logical message that shardcdc writes itself.
const OwnPrefix = "cdc."

// Assembler puts one session's messages together. The zero value is not usable; see New.
//
// Invariants:
//  1. fragment is set between a begin and its end, and only then.
//  2. every relation used by fragment.Body stands in fragment.Relations at or before the use.
//  3. fragment.Body has passed pipeline.ParseChange and the column count of its relation.
type Assembler struct {
	shard    pipeline.ShardID
	bytesMax int

	fragment *pipeline.Fragment
	prepare  bool // the fragment began with b, not with B
	serial   uint64

	relations map[uint32]*relation
	types     map[uint32]pipeline.Type
	change    pipeline.Change // reused
	values    []pipeline.Value
}

// relation is what the session knows of a table.
type relation struct {
	version   *pipeline.Relation
	described bool   // the present session described it; else it is kept for its pointer only
	usedIn    uint64 // serial of the last fragment that lists this version
	metadata  bool   // Citus' own: kept out of bodies
}

// New makes an Assembler for one shard. A fragment with a body larger than bytesMax is an error (a
// *TooLargeError); zero is no limit.
func New(shard pipeline.ShardID, bytesMax int) *Assembler {
	return &Assembler{
		shard:     shard,
		bytesMax:  bytesMax,
		relations: make(map[uint32]*relation),
		types:     make(map[uint32]pipeline.Type),
	}
}

// TooLargeError says that a transaction does not fit.
type TooLargeError struct {
	XID      pipeline.XID
	GID      string
	BytesMax int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("transaction xid %d gid %q has more than %d bytes of changes on one shard", e.XID, e.GID, e.BytesMax)
}

// Reset begins a new session: a transaction half received is forgotten and every relation has to be described
// again. A relation that is then described as before keeps its pointer.
func (a *Assembler) Reset() {
	a.fragment = nil
	clear(a.types)
	for _, r := range a.relations {
		r.described = false
	}
}

// Open tells whether a transaction is half received, and where its commit or PREPARE record begins: the stream
// has not come further than that.
func (a *Assembler) Open() (pipeline.LSN, bool) {
	if a.fragment == nil {
		return 0, false
	}
	return a.fragment.Start, true
}

var (
	errOutside = errors.New("outside a transaction")
	errInside  = errors.New("inside a transaction that has not ended")
)

// Feed takes the next message; walStart is its position in the XLogData header (zero for some kinds) and
// serves errors only. msg is not kept. ok says that rec is a whole record. After an error only Reset may be
// called.
func (a *Assembler) Feed(walStart pipeline.LSN, msg []byte) (rec pipeline.Record, ok bool, err error) {
	if len(msg) == 0 {
		return rec, false, fmt.Errorf("pgoutput at %s: empty message", walStart)
	}
	switch msg[0] {
	case 'I', 'U', 'D', 'T', 'M':
		err = a.row(msg)
	case 'B', 'b':
		err = a.begin(msg)
	case 'O':
		err = a.origin(msg)
	case 'R':
		err = a.relation(msg)
	case 'Y':
		err = a.typ(msg)
	case 'C':
		rec, err = a.commit(msg)
		ok = err == nil
	case 'P':
		rec, err = a.prepared(msg)
		ok = err == nil
	case 'K', 'r':
		rec, err = a.secondPhase(msg)
		ok = err == nil
	case 'S', 'E', 'c', 'A', 'p':
		err = errors.New("a message of a streamed transaction, but streaming is not requested")
	default:
		err = errors.New("unknown message type")
	}
	if err != nil {
		return pipeline.Record{}, false, fmt.Errorf("pgoutput %q at %s: %w", msg[0], a.at(walStart), err)
	}
	return rec, ok, nil
}

// at is the best position known for an error.
func (a *Assembler) at(walStart pipeline.LSN) pipeline.LSN {
	if walStart == 0 && a.fragment != nil {
		return a.fragment.Start
	}
	return walStart
}

// row takes a row change, a truncation or a logical message.
func (a *Assembler) row(msg []byte) error {
	if msg[0] == 'M' && len(msg) > 1 && msg[1]&1 == 0 {
		return a.looseMessage(msg)
	}
	f := a.fragment
	if f == nil {
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
		if len(c.Prefix) >= len(OwnPrefix) && c.Prefix[:len(OwnPrefix)] == OwnPrefix {
			return nil
		}
	}
	return a.append(msg)
}

// append copies a message into the body.
func (a *Assembler) append(msg []byte) error {
	f := a.fragment
	need := len(f.Body) + 4 + len(msg)
	if a.bytesMax > 0 && need > a.bytesMax {
		return &TooLargeError{XID: f.XID, GID: f.GID, BytesMax: a.bytesMax}
	}
	if need > cap(f.Body) {
		f.Body = slices.Grow(f.Body, room(len(f.Body), need))
	}
	f.Append(msg)
	return nil
}

// room is how many bytes to make room for: enough that a body is copied a handful of times while it grows
// (twice as large each time), but never more than 64 MB too much.
func room(have, need int) int {
	return max(need-have, min(max(have, 256), 64<<20))
}

// use lists r in the fragment where this version of it is first used.
func (a *Assembler) use(r *relation) {
	if r.usedIn == a.serial {
		return
	}
	r.usedIn = a.serial
	f := a.fragment
	f.Relations = append(f.Relations, pipeline.RelationUse{Offset: int64(len(f.Body)), Relation: r.version})
}

// described finds a relation that this session has described.
func (a *Assembler) described(id uint32) (*relation, error) {
	r := a.relations[id]
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
	if a.fragment != nil {
		return fmt.Errorf("logical message without a transaction: %w", errInside)
	}
	r := reader{b: msg[2:]}
	r.uint64() // lsn
	r.cstring()
	r.take(int(r.uint32()))
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
	a.fragment.Decides = append(a.fragment.Decides, string(a.values[i].Data))
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
	r := a.relations[v.ID]
	if r != nil && bytes.Equal(r.version.Raw, v.Raw) && slices.Equal(r.version.Types, v.Types) {
		r.described = true
		return nil
	}
	a.relations[v.ID] = &relation{version: v, described: true, metadata: citusMetadata(v)}
	return nil
}

func citusMetadata(r *pipeline.Relation) bool {
	const prefix = "pg_dist_"
	return r.Namespace == "pg_catalog" && len(r.Name) >= len(prefix) && r.Name[:len(prefix)] == prefix
}

// typ takes the name of a user-defined type.
func (a *Assembler) typ(msg []byte) error {
	r := reader{b: msg[1:]}
	t := pipeline.Type{OID: r.uint32(), Namespace: r.cstring(), Name: r.cstring()}
	if err := r.end(); err != nil {
		return err
	}
	if t.Namespace == "" {
		t.Namespace = "pg_catalog"
	}
	a.types[t.OID] = t
	return nil
}
