package shape

import (
	"encoding/binary"
	"errors"
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

var errCutOff = errors.New("the body is cut off")

// rewriter is one pass over a fragment's body.
type rewriter struct {
	masker
	shape *Shape
	f     *pipeline.Fragment
	plans []*plan // one for each of f.Relations; nil: none of them has one

	next  int // in f.Relations
	at    int64
	rels  map[uint32]current
	c     pipeline.Change
	old   []pipeline.Value
	new   []pipeline.Value
	known []pipeline.Value

	out     []byte // what is not taken yet
	taken   int64  // of what was in out before
	changes int
	ops     pipeline.Ops
	uses    []pipeline.RelationUse
}

// current is the version of a table that changes refer to.
type current struct {
	relation *pipeline.Relation
	plan     *plan
	told     bool // in uses
}

func (w *rewriter) begin(s *Shape, f *pipeline.Fragment, plans []*plan) {
	if w.rels == nil {
		w.rels = map[uint32]current{}
	}
	clear(w.rels)
	w.shape, w.f, w.plans, w.next, w.at, w.taken, w.changes, w.ops, w.uses = s, f, plans, 0, 0, 0, 0, 0, nil
}

// fragment is what the pass made; nil: nothing was left.
func (w *rewriter) fragment(body []byte, c pipeline.Content) *pipeline.Fragment {
	f, uses := w.f, w.uses
	w.f, w.plans, w.uses = nil, nil, nil
	if w.changes == 0 {
		return nil
	}
	out := *f
	out.Body, out.Content, out.Changes, out.Ops, out.Relations = body, c, w.changes, w.ops, uses
	return &out
}

// through takes the whole messages at the beginning of b, and returns the rest.
func (w *rewriter) through(b []byte) ([]byte, error) {
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint32(b))
		if n > len(b)-4 {
			break
		}
		if err := w.message(b[4 : 4+n : 4+n]); err != nil {
			return nil, err
		}
		b = b[4+n:]
	}
	return b, nil
}

func (w *rewriter) message(msg []byte) error {
	uses := w.f.Relations
	for ; w.next < len(uses) && uses[w.next].Offset <= w.at; w.next++ {
		c := current{relation: uses[w.next].Relation}
		if w.plans != nil {
			c.plan = w.plans[w.next]
		}
		w.rels[c.relation.ID] = c
	}
	first := w.at == 0
	w.at += int64(4 + len(msg))
	if len(msg) < 5 {
		return errCutOff
	}
	switch op := pipeline.Op(msg[0]); op {
	case pipeline.Insert, pipeline.Update, pipeline.Delete, pipeline.Read:
		return w.row(msg)
	case pipeline.Truncate:
		return w.truncate(msg)
	case pipeline.Message:
		if first {
			return w.mark(msg)
		}
		w.pass(msg)
		return nil
	default:
		return fmt.Errorf("a change of kind %s is not known here", op)
	}
}

// use says, before the first change of a version of a table, which it is.
func (w *rewriter) use(id uint32) {
	c := w.rels[id]
	if c.told {
		return
	}
	r := c.relation
	if c.plan != nil {
		r = c.plan.to
	}
	w.uses = append(w.uses, pipeline.RelationUse{Offset: w.taken + int64(len(w.out)), Relation: r})
	c.told = true
	w.rels[id] = c
}

// pass takes a message as it is.
func (w *rewriter) pass(msg []byte) {
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(msg)))
	w.out = append(w.out, msg...)
	w.count(msg[0])
}

func (w *rewriter) count(op byte) {
	w.changes++
	w.ops |= pipeline.OpsOf(pipeline.Op(op))
}

func (w *rewriter) row(msg []byte) error {
	id := binary.BigEndian.Uint32(msg[1:])
	c, ok := w.rels[id]
	switch {
	case !ok:
		return fmt.Errorf("a change of relation %d, which was never described", id)
	case c.plan == nil:
		w.use(id)
		w.pass(msg)
		return nil
	case c.plan.exclude:
		return nil
	}
	if err := w.shaped(c.plan, msg); err != nil {
		return fmt.Errorf("table %s: %w", c.relation, err)
	}
	return nil
}

