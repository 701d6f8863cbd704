package sql

import (
	"bytes"
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
)

// row writes an insert, update, delete, or a row that was copied; or of a row that makes room, the delete.
func (e *Encoder) row(c *pipeline.Change) error {
	t, err := e.tables.of(c.Relation)
	if err != nil {
		return err
	}
	e.old, e.new = c.Old.Values(e.old[:0]), c.New.Values(e.new[:0])
	for _, values := range [2][]pipeline.Value{e.old, e.new} {
		for i := range values {
			if values[i].Kind == pipeline.Binary {
				return fmt.Errorf("table %s: column %q is in binary form, which SQL cannot show. Try: cdcctl create-subscription … --format internal", c.Relation, c.Relation.Columns[i].Name)
			}
		}
	}
	if t.path != "" && t.path != e.path && c.Op != pipeline.Insert && (t.full || c.Op != pipeline.Read) {
		e.buf, e.path = append(e.buf, t.path...), t.path
	}
	s := statement{e: e, t: t, kind: c.OldKind, start: len(e.buf)}
	if e.pass == moves.First {
		s.delete()
		return nil
	}
	switch c.Op {
	case pipeline.Insert:
		s.insert(e.conf.Options.Idempotent && t.key != nil)
	case pipeline.Read:
		s.read(e.plan.keyedRows)
	case pipeline.Update:
		s.update()
	case pipeline.Delete:
		s.delete()
	}
	return nil
}

// statement is about one row. What it finds wrong is put in front of it.
type statement struct {
	e     *Encoder
	t     *table
	kind  byte // of the old row
	start int  // in the buffer
	wrong bool
}

// fails puts a statement that raises an error in front of this one, once.
func (s *statement) fails(format string, args ...any) {
	if s.wrong {
		return
	}
	s.wrong = true
	e := s.e
	behind := bytes.Clone(e.buf[s.start:])
	e.buf = append(e.raise(e.buf[:s.start], fmt.Sprintf(format, args...)), behind...)
}

// raise writes why the statements must not be run as they are.
func (e *Encoder) raise(dst []byte, why string) []byte {
	dst = append(appendQuoted(append(dst, "-- STOP: "...), why), '\n')
	return e.dialect.raise(dst, why)
}

// value writes a value of column i.
func (s *statement) value(i int, v *pipeline.Value) {
	e := s.e
	if v.Kind == pipeline.Null {
		e.buf = append(e.buf, "NULL"...)
		return
	}
	var err error
	e.buf, err = e.dialect.value(e.buf, &s.t.columns[i], v.Data)
	s.unfit(i, err)
}

func (s *statement) unfit(i int, err error) {
	if err != nil {
		s.fails("table %s, column %q: %v. Remove the line that fails here if the column is one of text", s.t.relation, s.t.relation.Columns[i].Name, err)
	}
}

func (s *statement) end(behind string) {
	s.e.buf = append(append(s.e.buf, behind...), ";\n"...)
}

// insert: where the row may be there, it takes the values.
func (s *statement) insert(mayBe bool) {
	if mayBe {
		s.values(s.t.upsert)
		return
	}
	s.values("")
}

// read is an insert of a row as it is at this CSN, of a table that has a key or not. One that is there with its key is older, which only
// the key tells, or the same.
func (s *statement) read(keyed bool) {
	if s.t.upsert == "" && keyed {
		s.absent()
		return
	}
	s.insert(keyed)
}

func (s *statement) values(behind string) {
	e := s.e
	e.buf = append(e.buf, s.t.insert...)
	if len(e.new) > 0 {
		e.buf = append(e.buf, "VALUES ("...)
		s.row()
		e.buf = append(e.buf, ')')
	}
	s.end(behind)
}

// absent is an insert unless the row is there.
func (s *statement) absent() {
	e := s.e
	e.buf = append(append(e.buf, s.t.insert...), "SELECT "...)
	s.row()
	e.buf = append(append(e.buf, " WHERE NOT EXISTS (SELECT 1 FROM "...), s.t.name...)
	s.whole(e.new)
	s.end(")")
}

// row writes the new row's values.
func (s *statement) row() {
	e := s.e
	for i := range e.new {
		if i > 0 {
			e.buf = append(e.buf, ", "...)
		}
		if e.new[i].Kind == pipeline.Unchanged {
			e.buf = append(e.buf, "DEFAULT"...)
			s.fails("table %s: a new row came without the value of column %q", s.t.relation, s.t.relation.Columns[i].Name)
			continue
		}
		s.value(i, &e.new[i])
	}
}

// update sets what the source sent, but for what is known to be the same.
func (s *statement) update() {
	if s.e.conf.Options.Idempotent && s.t.key != nil && s.again() {
		return
	}
	s.set()
}

