package fold

import (
	"slices"

	"shardcdc/pipeline"
)

// name is how tables are found.
type name struct{ schema, table string }

// table is a followed table and what is noted of it.
type table struct {
	Table
	entries []*entry // in the order of the fragments
	bytes   int      // that the entries take

	// lost are transactions of which the notes are not complete. More than lostMax of them are forgotten one by one, and
	// lostThrough, the highest number, stands for all that begin before it.
	lost        []pipeline.XID
	lostThrough pipeline.XID
	crowded     bool // lostThrough holds

	layout layout // of the relation seen last
}

// lostMax bounds table.lost.
const lostMax = 4096

// entry is what one fragment did to one table.
type entry struct {
	xid   pipeline.XID
	notes []note
	bytes int
	lost  bool // no more is to be noted; it is no longer in table.entries
}

// note is a change, in a form that can be applied to a row.
type note struct {
	op       pipeline.Op
	relation *pipeline.Relation // nil: truncate
	// old and new name the row before and after (of a table with a key).
	old, new string
	// tuple is the row after an insert or an update: what the fragment itself tells of unchanged TOAST values is filled in.
	tuple pipeline.Tuple
	// was is the whole row before an update or a delete (of a table without a key).
	was pipeline.Tuple
}

// noteBytes is what a note takes beside its keys and tuples, and entryBytes an entry.
const (
	noteBytes  = 128
	entryBytes = 96
)

func (n *note) bytes() int { return noteBytes + len(n.old) + len(n.new) + len(n.tuple) + len(n.was) }

// layout says where the key of a table is in the tuples of a relation.
type layout struct {
	relation *pipeline.Relation
	key      []int // in the order of Table.Key; nil: the relation does not have all of these columns
	identity bool  // the replica identity has all of them: a change of the key shows
}

func layoutOf(t Table, r *pipeline.Relation) layout {
	l := layout{relation: r, identity: true}
	for _, column := range t.Key {
		i := slices.IndexFunc(r.Columns, func(c pipeline.Column) bool { return c.Name == column })
		if i < 0 {
			return layout{relation: r}
		}
		l.key = append(l.key, i)
		l.identity = l.identity && (r.Columns[i].Key || r.Identity == 'f')
	}
	return l
}

// layoutOf is layoutOf, remembered.
func (t *table) layoutOf(r *pipeline.Relation) *layout {
	if t.layout.relation != r {
		t.layout = layoutOf(t.Table, r)
	}
	return &t.layout
}

// keyOf appends a text that names the row with these values; ok is false if a part of the key is not there as text.
func (l *layout) keyOf(dst []byte, values []pipeline.Value) (key []byte, ok bool) {
	for _, i := range l.key {
		v := values[i]
		if v.Kind != pipeline.Text {
			return dst, false
		}
		dst = appendLength(dst, len(v.Data))
		dst = append(dst, v.Data...)
	}
	return dst, len(l.key) > 0
}

// texts are the values of the key.
func (l *layout) texts(values []pipeline.Value) []string {
	key := make([]string, len(l.key))
	for n, i := range l.key {
		key[n] = string(values[i].Data)
	}
	return key
}

// appendLength writes a length so that no two keys have the same text.
func appendLength(dst []byte, n int) []byte {
	return append(dst, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// appendTuple writes values as pgoutput does.
func appendTuple(dst []byte, values []pipeline.Value) pipeline.Tuple {
	dst = append(dst, byte(len(values)>>8), byte(len(values)))
	for _, v := range values {
		dst = append(dst, v.Kind)
		if v.Kind == pipeline.Text || v.Kind == pipeline.Binary {
			dst = appendLength(dst, len(v.Data))
			dst = append(dst, v.Data...)
		}
	}
	return dst
}

// fill puts the values that a change's old tuple has in place of unchanged TOAST values, and says whether there were any.
// full: the old tuple is the whole row; else a Null in it means "not sent".
func fill(values, old []pipeline.Value, full bool) (filled bool) {
	for i := range values {
		if values[i].Kind != pipeline.Unchanged || i >= len(old) {
			continue
		}
		if k := old[i].Kind; k == pipeline.Unchanged || k == pipeline.Null && !full {
			continue
		}
		values[i], filled = old[i], true
	}
	return filled
}

// incomplete says whether a value is missing.
func incomplete(values []pipeline.Value) bool {
	return slices.ContainsFunc(values, func(v pipeline.Value) bool { return v.Kind == pipeline.Unchanged })
}
