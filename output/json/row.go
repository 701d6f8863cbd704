package json

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"shardcdc/output"
	"shardcdc/pipeline"
)

// tables remembers what is the same for all rows of a relation.
type tables struct {
	relations output.Relations[table]
	places    map[tableName]*place
}

// table is a relation, ready to be written.
type table struct {
	head    []byte // "schema":"…","table":"…"
	types   []byte // ,"types":{…}: of the columns whose type is known
	place   *place
	columns []column
	keys    int // columns of the identity; 0 when it does not tell which they are
}

type column struct {
	name []byte // as a JSON string between a comma and a colon
	kind valueKind
	key  bool
}

// quoted is the name as a JSON string.
func (c *column) quoted() []byte { return c.name[1 : len(c.name)-1] }

func (t *tables) of(r *pipeline.Relation) (*table, error) { return t.relations.Of(r, t.make) }

func (t *tables) make(r *pipeline.Relation) (*table, error) {
	made, err := newTable(r)
	if err == nil {
		made.place = t.placeOf(r, made.head)
	}
	return made, err
}

var errName = errors.New("the name is not valid UTF-8 and has no form in JSON. Try: ALTER TABLE … RENAME, or cdcctl create-subscription … --format internal")

func newTable(r *pipeline.Relation) (*table, error) {
	if !utf8.ValidString(r.Namespace) || !utf8.ValidString(r.Name) {
		return nil, fmt.Errorf("table %q: %w", r, errName)
	}
	t := &table{columns: make([]column, len(r.Columns))}
	t.head = append(t.head, `"schema":`...)
	t.head = appendText(t.head, []byte(r.Namespace))
	t.head = append(t.head, `,"table":`...)
	t.head = appendText(t.head, []byte(r.Name))
	for i, c := range r.Columns {
		if !utf8.ValidString(c.Name) {
			return nil, fmt.Errorf("table %s: column %q: %w", r, c.Name, errName)
		}
		t.columns[i] = column{name: append(appendText([]byte{','}, []byte(c.Name)), ':'), kind: kindOf(r, c.Type), key: c.Key && r.Identity != 'f'}
		if t.columns[i].key {
			t.keys++
		}
	}
	t.types = appendTypes(nil, r, t.columns)
	return t, nil
}

// row writes a change of a row.
func (w *writer) row(c *pipeline.Change) error {
	t, err := w.tables.of(c.Relation)
	if err != nil {
		return err
	}
	w.buf = append(w.buf, opText(c.Op)...)
	w.buf = append(w.buf, t.head...)
	w.old, w.new = c.Old.Values(w.old[:0]), c.New.Values(w.new[:0])
	for _, values := range [2][]pipeline.Value{w.old, w.new} {
		if i := findBinary(values); i >= 0 {
			return fmt.Errorf("table %s: column %q is in binary form, which JSON cannot show. Try: cdcctl create-subscription … --format internal", c.Relation, c.Relation.Columns[i].Name)
		}
	}
	if w.opts.FillUnchanged && c.OldKind == pipeline.OldFull {
		w.fill()
	}
	key := w.new
	if c.Old != nil {
		key = w.old
	}
	if t.keyComplete(key) {
		w.object(`,"key":{`, t, key, columnsOfKey)
	}
	if c.OldKind == pipeline.OldKey {
		w.object(`,"before":{`, t, w.old, columnsOfKey)
	} else if c.Old != nil {
		w.object(`,"before":{`, t, w.old, allColumns)
	}
	if c.New != nil {
		w.object(`,"after":{`, t, w.new, allColumns)
		w.unchanged(t)
	}
	if w.opts.Types {
		w.buf = append(w.buf, t.types...)
	}
	return nil
}

// fill takes values that the update did not touch from the old row.
func (w *writer) fill() {
	for i := range w.new {
		if w.new[i].Kind == pipeline.Unchanged && w.old[i].Kind == pipeline.Text {
			w.new[i] = w.old[i]
		}
	}
}

func findBinary(values []pipeline.Value) int {
	for i := range values {
		if values[i].Kind == pipeline.Binary {
			return i
		}
	}
	return -1
}

// keyComplete: every column of the identity has a value. Else there is no key, as a part of one would name
// other rows.
func (t *table) keyComplete(values []pipeline.Value) bool {
	if t.keys == 0 {
		return false
	}
	for i := range values {
		if t.columns[i].key && values[i].Kind != pipeline.Text {
			return false
		}
	}
	return true
}

// Which columns object writes. Of a key tuple the other columns are Null and mean "not sent".
const (
	allColumns   = false
	columnsOfKey = true
)

func (w *writer) object(open string, t *table, values []pipeline.Value, onlyKey bool) {
	buf, first := append(w.buf, open...), 1
	for i := range values {
		v, col := &values[i], &t.columns[i]
		if v.Kind == pipeline.Unchanged || onlyKey && (!col.key || v.Kind == pipeline.Null) {
			continue
		}
		buf = append(buf, col.name[first:]...)
		first = 0
		if v.Kind == pipeline.Null {
			buf = append(buf, `null`...)
		} else {
			buf = appendValue(buf, col.kind, v.Data)
		}
	}
	w.buf = append(buf, '}')
}

// unchanged names the columns of the new row that hold an unchanged TOAST value.
func (w *writer) unchanged(t *table) {
	n := 0
	for i := range w.new {
		if w.new[i].Kind != pipeline.Unchanged {
			continue
		}
		if n == 0 {
			w.buf = append(w.buf, `,"unchanged":[`...)
		}
		w.comma(n)
		n++
		w.buf = append(w.buf, t.columns[i].quoted()...)
	}
	if n > 0 {
		w.buf = append(w.buf, ']')
	}
}
