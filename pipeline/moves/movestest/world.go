// Package movestest makes random transactions whose rows move between shards, and knows what comes of them: for tests of package moves
// and of those who use it.
package movestest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"

	"shardcdc/pipeline"
)

// Shards are how many there are.
const Shards = 3

// Options say what may happen in a transaction.
type Options struct {
	Identity byte // of the table: 'd', 'f'
	// Keys: updates change keys of all rows; else only keys that no other shard has.
	Keys bool
	// Again: a shard may take a key again that an update gave away.
	Again bool
	// Truncate empties the table on each shard.
	Truncate bool
	// Unchanged: updates may leave out the column big, as a TOAST value.
	Unchanged bool
}

// Row is a row of the table t (id int PRIMARY KEY, v text, big text).
type Row struct {
	Shard  int
	V, Big string
}

func (r Row) String() string { return fmt.Sprintf("%s,%s@%d", r.V, r.Big, r.Shard) }

// World is a transaction, with the rows before and after it.
type World struct {
	Tx            *pipeline.Transaction
	Before, After map[int]Row
	Script        []string // what it does
}

// Columns are those of the table.
var Columns = []string{"id", "v", "big"}

// New makes a world.
func New(r *rand.Rand, o Options) *World {
	w := &World{Before: map[int]Row{}, After: map[int]Row{}, Tx: &pipeline.Transaction{CSN: 5, GID: "g", CommitTime: 1}}
	m := &maker{World: w, r: r, o: o, relation: relation(o.Identity)}
	for id := range shared {
		if r.IntN(2) == 0 {
			w.Before[id] = Row{r.IntN(Shards), m.value(), m.value()}
		}
	}
	for s := range Shards {
		if r.IntN(2) == 0 {
			w.Before[private(s)] = Row{s, m.value(), m.value()}
		}
	}
	for s := range Shards {
		m.fragment(s)
	}
	m.settle()
	for _, p := range m.parts {
		if p.f.Changes > 0 {
			w.Tx.Fragments = append(w.Tx.Fragments, p.f)
		}
		for id, x := range p.rows {
			w.After[id] = Row{p.shard, x.v, x.big}
		}
	}
	return w
}

// Keys: those that all shards use, and two of each shard.
const shared = 4

func private(shard int) int { return 10 * (shard + 1) }

type row struct {
	v, big string
	began  bool // under this key in this transaction
}

type part struct {
	shard   int
	f       *pipeline.Fragment
	rows    map[int]row
	touched map[int]bool
	left    map[int]bool // by an update
}

type maker struct {
	*World
	r        *rand.Rand
	o        Options
	relation *pipeline.Relation
	parts    []*part
	values   int
}

func relation(identity byte) *pipeline.Relation {
	r := &pipeline.Relation{ID: 7, Namespace: "public", Name: "t", Identity: identity}
	for i, name := range Columns {
		c := pipeline.Column{Name: name, Type: 25, Modifier: -1, Key: identity == 'f' || i == 0}
		if i == 0 {
			c.Type = 23
		}
		r.Columns = append(r.Columns, c)
	}
	return r
}

func (m *maker) value() string {
	m.values++
	return "v" + strconv.Itoa(m.values)
}

// fragment does something on a shard.
func (m *maker) fragment(shard int) {
	p := &part{shard: shard, rows: map[int]row{}, touched: map[int]bool{}, left: map[int]bool{}}
	p.f = &pipeline.Fragment{
		Shard: pipeline.ShardID(shard), XID: pipeline.XID(shard + 1), GID: "g", End: pipeline.LSN(100 + shard),
		Relations: []pipeline.RelationUse{{Relation: m.relation}},
	}
	m.parts = append(m.parts, p)
	for id, x := range m.Before {
		if x.Shard == shard {
			p.rows[id] = row{v: x.V, big: x.Big}
		}
	}
	steps := m.r.IntN(9)
	truncate := m.r.IntN(steps + 1)
	for i := range steps + 1 {
		if i == truncate && m.o.Truncate {
			m.truncate(p)
		}
		if i < steps {
			m.step(p)
		}
	}
}

