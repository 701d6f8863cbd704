package moves

import (
	"bytes"
	"errors"
	"slices"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// Halves says how readers are told of an update that changes a row's key.
type Halves bool

const (
	Whole Halves = false // in one piece
	Apart Halves = true  // as a deletion and a creation, which may stand apart
)

// rememberedMax is how many changes of one transaction Order follows. Fragments beyond it stay in order, but for those that delete only. A
// variable for tests.
var rememberedMax = 1_000_000

// Order finds out in which order readers are told the changes: First, then InOrder, each fragment by fragment. Whoever takes them one by
// one (an insert or update makes the row of its key what it says, a delete removes it, whatever shard it is from) ends with the right
// rows. With Apart that is so for all rows that have keys. With Whole an update of the key gives the old key away in order, if its row
// stays; the reader has to know, by the shard, that a row that came there meanwhile is another one. (And loses that row if the
// shard that gave the key away takes it again, and deletes that row in the same transaction.)
//
// A TRUNCATE goes first, with what the fragment did to its tables before. Rows of a table without a key are known by all of their
// values. What is about tables of one fragment only stays in order. So does a fragment that changes tables, and what is about a table that
// comes in two forms, so that nobody is told a row in a form that is to come.
func Order(tx *pipeline.Transaction, halves Halves) (Moved, error) {
	if !may(tx, takesAway) {
		return nil, nil
	}
	var all Moved // made when there is something to say: most transactions only update
	set := func(n int, fs fates) {
		if all == nil {
			all = make(Moved, len(tx.Fragments))
		}
		all[n] = fs
	}
	remembered := 0
	for n, f := range tx.Fragments {
		if !takesAway(f) || !shares(tx, n) {
			continue
		}
		if !writes(f) {
			set(n, fates{all: First})
			continue
		}
		if follows, err := mayEnd(f); err != nil {
			return nil, err
		} else if !follows || remembered+f.Changes > rememberedMax {
			continue
		}
		each, err := order(tx, n, halves)
		if err != nil {
			return nil, err
		}
		if each != nil {
			remembered += f.Changes
			set(n, fates{each: each})
		}
	}
	return all, nil
}

// takesAway says that rows of the fragment may leave their keys. An update may be of the key.
func takesAway(f *pipeline.Fragment) bool {
	return f.Ops.Has(pipeline.Delete) || f.Ops.Has(pipeline.Truncate) || f.Ops.Has(pipeline.Update)
}

// shares says whether a fragment has a table that another one has, too.
func shares(tx *pipeline.Transaction, n int) bool {
	return slices.ContainsFunc(tx.Fragments[n].Relations, func(use pipeline.RelationUse) bool { return shared(tx, n, use.Relation) })
}

// shared says whether a table of a fragment is one of another fragment.
func shared(tx *pipeline.Transaction, n int, r *pipeline.Relation) bool {
	for m, other := range tx.Fragments {
		if m != n && slices.ContainsFunc(other.Relations, func(use pipeline.RelationUse) bool {
			return use.Relation.Name == r.Name && use.Relation.Namespace == r.Namespace
		}) {
			return true
		}
	}
	return false
}

// order is Order of the n-th fragment. Nil: all stay in order.
func order(tx *pipeline.Transaction, n int, halves Halves) ([]Fate, error) {
	f := tx.Fragments[n]
	tables := tablesOf(tx, n)
	emptied, alters, err := look(f, tables)
	if err != nil || alters {
		return nil, err
	}
	fl := newFollower(f)
	err = fl.walk(f, func(i int, c *pipeline.Change) error {
		t := tables[c.RelationID]
		switch last, ok := emptied[c.RelationID]; {
		case c.Op == pipeline.Truncate && len(emptied) > 0, ok && c.Relation != nil && i < last:
			fl.fates[i] = First
		case isRow(c) && t != nil && len(t.Key) > 0:
			fl.follow(i, c, &t.Row, t.whole)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	fl.readers(halves)
	return fl.fates, nil
}

// table is what identifies its rows.
type table struct {
	Row
	whole bool // all values of the row do
}

// tablesOf are the tables of a fragment that others have, too, by ID; of one that comes in several forms rows have no key.
func tablesOf(tx *pipeline.Transaction, n int) map[uint32]*table {
	tables := make(map[uint32]*table)
	for _, use := range tx.Fragments[n].Relations {
		r := use.Relation
		if t := tables[r.ID]; t != nil {
			t.Key = nil
			continue
		}
		if !shared(tx, n, r) {
			continue
		}
		t := &table{Row: Row{Table: r.ID}, whole: r.Identity == 'f'}
		for i := range r.Columns {
			if t.whole || r.Columns[i].Key {
				t.Key = append(t.Key, i)
			}
		}
		tables[r.ID] = t
	}
	return tables
}

// errFound ends a walk.
var errFound = errors.New("found")

// mayEnd says whether a row of the fragment may leave its key: it deletes, or an update is of the key. Without REPLICA IDENTITY FULL PostgreSQL
// sends an old row only then; rows known by all of their values have no key.
func mayEnd(f *pipeline.Fragment) (bool, error) {
	if f.Ops.Has(pipeline.Delete) || f.Ops.Has(pipeline.Truncate) {
		return true, nil
	}
	var old, now []pipeline.Value
	err := f.Walk(func(c *pipeline.Change) error {
		if c.Op != pipeline.Update || c.OldKind == pipeline.OldNone || c.Relation.Identity == 'f' {
			return nil
		}
		old, now = c.Old.Values(old[:0]), c.New.Values(now[:0])
		for i, v := range old {
			if c.Relation.Columns[i].Key && now[i].Kind != pipeline.Unchanged && (v.Kind != now[i].Kind || !bytes.Equal(v.Data, now[i].Data)) {
				return errFound
			}
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// look finds what has to be known of a fragment before its first change: the last TRUNCATE of each table, if one empties a table that others
// have, too; and whether it changes tables.
func look(f *pipeline.Fragment, tables map[uint32]*table) (emptied map[uint32]int, alters bool, err error) {
	if !f.Ops.Has(pipeline.Truncate) && !f.Ops.Has(pipeline.Message) {
		return nil, false, nil
	}
	emptied = make(map[uint32]int)
	i, concerns := 0, false
	err = f.Walk(func(c *pipeline.Change) error {
		for _, id := range c.TruncateIDs {
			emptied[id] = i
			concerns = concerns || tables[id] != nil
		}
		if _, ok, err := mark.DDLOf(c); ok && err == nil {
			alters = true
		}
		i++
		return nil
	})
	if !concerns {
		clear(emptied)
	}
	return emptied, alters, err
}
