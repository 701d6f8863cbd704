package shape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"shardcdc/pipeline"
)

// plan is a rule, bound to one version of a table.
type plan struct {
	rule    *Table
	from    *pipeline.Relation
	exclude bool
	filter  *filter // nil: every row stays
	to      *pipeline.Relation
	columns []source // of to
}

// source is where a column of the stream comes from.
type source struct {
	from int // in the columns of the source
	mask Mask
	kind string // of the mask; empty: none
}

// bind applies a rule to a version of a table. Every fault is in the error.
func (t *Table) bind(r *pipeline.Relation) (*plan, error) {
	p := &plan{rule: t, from: r, exclude: t.Exclude}
	if t.Exclude {
		return p, nil
	}
	b := binder{plan: p, at: map[string]int{}}
	for i, c := range r.Columns {
		b.at[c.Name] = i
	}
	b.names()
	b.key()
	b.rows()
	b.relation()
	if len(b.errs) > 0 {
		for i, err := range b.errs {
			b.errs[i] = t.fault(fmt.Errorf("table %s: %w", r, err))
		}
		return nil, errors.Join(b.errs...)
	}
	return p, nil
}

// binder is a bind at work.
type binder struct {
	*plan
	at   map[string]int // columns of the source by their names
	keys []bool         // per column of the source: it identifies rows
	errs []error
}

func (b *binder) fail(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

// names: a rule for one table speaks of columns that are there. One for many speaks of those that each of them has, but for columns
// that stay and keys, without which a table would be another one.
func (b *binder) names() {
	t := b.rule
	check := func(key string, names []string, always bool) {
		for _, n := range names {
			if _, ok := b.at[n]; !ok && (always || !t.match.Wild()) {
				b.fail("%s: there is no column %q", key, n)
			}
		}
	}
	check("columns", t.Columns, true)
	check("exclude_columns", t.ExcludeColumns, false)
	check("rename_columns", slices.Sorted(maps.Keys(t.RenameColumns)), false)
	check("mask", slices.Sorted(maps.Keys(t.Mask)), false)
	check("key", t.Key, true)
	for _, list := range [][]string{slices.Sorted(maps.Keys(t.RenameColumns)), slices.Sorted(maps.Keys(t.Mask)), t.Key} {
		for _, n := range list {
			if _, there := b.at[n]; there && !t.stays(n) {
				b.fail("column %q is left out, and another key of the rule speaks of it", n)
			}
		}
	}
}

// stays says whether a column is in the stream.
func (t *Table) stays(column string) bool {
	if len(t.Columns) > 0 {
		return slices.Contains(t.Columns, column)
	}
	return !slices.Contains(t.ExcludeColumns, column)
}

// full is REPLICA IDENTITY FULL.
func (p *plan) full() bool { return p.from.Identity == 'f' }

// key decides which columns identify a row, and that nothing is lost of them.
func (b *binder) key() {
	b.keys = make([]bool, len(b.from.Columns))
	for i, c := range b.from.Columns {
		identity := c.Key && !b.full()
		b.keys[i] = identity
		if identity && !b.rule.stays(c.Name) {
			b.fail("column %q is part of the replica identity, and without it nobody finds the row of an update or delete. Try: keep it, or hash it", c.Name)
		}
	}
	if len(b.rule.Key) > 0 {
		for i, c := range b.from.Columns {
			chosen := slices.Contains(b.rule.Key, c.Name)
			if chosen && !b.full() && !b.keys[i] {
				b.fail("key: column %q is not part of the replica identity, so deletes do not say it. Try: ALTER TABLE %s REPLICA IDENTITY FULL, on every shard", c.Name, b.from)
			}
			b.keys[i] = chosen
		}
	}
	for i, c := range b.from.Columns {
		m, masked := b.rule.Mask[c.Name]
		identity := b.keys[i] || c.Key && !b.full()
		if masked && identity && m.Hash == "" {
			b.fail("mask of column %s: it identifies rows, and %s would make many the same. Try: hash", c.Name, m)
		}
	}
}

// rows binds the filter. An update moves a row in or out by what it was before, so that has to be sent.
func (b *binder) rows() {
	if b.rule.Rows == "" {
		return
	}
	e, err := parseExpression(b.rule.Rows, b.rule.rows)
	if err == nil {
		b.filter, err = e.bind(columnsOf(b.from))
	}
	if err != nil {
		b.errs = append(b.errs, unjoin(err)...)
		return
	}
	if b.full() || !slices.ContainsFunc(b.from.Columns, func(c pipeline.Column) bool { return c.Key }) {
		return // without an identity there are inserts only
	}
	for i, c := range b.from.Columns {
		if b.filter.used[i] && !c.Key {
			b.fail("rows: column %q is not part of the replica identity, so updates and deletes do not say what it was before. Try: ALTER TABLE %s REPLICA IDENTITY FULL, on every shard", c.Name, b.from)
		}
	}
}

// relation makes the table's description in the stream.
func (b *binder) relation() {
	r := &pipeline.Relation{ID: b.from.ID, Identity: b.from.Identity}
	var err error
	if r.Namespace, r.Name, err = b.rule.renamed(b.from.Namespace, b.from.Name); err != nil {
		b.errs = append(b.errs, err)
		return
	}
	if len(b.rule.Key) > 0 {
		r.Identity = 'i'
	}
	for i, c := range b.from.Columns {
		if !b.rule.stays(c.Name) {
			continue
		}
		s := source{from: i}
		if m, masked := b.rule.Mask[c.Name]; masked {
			s.mask, s.kind = m, m.String()
			if err := m.fits(b.from, &c); err != nil {
				b.fail("mask of column %s: %w", c.Name, err)
			}
		}
		if s.kind == "hash" {
			c.Type, c.Modifier = textOID, -1
		}
		if to, renamed := b.rule.RenameColumns[c.Name]; renamed {
			c.Name = to
		}
		c.Key = b.keys[i] || b.full() && len(b.rule.Key) == 0
		b.columns, r.Columns = append(b.columns, s), append(r.Columns, c)
		if ty, ok := b.from.TypeName(c.Type); ok {
			if _, have := r.TypeName(c.Type); !have {
				r.Types = append(r.Types, ty)
			}
		}
	}
	b.unambiguous(r)
	r.Raw = encodeRelation(r)
	b.to = r
}

func (b *binder) unambiguous(r *pipeline.Relation) {
	names := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		names[i] = c.Name
	}
	if name, twice := repeated(names); twice {
		b.fail("two columns would be called %q", name)
	}
	if len(names) == 0 {
		b.fail("no column stays. Try: exclude: true")
	}
}

// encodeRelation is the Relation message that describes r.
func encodeRelation(r *pipeline.Relation) []byte {
	namespace := r.Namespace
	if namespace == "pg_catalog" {
		namespace = ""
	}
	b := binary.BigEndian.AppendUint32([]byte{'R'}, r.ID)
	b = append(append(append(append(b, namespace...), 0), r.Name...), 0, r.Identity)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Columns)))
	for _, c := range r.Columns {
		flags := byte(0)
		if c.Key {
			flags = 1
		}
		b = append(append(append(b, flags), c.Name...), 0)
		b = binary.BigEndian.AppendUint32(b, c.Type)
		b = binary.BigEndian.AppendUint32(b, uint32(c.Modifier))
	}
	return b
}
