package fold

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"shardcdc/pipeline"
)

// ErrAgain is wrapped by Fold's error when the chunk cannot be brought to its place: it has to be read anew.
var ErrAgain = errors.New("the chunk has to be read again")

// Table is a table that is copied. Names are those under which the shard publishes it.
type Table struct {
	Schema, Name string
	// Key are the columns whose values name a row; they are all part of the table's replica identity (or this is FULL), and
	// never NULL. Nil: a table without a key.
	Key []string
}

func (t Table) String() string { return t.Schema + "." + t.Name }

// Chunk is some rows of a table as one snapshot saw them; of a table without a key all that the shard holds.
type Chunk struct {
	ID    string
	Table Table
	// Relation of the rows, as pgoutput would describe the table.
	Relation *pipeline.Relation
	// Body has the form of a Fragment's: messages of kind pipeline.Read, each behind its length. A table without a key that is
	// too large for memory has its rows in Content instead.
	Body     []byte
	Content  pipeline.Content
	Rows     int
	Snapshot Snapshot
}

// Moved is the rows of a table that got another key in one fragment.
type Moved struct {
	Table Table
	// Keys, two for each such row: the key before, the key after. In the order of the columns of Table.Key, as text.
	Keys [][]string
	// All: there were too many to list, or they cannot be told. Every row of the table has to be copied once more, in
	// snapshots that see this transaction.
	All bool
}

func (c *Chunk) again(why string) error {
	return fmt.Errorf("chunk %s of %s: %w: %s", c.ID, c.Table, ErrAgain, why)
}

// Fold ends a chunk: it appends the rows, as they are at this place of the order, to a fragment, which holds its first
// message already, and sets the fragment's Relations, Changes and Ops. Rows of a Content are not copied: the fragment's
// Content reads them from the chunk's, which it owns from then on.
//
// An error that is ErrAgain means that the chunk has to be read anew. After any error the fragment is as it was, and the
// chunk's Content still the caller's.
func (t *Tracker) Fold(c *Chunk, into *pipeline.Fragment) error {
	under := t.chunks[c.ID]
	defer t.Drop(c.ID)
	switch {
	case under == nil:
		return fmt.Errorf("chunk %s of %s was never begun, or has ended", c.ID, c.Table)
	case under.again != "":
		return c.again(under.again)
	case under.table.Table.String() != c.Table.String() || !slices.Equal(under.table.Key, c.Table.Key):
		return fmt.Errorf("chunk %s of %s (key %q) was begun as one of %s (key %q)",
			c.ID, c.Table, c.Table.Key, under.table.Table, under.table.Key)
	case !under.taken || !under.own.equal(c.Snapshot):
		return fmt.Errorf("chunk %s of %s was read in snapshot %s, not in the one that was announced, %s",
			c.ID, c.Table, c.Snapshot, under.own)
	}
	unseen := under.table.unseen(c.Snapshot)
	e := edit{c: c, rows: c.Rows}
	if err := e.accept(unseen); err != nil {
		return err
	}
	apply := e.keyed
	if c.Table.Key == nil {
		apply = e.keyless
	}
	if err := apply(unseen); err != nil {
		return err
	}
	return e.finish(into)
}

// unseen are the notes of transactions that a snapshot does not see, in order.
func (t *table) unseen(s Snapshot) (notes []note) {
	for _, e := range t.entries {
		if !s.Sees(e.xid) {
			notes = append(notes, e.notes...)
		}
	}
	return notes
}

// edit is what becomes of a chunk's body: it loses some messages and gets others at its end.
type edit struct {
	c    *Chunk
	rows int    // left
	cuts []span // in order, apart
	tail []byte // messages, each behind its length
	// emptied: all of the chunk's own rows are cut.
	emptied bool
	// columns of a note's relation, in the order of the chunk's.
	columns map[*pipeline.Relation][]int
}

// span is a part of a body.
type span struct{ from, to int64 }

// accept finds the chunk's columns in the relations of the notes: by name, since a column that was dropped and made again has
// another place.
func (e *edit) accept(notes []note) error {
	e.columns = make(map[*pipeline.Relation][]int)
	ours := e.c.Relation.Columns
	for i := range notes {
		r := notes[i].relation
		if r == nil || e.columns[r] != nil {
			continue
		}
		places := make([]int, len(ours))
		for n, col := range ours {
			places[n] = slices.IndexFunc(r.Columns, func(o pipeline.Column) bool { return o.Name == col.Name && o.Type == col.Type })
			if places[n] < 0 {
				return e.c.again(fmt.Sprintf("column %q is not there any more, or has another type", col.Name))
			}
		}
		if len(ours) != len(r.Columns) {
			return e.c.again("the table has got another column")
		}
		e.columns[r] = places
	}
	return nil
}

// values reads a tuple of a note in the order of the chunk's columns.
func (e *edit) values(n *note, t pipeline.Tuple) []pipeline.Value {
	theirs := t.Values(nil)
	ours := make([]pipeline.Value, len(theirs))
	for i, place := range e.columns[n.relation] {
		ours[i] = theirs[place]
	}
	return ours
}