func (m *maker) step(p *part) {
	id := m.r.IntN(shared)
	if m.r.IntN(3) == 0 {
		id = private(p.shard) + m.r.IntN(2)
	}
	_, here := p.rows[id]
	switch n := m.r.IntN(5); {
	case !here && p.left[id] && !m.o.Again:
	case !here:
		m.insert(p, id)
	case n < 2:
		m.remove(p, id)
	case n == 2:
		to := private(p.shard) + m.r.IntN(2)
		if m.o.Keys {
			to = m.r.IntN(shared)
		}
		if _, taken := p.rows[to]; !taken && (m.o.Keys || id >= shared) && (m.o.Again || !p.left[to]) {
			m.update(p, id, to)
		}
	default:
		m.update(p, id, id)
	}
}

// settle makes keys those of one row, and what stays of a key that others used a row of this transaction.
func (m *maker) settle() {
	for id := range shared {
		var has, uses []*part
		for _, p := range m.parts {
			if _, ok := p.rows[id]; ok {
				has = append(has, p)
			}
			if p.touched[id] {
				uses = append(uses, p)
			}
		}
		if len(has) == 0 {
			continue
		}
		stays := has[m.r.IntN(len(has))]
		for _, p := range has {
			if p != stays {
				m.remove(p, id)
				uses = append(uses, p)
			}
		}
		others := slices.ContainsFunc(uses, func(p *part) bool { return p != stays })
		if others && !stays.rows[id].began {
			m.remove(stays, id)
			m.insert(stays, id)
		}
	}
}

func (m *maker) note(p *part, id int, format string, args ...any) {
	p.touched[id] = true
	m.Script = append(m.Script, fmt.Sprintf("%d: ", p.shard)+fmt.Sprintf(format, args...))
}

func (m *maker) insert(p *part, id int) {
	x := row{m.value(), m.value(), true}
	p.rows[id] = x
	m.note(p, id, "insert %d %s %s", id, x.v, x.big)
	p.f.Append(x.tuple(m.head('I', 'N'), id, false))
}

func (m *maker) remove(p *part, id int) {
	m.note(p, id, "delete %d", id)
	p.f.Append(m.old(m.head('D'), p, id))
	delete(p.rows, id)
}

func (m *maker) update(p *part, id, to int) {
	was := p.rows[id]
	x := row{m.value(), was.big, was.began || to != id}
	m.note(p, id, "update %d → %d %s", id, to, x.v)
	p.touched[to] = true
	p.left[id] = p.left[id] || to != id
	msg := m.head('U')
	if m.o.Identity == 'f' || to != id {
		msg = m.old(msg, p, id)
	}
	p.f.Append(x.tuple(append(msg, 'N'), to, m.o.Unchanged && to == id && m.r.IntN(2) == 0))
	delete(p.rows, id)
	p.rows[to] = x
}

func (m *maker) truncate(p *part) {
	m.note(p, -1, "truncate")
	for id := range maps.Keys(p.rows) {
		p.touched[id] = true
	}
	clear(p.rows)
	p.f.Append(append(binary.BigEndian.AppendUint32([]byte{'T'}, 1), 0, 0, 0, 0, 7))
}

// head is a message up to its first tuple.
func (m *maker) head(op byte, kinds ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{op}, m.relation.ID), kinds...)
}

// old appends the old row as PostgreSQL sends it.
func (m *maker) old(msg []byte, p *part, id int) []byte {
	if m.o.Identity == 'f' {
		return p.rows[id].tuple(append(msg, 'O'), id, false)
	}
	msg = append(msg, 'K', 0, 3)
	return append(text(msg, strconv.Itoa(id)), pipeline.Null, pipeline.Null)
}

// tuple appends the row.
func (x row) tuple(msg []byte, id int, unchanged bool) []byte {
	msg = text(text(append(msg, 0, 3), strconv.Itoa(id)), x.v)
	if unchanged {
		return append(msg, pipeline.Unchanged)
	}
	return text(msg, x.big)
}

func text(msg []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(append(msg, pipeline.Text), uint32(len(s))), s...)
}