// again writes an update so that it may be run again. Without a change of the key it may be as it is; one whose row is known whole brings
// back a row that is missing. It reports whether there is nothing left to do.
func (s *statement) again() bool {
	e, whole := s.e, true
	for i := range e.new {
		whole = whole && e.new[i].Kind != pipeline.Unchanged
	}
	moves := s.kind == pipeline.OldKey && s.moves()
	switch {
	case whole && moves:
		s.delete()
		s.values(s.t.upsert)
		return true
	case whole:
		s.values(s.t.upsert)
		return true
	case moves:
		s.makeWay()
	}
	return false
}

// moves says whether the key is another one.
func (s *statement) moves() bool {
	for _, i := range s.t.key {
		if s.sets(i) {
			return true
		}
	}
	return false
}

// makeWay deletes the row that an earlier run left under the new key, if the one of the old key is there again.
func (s *statement) makeWay() {
	e := s.e
	e.buf = append(append(e.buf, "DELETE FROM "...), s.t.name...)
	for n, i := range s.t.key {
		v := &e.new[i]
		if v.Kind == pipeline.Unchanged {
			v = &e.old[i]
		}
		s.equalKey(n, i, v)
	}
	e.buf = append(append(e.buf, " AND EXISTS (SELECT 1 FROM (SELECT 1 FROM "...), s.t.name...)
	s.where(nil)
	e.buf = append(e.buf, " LIMIT 1) AS x)"...) // LIMIT: else MySQL merges it, and refuses to read the table that it deletes from
	s.end("")
}

// sets says whether column i may have another value than before.
func (s *statement) sets(i int) bool {
	v := &s.e.new[i]
	if v.Kind == pipeline.Unchanged {
		return false
	}
	if s.kind == pipeline.OldFull || s.kind == pipeline.OldKey && s.t.columns[i].key {
		old := &s.e.old[i]
		return old.Kind != v.Kind || !bytes.Equal(old.Data, v.Data)
	}
	return !s.t.columns[i].key // an old key that was not sent is the same
}

func (s *statement) set() {
	e, n := s.e, 0
	for i := range e.new {
		if !s.sets(i) {
			continue
		}
		if n == 0 {
			e.buf = append(append(append(e.buf, "UPDATE "...), s.t.name...), " SET "...)
		} else {
			e.buf = append(e.buf, ", "...)
		}
		n++
		e.buf = append(append(e.buf, s.t.columns[i].name...), " = "...)
		s.value(i, &e.new[i])
	}
	if n == 0 {
		e.buf = append(appendQuoted(append(e.buf, "-- an update of "...), s.t.relation.String()), " that changed nothing\n"...)
		return
	}
	s.find()
	s.end("")
}

func (s *statement) delete() {
	e := s.e
	e.buf = append(append(e.buf, "DELETE FROM "...), s.t.name...)
	s.find()
	s.end("")
}

// find is the WHERE for the row as it was.
func (s *statement) find() {
	e := s.e
	if s.kind != pipeline.OldFull {
		from := e.old
		if s.kind == pipeline.OldNone {
			from = e.new
		}
		s.where(from)
		return
	}
	e.buf = append(e.buf, s.t.before...)
	s.whole(e.old)
	e.buf = append(e.buf, s.t.behind...)
}

// whole is a WHERE that compares all columns.
func (s *statement) whole(values []pipeline.Value) {
	e := s.e
	for i := range values {
		e.buf = append(e.buf, between(i)...)
		var err error
		e.buf, err = e.dialect.equal(e.buf, &s.t.columns[i], &values[i])
		s.unfit(i, err)
	}
}

func between(n int) string {
	if n == 0 {
		return " WHERE "
	}
	return " AND "
}

// where finds a row by its key. from nil: the old row's.
func (s *statement) where(from []pipeline.Value) {
	e := s.e
	if from == nil {
		from = e.old
	}
	if s.t.key == nil {
		e.buf = append(e.buf, " WHERE false"...)
		s.fails("table %s: the source sends no key to find a row by. On every shard: ALTER TABLE … REPLICA IDENTITY FULL", s.t.relation)
	}
	for n, i := range s.t.key {
		s.equalKey(n, i, &from[i])
	}
}

func (s *statement) equalKey(n, i int, v *pipeline.Value) {
	e := s.e
	e.buf = append(append(append(e.buf, between(n)...), s.t.columns[i].name...), " = "...)
	if v.Kind != pipeline.Text {
		e.buf = append(e.buf, "NULL"...)
		s.fails("table %s: the key column %q came without a value", s.t.relation, s.t.relation.Columns[i].Name)
		return
	}
	s.value(i, v)
	e.buf = append(e.buf, s.t.columns[i].cast...)
}
