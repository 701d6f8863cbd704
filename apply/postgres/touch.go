package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"

	"shardcdc/apply"
	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// What a group touches, for package schedule. A change takes its table shared, and exclusively
//
//   - its row, by the values of the target's first key (the primary key), before and after it;
//   - each value of a further unique index that it takes or gives away.
//
// Where one of these values is not known, or two equal ones may have different texts, it takes the whole table exclusively
// instead. That is so of tables without a key, of changes located by other columns than the first key's, of updates and deletes
// where the source does not send the old value of a further unique index, and of types that are not in classes.
//
// A group runs alone with what changes tables, empties them, loads them or follows a mark, and where something fires at changes on
// the target, which may look at any other table.
//
// Partitions and their root are one table: the source may name either.

// touched is how the changes of one version of a source's table are told apart.
type touched struct {
	table uint64 // its key
	alone bool
	whole bool // nothing can be told about rows
	keys  []touchedKey
	seen  uint64 // the group whose keys have the table's
	taken uint64 // the group that has it exclusively
}

// touchedKey is an index in which rows meet.
type touchedKey struct {
	salt    uint64
	columns []int
	classes []class
	located bool // the columns are in the source's identity: their old values are known
}

// class says when two texts are one value.
type class uint8

const (
	asSent  class = iota + 1 // equal values have equal texts
	decimal                  // but for zeros at the end of the fraction
	padded                   // but for blanks at the end
)

// classes by the type on the target, as format_type writes it, and that on the source; 0 there: any. Two shards may have
// different types of one line only if it says so.
var classes = map[string]struct {
	class   class
	sources []uint32
}{
	"smallint": {asSent, integers}, "integer": {asSent, integers}, "bigint": {asSent, integers},
	"text": {asSent, nil}, "character varying": {asSent, nil}, "bpchar": {padded, nil}, "character": {padded, nil},
	"numeric": {decimal, append([]uint32{1700}, integers...)},
	"uuid":    {asSent, []uint32{2950}}, "date": {asSent, []uint32{1082}}, "boolean": {asSent, []uint32{16}}, "bytea": {asSent, []uint32{17}},
	"timestamp without time zone": {asSent, []uint32{1114}}, "timestamp with time zone": {asSent, []uint32{1184}},
}

var integers = []uint32{20, 21, 23}

// touchesMax is how many keys of rows one group may have; with more it takes its tables exclusively.
const touchesMax = 100_000

var errAlone = errors.New("has to run alone")

// Touches is described by apply.Session.
func (s *session) Touches(ctx context.Context, g *apply.Group, keys []schedule.Key) ([]schedule.Key, bool) {
	if g.Careful || g.End != nil || len(s.copies.tables) > 0 || len(s.ddl.entries) > 0 {
		return keys, true
	}
	s.forget()
	all, err := s.touches(ctx, g, keys, touchesMax)
	if err == nil && len(all)-len(keys) > touchesMax {
		all, err = s.touches(ctx, g, keys, 0)
	}
	if err != nil { // what cannot be told, or read, shows when it is alone
		return keys, true
	}
	return all, false
}

// touches adds at most one key of a row more than rowsMax; 0: tables only.
func (s *session) touches(ctx context.Context, g *apply.Group, keys []schedule.Key, rowsMax int) ([]schedule.Key, error) {
	s.groups++
	most := len(keys) + rowsMax
	var f *pipeline.Fragment
	change := func(c *pipeline.Change) error {
		if c.Op == pipeline.Message {
			if mark.Is(c.Prefix) {
				return errAlone
			}
			return nil
		}
		t, err := s.touching(ctx, f.Shard, c.Relation)
		if err == nil && (rowsMax == 0 || len(keys) <= most) {
			keys = s.touch(t, c, keys, rowsMax == 0)
		}
		return err
	}
	err := g.Transactions(func(tx *pipeline.Transaction) error {
		if _, skipped := g.Skips[tx.CSN]; skipped {
			return errAlone
		}
		for _, f = range tx.Fragments {
			if f.Content != nil || f.Ops.Has(pipeline.Truncate) || f.Ops.Has(pipeline.Read) {
				return errAlone
			}
			if err := s.walker.Walk(f, change); err != nil {
				return err
			}
		}
		return nil
	})
	return keys, err
}

// touching finds how the changes of a table are told apart, or finds out.
func (s *session) touching(ctx context.Context, shard pipeline.ShardID, r *pipeline.Relation) (*touched, error) {
	t := s.touched[r]
	if t == nil {
		if s.recall(shard, r) == nil {
			if err := s.resolve(ctx, shard, r); err != nil {
				return nil, err
			}
		}
		t = s.plans[r].tellApart()
		s.touched[r] = t
	}
	if t.alone {
		return nil, errAlone
	}
	return t, nil
}

// touch adds one change's keys.
func (s *session) touch(t *touched, c *pipeline.Change, keys []schedule.Key, whole bool) []schedule.Key {
	switch s.groups {
	case t.taken:
		return keys
	case t.seen:
	default:
		t.seen = s.groups
		keys = append(keys, schedule.Key{Hash: t.table})
	}
	if !whole && !t.whole {
		s.old, s.now = c.Old.Values(s.old[:0]), c.New.Values(s.now[:0])
		if all, ok := t.rows(c, s.old, s.now, keys); ok {
			return all
		}
	}
	t.taken = s.groups
	return append(keys, schedule.Key{Hash: t.table, Exclusive: true})
}

