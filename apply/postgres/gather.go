package postgres

import (
	"slices"
	"sync"
	"time"

	"shardcdc/apply/postgres/net"
	"shardcdc/pipeline"
)

// Changes are gathered, not sent one by one: those of one row are folded (package net), and those of many rows go in one
// statement (set.go). What cannot be gathered is sent by itself, behind what was gathered of its table. So
//
//   - the changes of one row keep their order, or what comes of it;
//   - tables do not wait for each other: nothing on the target looks from one at another, unless it is strict. Before a
//     change of a strict table everything that was gathered is sent. A partition and its root are two names of the same rows,
//     and do wait (flushTree).
//
// A set of rows cannot say which row an error is about. So the attempt fails without naming one, and the next one, which is
// careful, sends every change by itself.

// Limits of what is gathered. More is folded better; a group is hardly larger, and its bytes are in memory anyway. Where they
// are not (a transaction larger than memory) they are copied, and there are less.
const (
	gatherRowsMax   = 32 << 10
	gatherBytesMax  = 8 << 20
	gatherCopiesMax = 1 << 20
	gatherNewMax    = 1 << 20  // of new rows alone, for which nothing is gained by waiting: the target begins
	gatherRowBytes  = 64 << 10 // a larger row goes by itself
)

// gathered is what was gathered of a table.
type gathered struct {
	plan   *plan
	rows   net.Rows
	others bool // there are not only new rows
}

// sparesMax is for how many tables at a time a session keeps memory. Each has some megabytes where there were many rows.
const sparesMax = 8

// gathering says whether changes may be gathered, and by which key they are folded: one of which the target holds each value
// once, since the number of rows that a statement touches proves nothing otherwise.
func (p *plan) gathering() (gathers bool, fold []int) {
	if p.table.strict || len(p.written()) == 0 {
		return false, nil
	}
	casts := true
	for _, c := range p.columns {
		if c.always {
			return false, nil
		}
		casts = casts && (c.casts || c.generated)
	}
	fold = p.identity
	if p.relation.Identity == 'f' {
		fold = p.full
	}
	found := func(i int) bool { return p.columns[i].equal != "" && !p.columns[i].generated }
	unique := func(key []int) bool {
		return p.table.tellsApart(p.named(key)) && !slices.ContainsFunc(key, func(i int) bool { return !slices.Contains(fold, i) })
	}
	if !casts || !slices.ContainsFunc(p.keysOfTarget(), unique) || slices.ContainsFunc(fold, func(i int) bool { return !found(i) }) {
		return true, nil
	}
	return true, fold
}

// tellsApart says that rows which differ in the text of a key differ as the column's type and collation see it, up to a
// canonical form. (An index may see more differences than its column, and then a value finds more than one row.)
func (t *table) tellsApart(key []*column) bool {
	return !slices.ContainsFunc(key, func(c *column) bool { return c.equal != "=" }) &&
		slices.ContainsFunc(t.uniques, func(u unique) bool { return u.exact && slices.Equal(u.columns, key) })
}

// named are the columns of places.
func (p *plan) named(at []int) (columns []*column) {
	for _, i := range at {
		columns = append(columns, p.columns[i])
	}
	return columns
}

// gather takes a change, if it can be gathered.
func (w *writer) gather(csn pipeline.CSN, p *plan, f *pipeline.Fragment, c *pipeline.Change) (took bool, err error) {
	size := len(c.Old) + len(c.New)
	if w.inOrder || !p.gathers || size > gatherRowBytes || w.s.target.ordered.has(p.table) {
		return false, nil
	}
	if err := w.flushTree(p.table); err != nil {
		return false, err
	}
	g := w.s.gatheredOf(p.table)
	if g.plan != p {
		if err := w.flushTable(p.table); err != nil {
			return false, err
		}
		g.plan = p
		g.rows.Begin(p.fold)
	}
	g.rows.Keep = f.Content != nil
	before := g.rows.Size()
	if took = g.rows.Add(f.Shard, csn, c); !took && g.rows.Len() > 0 {
		if err := w.flushTable(p.table); err != nil {
			return false, err
		}
		before = g.rows.Size()
		took = g.rows.Add(f.Shard, csn, c)
	}
	if !took {
		return false, nil
	}
	size = g.rows.Size() - before
	g.others = g.others || c.Op != pipeline.Insert
	if !g.others && g.rows.Size() >= gatherNewMax {
		return true, w.flushTable(p.table)
	}
	w.gatheredBytes += size
	if f.Content != nil {
		w.gatheredBytes += size * (gatherBytesMax/gatherCopiesMax - 1)
	}
	if w.gatheredRows++; w.gatheredRows < gatherRowsMax && w.gatheredBytes < gatherBytesMax {
		return true, nil
	}
	return true, w.flush()
}