// shaped decides what becomes of a row of a table with a rule.
func (w *rewriter) shaped(p *plan, msg []byte) error {
	c := &w.c
	if err := pipeline.ParseChange(msg, c); err != nil {
		return err
	}
	for _, t := range []pipeline.Tuple{c.Old, c.New} {
		if t != nil && t.Columns() != len(p.from.Columns) {
			return fmt.Errorf("%s: %d values for %d columns", c.Op, t.Columns(), len(p.from.Columns))
		}
	}
	w.old, w.new = c.Old.Values(w.old[:0]), c.New.Values(w.new[:0])
	if err := w.oldIsKnown(p); err != nil {
		return err
	}
	op, err := w.decide(p)
	if err != nil || op == 0 {
		return err
	}
	w.use(c.RelationID)
	start := len(w.out)
	w.out = append(w.out, 0, 0, 0, 0, byte(op))
	w.out = binary.BigEndian.AppendUint32(w.out, c.RelationID)
	if c.Old != nil && op != pipeline.Insert {
		w.out = append(w.out, c.OldKind)
		err = w.tuple(p, w.old)
	}
	if c.New != nil && op != pipeline.Delete {
		w.out = append(w.out, 'N')
		err = errors.Join(err, w.tuple(p, w.new))
	}
	binary.BigEndian.PutUint32(w.out[start:], uint32(len(w.out)-start-4))
	w.count(byte(op))
	return err
}

// oldIsKnown: of an old row that is a key, NULL means that the value was not sent. A partition whose replica identity is not that of
// the table above it sends another key than the table's description says.
func (w *rewriter) oldIsKnown(p *plan) error {
	if p.filter == nil || w.c.OldKind != pipeline.OldKey {
		return nil
	}
	for i, column := range p.from.Columns {
		if w.old[i].Kind == pipeline.Null && p.filter.used[i] {
			return fmt.Errorf("%s: column %s of the old row, which rows looks at, was not sent: a partition has another replica identity than its table. Try: give every partition that of %s, and make the subscription anew", w.c.Op, column.Name, p.from)
		}
	}
	return nil
}

// decide says what a change of a row is in the stream; 0: nothing. An update that lets a row in is its insert, one that
// turns it out its delete.
func (w *rewriter) decide(p *plan) (pipeline.Op, error) {
	c := &w.c
	if p.filter == nil {
		return c.Op, nil
	}
	switch c.Op {
	case pipeline.Insert, pipeline.Read:
		in, err := p.filter.passes(row{p.from, w.new})
		return kept(c.Op, in), err
	case pipeline.Delete:
		in, err := p.filter.passes(row{p.from, w.old})
		return kept(c.Op, in), err
	}
	w.known = append(w.known[:0], w.new...)
	w.fill(p, w.known)
	is, err := p.filter.passes(row{p.from, w.known})
	if err != nil {
		return 0, err
	}
	was := is // no old row: the identity, and so what the filter looks at, is as it was
	if c.Old != nil {
		if was, err = p.filter.passes(row{p.from, w.old}); err != nil {
			return 0, err
		}
	} else if p.full() {
		return 0, errors.New("an update does not say what the row was before, although the replica identity is FULL")
	}
	switch {
	case was && is:
		return pipeline.Update, nil
	case was:
		return pipeline.Delete, nil
	case !is:
		return 0, nil
	}
	w.new, w.known = w.known, w.new
	for i, v := range w.new {
		if v.Kind == pipeline.Unchanged && p.rule.stays(p.from.Columns[i].Name) {
			return 0, fmt.Errorf("an update lets a row in without the value of column %s: it is a large value that the update did not touch, and the old row is not sent. Try: ALTER TABLE %s REPLICA IDENTITY FULL, on every shard", p.from.Columns[i].Name, p.from)
		}
	}
	return pipeline.Insert, nil
}