// add appends a row.
func (e *edit) add(t pipeline.Tuple) {
	id := e.c.Relation.ID
	e.tail = appendLength(e.tail, readHeader+len(t))
	e.tail = append(e.tail, byte(pipeline.Read), byte(id>>24), byte(id>>16), byte(id>>8), byte(id), 'N')
	e.tail = append(e.tail, t...)
	e.rows++
}

func (e *edit) cut(s span) {
	e.cuts = append(e.cuts, s)
	e.rows--
}

// empty takes every row away.
func (e *edit) empty() {
	e.cuts, e.rows, e.emptied = []span{{0, e.c.size()}}, 0, true
}

// keyed folds a chunk of a table with a key: what is left of each row that the notes touch is cut out and written anew.
func (e *edit) keyed(notes []note) error {
	if len(notes) == 0 {
		return nil
	}
	if slices.ContainsFunc(notes, func(n note) bool { return n.op == pipeline.Truncate }) {
		e.empty() // no row of the chunk is left, and rows that came later are none of its concern
		return nil
	}
	rows, err := e.take(notes)
	if err != nil {
		return err
	}
	for i := range notes {
		if err := e.step(rows, &notes[i]); err != nil {
			return err
		}
	}
	var tuple pipeline.Tuple
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if row := rows[key]; row != nil {
			tuple = appendTuple(tuple[:0], row)
			e.add(tuple)
		}
	}
	return nil
}

// take cuts the rows out that the notes name. The result has every key of a note; a nil row is not in the chunk.
func (e *edit) take(notes []note) (map[string][]pipeline.Value, error) {
	rows := make(map[string][]pipeline.Value)
	for i := range notes {
		rows[notes[i].old], rows[notes[i].new] = nil, nil
	}
	l := layoutOf(e.c.Table, e.c.Relation)
	if l.key == nil {
		return nil, e.c.again(fmt.Sprintf("its rows do not have the key %q", e.c.Table.Key))
	}
	var scratch []byte
	var values []pipeline.Value
	return rows, e.c.scan(func(at span, t pipeline.Tuple) error {
		var ok bool
		values = t.Values(values[:0])
		if scratch, ok = l.keyOf(scratch[:0], values); !ok {
			return fmt.Errorf("chunk %s of %s: a row has no text for its key", e.c.ID, e.c.Table)
		}
		row, touched := rows[string(scratch)]
		if !touched {
			return nil
		}
		if row != nil {
			return fmt.Errorf("chunk %s of %s: two rows have the key %q", e.c.ID, e.c.Table, l.texts(values))
		}
		rows[string(scratch)] = pipeline.Tuple(bytes.Clone(t)).Values(nil)
		e.cut(at)
		return nil
	})
}

// step applies one note to the rows of the chunk.
func (e *edit) step(rows map[string][]pipeline.Value, n *note) error {
	row := rows[n.old]
	switch n.op {
	case pipeline.Insert:
		if row != nil {
			return e.c.again("a row was inserted where it has one")
		}
	case pipeline.Delete:
		rows[n.old] = nil
	case pipeline.Update:
		if row == nil {
			return nil
		}
		rows[n.old] = nil
		if rows[n.new] != nil {
			return e.c.again("a row moved to where it has one")
		}
		after := e.values(n, n.tuple)
		fill(after, row, true)
		rows[n.new] = after
	}
	return nil
}

// keyless folds the whole table: rows that were added, less rows that were taken away.
func (e *edit) keyless(notes []note) error {
	if i := lastTruncate(notes); i >= 0 {
		e.empty()
		notes = notes[i+1:]
	}
	more := make(map[string]int)
	var order []string
	count := func(n *note, t pipeline.Tuple, by int) {
		if t == nil {
			return
		}
		row := string(appendTuple(nil, e.values(n, t)))
		if _, known := more[row]; !known {
			order = append(order, row)
		}
		more[row] += by
	}
	less := false
	for i := range notes {
		count(&notes[i], notes[i].was, -1)
		count(&notes[i], notes[i].tuple, +1)
		less = less || notes[i].was != nil
	}
	if less && !e.emptied {
		if err := e.remove(more); err != nil {
			return err
		}
	}
	for _, row := range order {
		if more[row] < 0 {
			return e.c.again("a row was changed or deleted that it does not have")
		}
		for range more[row] {
			e.add(pipeline.Tuple(row))
		}
	}
	return nil
}

func lastTruncate(notes []note) int {
	for i := len(notes) - 1; i >= 0; i-- {
		if notes[i].op == pipeline.Truncate {
			return i
		}
	}
	return -1
}

// remove cuts out as many rows as there are to be less of each.
func (e *edit) remove(more map[string]int) error {
	return e.c.scan(func(at span, t pipeline.Tuple) error {
		if n := more[string(t)]; n < 0 {
			more[string(t)] = n + 1
			e.cut(at)
		}
		return nil
	})
}