// gatheredOf is what was gathered of a table, or where it will be.
func (s *session) gatheredOf(t *table) *gathered {
	if t.gathered != nil {
		return t.gathered
	}
	if n := len(s.spares); n > 0 {
		t.gathered, s.spares = s.spares[n-1], s.spares[:n-1]
	} else {
		t.gathered = new(gathered)
	}
	s.gathered = append(s.gathered, t)
	return t.gathered
}

// before sends what has to go before a change of this table that is sent by itself.
func (w *writer) before(t *table) error {
	if t.strict {
		return w.flush()
	}
	if err := w.flushTree(t); err != nil {
		return err
	}
	return w.flushTable(t)
}

// flushTree sends what was gathered under other names of a table's rows: a partition has rows of its root.
func (w *writer) flushTree(t *table) error {
	if t.tree == "" {
		return nil
	}
	for _, other := range w.s.gathered {
		if other != t && other.tree == t.tree && (other.partitioned || t.partitioned) {
			if err := w.flushTable(other); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush sends everything that was gathered.
func (w *writer) flush() error {
	for _, t := range w.s.gathered {
		if err := w.flushTable(t); err != nil {
			return err
		}
		t.gathered.plan = nil
		if len(w.s.spares) < sparesMax {
			w.s.spares = append(w.s.spares, t.gathered)
		}
		t.gathered = nil
	}
	clear(w.s.gathered)
	w.s.gathered = w.s.gathered[:0]
	w.gatheredRows, w.gatheredBytes = 0, 0
	return nil
}

// flushTable sends what was gathered of a table: deletes make room, then updates, then inserts.
func (w *writer) flushTable(t *table) error {
	g := t.gathered
	if g == nil || g.rows.Len() == 0 {
		return nil
	}
	s := &w.s.sets
	s.deletes, s.updates, s.inserts = s.deletes[:0], s.updates[:0], s.inserts[:0]
	rows := g.rows.All()
	for i := range rows {
		r := &rows[i]
		if r.Deleted {
			s.deletes = append(s.deletes, r)
		}
		switch {
		case r.Updates():
			s.updates = append(s.updates, r)
		case r.Inserts():
			s.inserts = append(s.inserts, r)
		}
	}
	for _, send := range []func(*plan) error{w.deleteRows, w.updateRows, w.insertRows} {
		if err := send(g.plan); err != nil {
			return err
		}
	}
	g.rows.Begin(g.plan.fold)
	g.others = false
	return nil
}

// each sends rows one by one.
func (w *writer) each(p *plan, op pipeline.Op, rows []*net.Row) error {
	s := w.s
	for _, r := range rows {
		ch := change{op: op, csn: r.CSN, plan: p, folded: true}
		if op != pipeline.Insert {
			ch.oldKind, ch.old = r.OldKind, r.Old
		}
		if op != pipeline.Delete {
			ch.new = r.New
		}
		s.old, s.now = ch.old.Values(s.old[:0]), ch.new.Values(s.now[:0])
		if r.Own {
			ch.old, ch.new = w.lasting(ch.old, s.old), w.lasting(ch.new, s.now)
		}
		if err := w.single(ch); err != nil {
			return err
		}
	}
	return nil
}

// ordered are tables whose changes have to go in the order of the source: gathered ones met in a unique index other than the
// one by which rows are found, as two rows do that swap a value. It is believed for some time.
type ordered struct {
	mu    sync.Mutex
	until map[tableName]time.Time
}

const orderedFor = 10 * time.Minute

func (o *ordered) has(t *table) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	until, ok := o.until[t.name]
	return ok && time.Now().Before(until)
}

func (o *ordered) add(t *table) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until == nil {
		o.until = map[tableName]time.Time{}
	}
	o.until[t.name] = time.Now().Add(orderedFor)
}
