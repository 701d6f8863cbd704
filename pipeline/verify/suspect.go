package verify

import (
	"context"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"

	"shardcdc/pipeline"
)

// suspect is a row that was not seen to be equal: all rows of one key, or, of a table without a key, all rows with the
// same values. Its answer is that of the last round.
type suspect struct {
	plan *plan
	id   string  // recordText of the key's values, or the digest of the whole row
	key  []value // empty without a key

	// Of one round:
	source  side
	views   []view
	touches []touch

	answer answer
	last   view   // the target's, that the answer is about
	reason string // why it is undecided
	action string // what repair did
}

type answer int

const (
	undecided answer = iota
	equal
	different
)

// side is what one side has of a suspect.
type side struct {
	rows    int
	sum     uint64   // of the rows' hashes
	columns []uint64 // hashes, of the first row
	shards  []int    // that have rows
	values  [][]value
}

// view is what the target had when it was at csn.
type view struct {
	csn  pipeline.CSN
	side side
}

// touch says that the stream changes a suspect.
type touch struct {
	csn     pipeline.CSN
	visible bool // to the source's snapshot
	shard   int
	xid     pipeline.XID
}

// ask begins a round.
func (s *suspect) ask() {
	s.source, s.views, s.touches, s.answer, s.reason = side{}, nil, nil, undecided, ""
}

func (s *side) equal(o *side) bool { return s.rows == o.rows && s.sum == o.sum }

var hashSeed = maphash.MakeSeed()

// hashRow hashes a row, column by column.
func hashRow(values []value, into []uint64) (sum uint64, columns []uint64) {
	for _, v := range values {
		h := uint64(0)
		if !v.null {
			h = maphash.String(hashSeed, v.text) | 1
		}
		into = append(into, h)
		sum = (sum ^ h) * 0x9E3779B97F4A7C15
		sum ^= sum >> 29
	}
	return sum, into
}

func (s *side) add(values []value, shard int, keep bool) {
	s.rows++
	var into []uint64
	if s.rows == 1 {
		into = make([]uint64, 0, len(values))
	}
	sum, columns := hashRow(values, into)
	s.sum += sum
	if s.rows == 1 {
		s.columns = columns
	}
	s.shards = append(s.shards, shard)
	if keep {
		s.values = append(s.values, values)
	}
}

// suspects are those of one round, by table.
type suspects struct {
	tables []*plan
	by     map[tableName]map[string]*suspect
}

func group(list []*suspect) *suspects {
	g := &suspects{by: map[tableName]map[string]*suspect{}}
	for _, s := range list {
		ids := g.by[s.plan.tableName]
		if ids == nil {
			ids = map[string]*suspect{}
			g.by[s.plan.tableName] = ids
			g.tables = append(g.tables, s.plan)
		}
		ids[s.id] = s
	}
	return g
}

// each calls fn with every suspect, table by table.
func (g *suspects) each(fn func(*suspect)) {
	for _, p := range g.tables {
		for _, s := range g.by[p.tableName] {
			fn(s)
		}
	}
}

// fetch reads the suspects' rows of one table on one server.
func fetch(ctx context.Context, d *database, p *plan, t *described, ids map[string]*suspect, fn func(*suspect, []value)) error {
	if t == nil || len(ids) == 0 {
		return nil
	}
	sql, args, ordered := fetchSQL(p, t, ids)
	return d.each(ctx, sql, args, func(row [][]byte) error {
		values := valuesOf(row[1:])
		s := ids[p.idOf(values)]
		if ordered != nil {
			n, err := strconv.Atoi(string(row[0]))
			if err != nil {
				return err
			}
			if s != ordered[n-1] {
				return nil // equal keys may have different texts (citext): this row is another one's
			}
		}
		if s != nil {
			fn(s, values)
		}
		return nil
	})
}

// idOf finds out which suspect a row belongs to.
func (p *plan) idOf(values []value) string {
	if p.key == nil {
		return digest(recordText(values))
	}
	return recordText(pick(values, p.key))
}

func pick(values []value, at []int) []value {
	picked := make([]value, len(at))
	for i, c := range at {
		picked[i] = values[c]
	}
	return picked
}

// fetchSQL finds rows by the key's index where there is one; else it has to look at the whole table.
func fetchSQL(p *plan, t *described, ids map[string]*suspect) (sql string, args []string, ordered []*suspect) {
	columns := ""
	for _, c := range p.columns {
		columns += ", t." + quote(c)
	}
	join, ok := p.join(t)
	if !ok {
		var digests []string
		for id := range ids {
			if p.key != nil {
				id = digest(id)
			}
			digests = append(digests, id)
		}
		return fmt.Sprintf("SELECT 0%s FROM %s AS t WHERE %s = ANY ($1::text[])",
			columns, p.from(t), p.digest(p.record(p.identity()))), []string{array(digests)}, nil
	}
	keys := make([][]string, len(p.key))
	for _, s := range ids {
		ordered = append(ordered, s)
		for i := range p.key {
			keys[i] = append(keys[i], s.key[i].text)
		}
	}
	var lists, names []string
	for i := range p.key {
		args = append(args, array(keys[i]))
		lists = append(lists, fmt.Sprintf("$%d::text[]", i+1))
		names = append(names, fmt.Sprintf("k%d", i))
	}
	return fmt.Sprintf("SELECT u.n%s FROM unnest(%s) WITH ORDINALITY AS u(%s, n) JOIN %s AS t ON %s",
		columns, strings.Join(lists, ", "), strings.Join(names, ", "), p.from(t), join), args, ordered
}

// join compares the key's columns with those of u; not ok: not every one has an operator there.
func (p *plan) join(t *described) (sql string, ok bool) {
	var terms []string
	for i, c := range p.key {
		col := t.columns[t.column(p.columns[c])]
		op := t.operator(col.name)
		if op == "" {
			return "", false
		}
		terms = append(terms, fmt.Sprintf("t.%s %s u.k%d::%s", quote(col.name), op, i, col.typ))
	}
	return strings.Join(terms, " AND "), terms != nil
}
