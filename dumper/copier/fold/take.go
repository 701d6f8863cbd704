package fold

import (
	"errors"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// movedBytesMax bounds the keys of one table that Take reports for one fragment; beyond, it reports Moved.All.
const movedBytesMax = 256 << 10

// errEnough ends the walk over a fragment of which nothing more is to be learned.
var errEnough = errors.New("enough")

// Take notes what a fragment did to the followed tables. The caller writes what moved into its ledger before the fragment is
// published (see "Rows that get another key").
func (t *Tracker) Take(f *pipeline.Fragment) ([]Moved, error) {
	if !t.concerns(f) {
		return nil, nil
	}
	k := taking{t: t, f: f}
	for i := range f.Relations {
		k.add(f.Relations[i].Relation)
	}
	if k.enough() {
		return nil, nil
	}
	if err := f.Walk(k.change); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return k.moved(), nil
}

// concerns is what every fragment pays that has nothing to do with a followed table.
func (t *Tracker) concerns(f *pipeline.Fragment) bool {
	if len(t.tables) == 0 {
		return false
	}
	if f.Ops.Has(pipeline.Message) {
		return true
	}
	for i := range f.Relations {
		if r := f.Relations[i].Relation; t.tables[name{r.Namespace, r.Name}] != nil {
			return true
		}
	}
	return false
}

// taking is one pass over a fragment.
type taking struct {
	t       *Tracker
	f       *pipeline.Fragment
	tables  []*touched // those of the fragment that are followed
	old     []pipeline.Value
	new     []pipeline.Value
	scratch []byte
}

// touched is a followed table in a fragment.
type touched struct {
	*table
	unneeded   bool // every chunk contains the transaction
	entry      *entry
	lost       bool
	moved      Moved
	movedBytes int
}

// add makes the fragment's table known, if it is followed.
func (k *taking) add(r *pipeline.Relation) {
	tb := k.t.tables[name{r.Namespace, r.Name}]
	if tb == nil || k.find(tb) != nil {
		return
	}
	k.tables = append(k.tables, &touched{
		table: tb, unneeded: !k.t.needs(tb, k.f.XID), moved: Moved{Table: tb.Table},
	})
}

func (k *taking) find(tb *table) *touched {
	for _, to := range k.tables {
		if to.table == tb {
			return to
		}
	}
	return nil
}

func (k *taking) touchedBy(r *pipeline.Relation) *touched {
	if tb := k.t.tables[name{r.Namespace, r.Name}]; tb != nil {
		return k.find(tb)
	}
	return nil
}

// notes says whether there is something to be noted still.
func (to *touched) notes() bool {
	return !to.unneeded && !to.lost && (to.entry == nil || !to.entry.lost)
}

// mayMove says whether there may be moved rows still to be found.
func (to *touched) mayMove(f *pipeline.Fragment) bool {
	return to.Key != nil && !to.moved.All && f.Ops.Has(pipeline.Update)
}

// enough says that nothing more is to be learned.
func (k *taking) enough() bool {
	if k.f.Ops.Has(pipeline.Message) {
		return false
	}
	for _, to := range k.tables {
		if to.notes() || to.mayMove(k.f) {
			return false
		}
	}
	return true
}

func (k *taking) moved() (all []Moved) {
	for _, to := range k.tables {
		if to.moved.All || len(to.moved.Keys) > 0 {
			all = append(all, to.moved)
		}
	}
	return all
}

func (k *taking) change(c *pipeline.Change) error {
	switch c.Op {
	case pipeline.Insert, pipeline.Update, pipeline.Delete:
		to := k.touchedBy(c.Relation)
		if to == nil {
			return nil
		}
		if to.Key == nil {
			k.row(to, c)
		} else {
			k.keyed(to, c)
		}
		if !to.notes() && k.enough() {
			return errEnough
		}
	case pipeline.Truncate:
		for _, r := range c.Truncated {
			if to := k.touchedBy(r); to != nil {
				k.note(to, note{op: pipeline.Truncate})
			}
		}
	case pipeline.Message:
		return k.message(c)
	case pipeline.Read: // rows of a chunk; no shard sends any
	}
	return nil
}

// message loses the tables that a DDL statement may have changed: rows that were read before it have another form.
func (k *taking) message(c *pipeline.Change) error {
	d, ok, err := mark.DDLOf(c)
	if err != nil || !ok {
		return err
	}
	for _, tb := range k.t.tables {
		if changes(&d, tb.Table) && k.t.needs(tb, k.f.XID) {
			k.t.lose(tb, k.f.XID)
		}
	}
	return nil
}

// changes says whether a statement may have changed the form of a table's rows. It may say so of more tables than it did.
func changes(d *mark.DDL, t Table) bool {
	for _, o := range d.Objects {
		switch o.Type {
		case mark.DDLTable, mark.DDLColumn:
			if o.Schema == t.Schema && o.Name == t.Name {
				return true
			}
		case mark.DDLIndex:
		default: // a type, or a whole schema: any table may have it
			if !strings.HasPrefix(d.Tag, "CREATE ") {
				return true
			}
		}
	}
	return len(d.Objects) == 0
}

// note keeps a note, if it is needed. Its tuples are its own.
func (k *taking) note(to *touched, n note) {
	if !to.notes() {
		return
	}
	bytes := n.bytes()
	if to.entry == nil {
		to.entry = &entry{xid: k.f.XID}
		to.entries = append(to.entries, to.entry)
		bytes += entryBytes
	}
	to.entry.notes = append(to.entry.notes, n)
	k.t.charge(to.table, to.entry, bytes)
}

// lose says that what this fragment does to a table cannot be noted.
func (k *taking) lose(to *touched) {
	if to.notes() {
		to.lost = true
		k.t.lose(to.table, k.f.XID)
	}
}

// values reads a change's tuples and fills in what the old one tells of the new one.
func (k *taking) values(c *pipeline.Change) (filled bool) {
	k.old, k.new = c.Old.Values(k.old[:0]), c.New.Values(k.new[:0])
	return fill(k.new, k.old, c.OldKind == pipeline.OldFull)
}

// after is the tuple of the row after the change.
func (k *taking) after(c *pipeline.Change, filled bool) pipeline.Tuple {
	if filled {
		return appendTuple(make([]byte, 0, len(c.New)+len(c.Old)), k.new)
	}
	return append(pipeline.Tuple(nil), c.New...)
}

// row notes a change of a table without a key: the rows are what names them.
func (k *taking) row(to *touched, c *pipeline.Change) {
	if !to.notes() {
		return
	}
	n := note{op: c.Op, relation: c.Relation}
	filled := k.values(c)
	if c.Op != pipeline.Insert {
		if c.OldKind != pipeline.OldFull || incomplete(k.old) {
			k.lose(to)
			return
		}
		n.was = append(pipeline.Tuple(nil), c.Old...)
	}
	if c.Op != pipeline.Delete {
		if incomplete(k.new) {
			k.lose(to)
			return
		}
		n.tuple = k.after(c, filled)
	}
	k.note(to, n)
}

// keyed notes a change of a table with a key, and finds out whether the row moves.
func (k *taking) keyed(to *touched, c *pipeline.Change) {
	if !to.notes() && (c.Op != pipeline.Update || to.moved.All) {
		return
	}
	filled := k.values(c)
	l := to.layoutOf(c.Relation)
	n := note{op: c.Op, relation: c.Relation}
	old, told := k.old, l.identity
	if c.Op == pipeline.Insert || c.Op == pipeline.Update && c.OldKind == pipeline.OldNone {
		old = k.new // without an old tuple the key is as it was, if it is part of the identity
	}
	if c.Op == pipeline.Insert {
		told = true
	}
	var ok bool
	if k.scratch, ok = l.keyOf(k.scratch[:0], old); ok && told {
		n.old, n.new = string(k.scratch), string(k.scratch)
	}
	if c.Op == pipeline.Update && ok && c.OldKind != pipeline.OldNone {
		if k.scratch, ok = l.keyOf(k.scratch[:0], k.new); ok {
			n.new = string(k.scratch)
		}
	}
	if !ok || !told {
		to.moved.All = to.moved.All || c.Op == pipeline.Update
		k.lose(to)
		return
	}
	if n.old != n.new {
		to.move(l.texts(old), l.texts(k.new), len(n.old)+len(n.new))
	}
	if !to.notes() {
		return
	}
	if c.Op != pipeline.Delete {
		n.tuple = k.after(c, filled)
	}
	k.note(to, n)
}

// move reports a row that got another key.
func (to *touched) move(from, onto []string, bytes int) {
	if to.movedBytes += bytes; to.movedBytes > movedBytesMax {
		to.moved.All = true
	}
	if to.moved.All {
		to.moved.Keys = nil
		return
	}
	to.moved.Keys = append(to.moved.Keys, from, onto)
}