// rows adds the keys of one change's row, or says that one of them is not known.
func (t *touched) rows(c *pipeline.Change, old, now row, keys []schedule.Key) (_ []schedule.Key, ok bool) {
	add := func(k *touchedKey, r row) bool {
		hash, null, ok := k.hash(r)
		if ok && !null { // rows do not meet by NULL
			keys = append(keys, schedule.Key{Hash: hash, Exclusive: true})
		}
		return ok
	}
	for i := range t.keys {
		k := &t.keys[i]
		known := c.OldKind == pipeline.OldFull || k.located
		switch {
		case c.Op == pipeline.Insert:
			ok = add(k, now)
		case !known:
			ok = false
		case c.Op == pipeline.Delete:
			ok = add(k, old)
		case c.OldKind == pipeline.OldNone: // the identity, and so this, is as it was
			ok = add(k, now)
		default:
			k.keep(old, now)
			ok = add(k, old) && add(k, now)
		}
		if !ok {
			return keys, false
		}
	}
	return keys, true
}

// keep takes values that the source left out, because they are as before, from before.
func (k *touchedKey) keep(old, now row) {
	for _, i := range k.columns {
		if now[i].Kind == pipeline.Unchanged {
			now[i] = old[i]
		}
	}
}

var touchSeed = maphash.MakeSeed()

// hash of the key's values, which are known if ok.
func (k *touchedKey) hash(r row) (hash uint64, null, ok bool) {
	hash = k.salt
	for n, i := range k.columns {
		switch r[i].Kind {
		case pipeline.Null:
			null = true
		case pipeline.Text:
			hash = mix(hash, maphash.Bytes(touchSeed, canonical(k.classes[n], r[i].Data)))
		default: // not sent, or in binary form, which may be a text elsewhere
			return 0, false, false
		}
	}
	return hash, null, true
}

func mix(a, b uint64) uint64 {
	h := (a ^ b) * 0x9E3779B97F4A7C15
	return h ^ h>>29
}

// canonical is the same for all texts of a value.
func canonical(c class, text []byte) []byte {
	switch c {
	case decimal:
		if bytes.IndexByte(text, '.') >= 0 {
			return bytes.TrimRight(bytes.TrimRight(text, "0"), ".")
		}
	case padded:
		return bytes.TrimRight(text, " ")
	case asSent:
	}
	return text
}

// tellApart finds out how the changes of a table are told apart.
func (p *plan) tellApart() *touched {
	if p.gone || p.table.strict {
		return &touched{alone: true}
	}
	root := maphash.String(touchSeed, cmp.Or(p.table.tree, p.table.oid))
	t := &touched{table: root, whole: len(p.table.keys) == 0}
	if t.whole {
		return t
	}
	// The first key is first, and there even if it is among the others: rows are told apart by it.
	first := unique{columns: p.table.keys[0], exact: slices.ContainsFunc(p.table.uniques, func(u unique) bool {
		return u.exact && slices.Equal(u.columns, p.table.keys[0])
	})}
	for _, u := range append([]unique{first}, p.table.uniques...) {
		k, ok := p.touchedKey(root, u)
		if !ok {
			t.whole = true
			return t
		}
		if !slices.ContainsFunc(t.keys, func(x touchedKey) bool { return x.salt == k.salt }) {
			t.keys = append(t.keys, k)
		}
	}
	return t
}

// touchedKey makes one of an index; ok: its values tell rows apart.
func (p *plan) touchedKey(root uint64, u unique) (k touchedKey, ok bool) {
	if !u.exact {
		return k, false
	}
	// By name: a partition may have its columns in another order.
	columns := slices.SortedFunc(slices.Values(u.columns), func(a, b *column) int { return strings.Compare(a.name, b.name) })
	k = touchedKey{salt: root, located: true}
	for _, c := range columns {
		i := slices.Index(p.columns, c)
		if i < 0 || c.generated {
			return k, false // the target makes its value
		}
		what := classes[c.typ]
		if what.class == 0 || what.sources != nil && !slices.Contains(what.sources, p.relation.Columns[i].Type) {
			return k, false
		}
		k.salt = mix(k.salt, maphash.String(touchSeed, c.name))
		k.columns, k.classes = append(k.columns, i), append(k.classes, what.class)
		k.located = k.located && slices.Contains(p.identity, i)
	}
	return k, true
}

// Held is described by apply.Session.
func (s *session) Held(ctx context.Context, lane apply.Lane, others []apply.Lane) (bool, error) {
	var pids []string
	for _, o := range others {
		pids = append(pids, string(o.(*session).pid()))
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	rows, err := s.query(ctx, `WITH RECURSIVE before(pid) AS (
			SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids($1::int))
			UNION SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(b.pid)) FROM before AS b)
		SELECT 1 FROM before WHERE pid = ANY ($2::int[]) LIMIT 1`, string(lane.(*session).pid()), "{"+strings.Join(pids, ",")+"}")
	return len(rows) > 0, err
}

// catchUp lets a lane forget what the session has forgotten.
func (s *session) catchUp() {
	if s.primary == nil {
		return
	}
	if learned := s.primary.learned.Load(); learned != s.known {
		s.unlearn()
		s.known = learned
	}
}