func kept(op pipeline.Op, in bool) pipeline.Op {
	if in {
		return op
	}
	return 0
}

// fill takes values that the update did not touch from the old row, where that has them.
func (w *rewriter) fill(p *plan, values []pipeline.Value) {
	if w.c.Old == nil {
		return
	}
	for i := range values {
		if values[i].Kind == pipeline.Unchanged && (w.c.OldKind == pipeline.OldFull || w.old[i].Kind != pipeline.Null) {
			values[i] = w.old[i]
		}
	}
}

// tuple appends the columns of a row that stay.
func (w *rewriter) tuple(p *plan, values []pipeline.Value) error {
	w.out = binary.BigEndian.AppendUint16(w.out, uint16(len(p.columns)))
	for i := range p.columns {
		s := &p.columns[i]
		v := values[s.from]
		switch {
		case v.Kind == pipeline.Null || v.Kind == pipeline.Unchanged:
			w.out = append(w.out, v.Kind)
			continue
		case s.kind == "nullify":
			w.out = append(w.out, pipeline.Null)
			continue
		case s.kind != "" && v.Kind == pipeline.Binary:
			return fmt.Errorf("column %s is in binary form, which masks cannot read", p.from.Columns[s.from].Name)
		case s.kind != "":
			v.Data = w.mask(s, v.Data)
		}
		w.out = append(w.out, v.Kind)
		w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(v.Data)))
		w.out = append(w.out, v.Data...)
	}
	return nil
}

// truncate leaves out the tables that are excluded.
func (w *rewriter) truncate(msg []byte) error {
	if err := pipeline.ParseChange(msg, &w.c); err != nil {
		return err
	}
	var ids []uint32
	for _, id := range w.c.TruncateIDs {
		c, ok := w.rels[id]
		if !ok {
			return fmt.Errorf("truncate of relation %d, which was never described", id)
		}
		if c.plan == nil || !c.plan.exclude {
			w.use(id)
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(1+4+1+4*len(ids)))
	w.out = append(w.out, byte(pipeline.Truncate))
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(ids)))
	w.out = append(w.out, w.c.TruncateFlags)
	for _, id := range ids {
		w.out = binary.BigEndian.AppendUint32(w.out, id)
	}
	w.count(byte(pipeline.Truncate))
	return nil
}

// mark gives the tables of a copy's mark the names that they have in the stream. It is the first message of its fragment.
func (w *rewriter) mark(msg []byte) error {
	if err := pipeline.ParseChange(msg, &w.c); err != nil {
		return err
	}
	m, is, err := mark.CopyOf(&w.c)
	if err != nil || !is {
		w.pass(msg) // what cannot be read is no mark of ours
		return nil
	}
	changed, excluded := w.shape.rename(&m)
	switch {
	case excluded && m.Kind == mark.Rows:
		return nil
	case !changed:
		w.pass(msg)
		return nil
	}
	w.pass(mark.Message(mark.CopyPrefix, m.Content(), w.c.LSN))
	return nil
}

// rename changes the names in a mark; excluded says that no table is left.
func (s *Shape) rename(m *mark.Copy) (changed, excluded bool) {
	tables := make([]mark.Table, 0, len(m.Tables))
	for _, t := range m.Tables {
		rule := s.Rule(t.Schema, t.Name)
		if rule == nil {
			tables = append(tables, t)
			continue
		}
		changed = true
		if rule.Exclude {
			continue
		}
		t.Schema, t.Name = s.Name(t.Schema, t.Name)
		tables = append(tables, t)
	}
	excluded = changed && len(tables) == 0
	m.Tables = tables
	return changed, excluded
}

// Name is the name of a table of the source in the stream.
func (s *Shape) Name(schema, table string) (toSchema, toTable string) {
	if t := s.Rule(schema, table); t != nil {
		if s, n, err := t.renamed(schema, table); err == nil { // Validate has seen it
			return s, n
		}
	}
	return schema, table
}
