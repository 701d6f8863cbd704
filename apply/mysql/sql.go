package mysql

import (
	"bytes"
	"fmt"
	"slices"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

type row []pipeline.Value

// appendValue appends the literal of a column's value.
func (p *plan) appendValue(dst []byte, i int, v pipeline.Value) ([]byte, error) {
	c := &p.columns[i]
	switch v.Kind {
	case pipeline.Null:
		return append(dst, "NULL"...), nil
	case pipeline.Text:
		dst, err := c.kind.AppendLiteral(dst, v.Data)
		if err != nil {
			return dst, &apply.Blocked{
				Table: p.table.name.String(), Problem: "column " + c.quoted, Err: err,
				Try: fmt.Sprintf("ALTER TABLE %s MODIFY %s LONGTEXT, which takes PostgreSQL's text of any value (in a key VARCHAR(255)), or change the value on the source; it goes on by itself",
					p.table.name, c.quoted),
			}
		}
		return dst, nil
	}
	return dst, &apply.Fatal{Problem: fmt.Sprintf("table %s: column %s came without a value that can be written (kind %q)", p.table.name, c.quoted, v.Kind)}
}

// appendRow appends (…), the values of an INSERT.
func (p *plan) appendRow(dst []byte, now row) (_ []byte, err error) {
	dst = append(dst, '(')
	n := 0
	for i := range p.columns {
		if p.columns[i].generated {
			continue
		}
		if n++; n > 1 {
			dst = append(dst, ", "...)
		}
		if dst, err = p.appendValue(dst, i, now[i]); err != nil {
			return dst, err
		}
	}
	return append(dst, ')'), nil
}

// appendWhere appends WHERE …, which finds one row. key nil: the row as a whole, one of several that are equal.
func (p *plan) appendWhere(dst []byte, key []int, from row) (_ []byte, err error) {
	dst = append(dst, " WHERE "...)
	if key == nil {
		return p.appendWhole(dst, from)
	}
	return p.appendKey(dst, key, from)
}

// appendKey compares columns. Where a collation would take another row for this one it finds candidates, by the index, whose bytes are compared.
func (p *plan) appendKey(dst []byte, key []int, from row) (_ []byte, err error) {
	for n, i := range key {
		if n > 0 {
			dst = append(dst, " AND "...)
		}
		if from[i].Kind != pipeline.Text {
			return dst, &apply.Fatal{Problem: fmt.Sprintf("table %s: the key column %s came without a value", p.table.name, p.columns[i].quoted)}
		}
		c := &p.columns[i]
		dst = append(append(dst, c.quoted...), " = "...)
		if dst, err = p.appendValue(dst, i, from[i]); err != nil {
			return dst, err
		}
		if !c.inexact() {
			continue
		}
		dst = append(dst, " AND "...)
		if dst, err = p.appendBytes(dst, i, from[i]); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// appendWhole compares every column that was sent. Characters are compared as bytes: a collation would take another row for this one.
func (p *plan) appendWhole(dst []byte, from row) (_ []byte, err error) {
	n := 0
	for i := range p.columns {
		c := &p.columns[i]
		if c.generated || from[i].Kind == pipeline.Unchanged {
			continue
		}
		if n++; n > 1 {
			dst = append(dst, " AND "...)
		}
		if c.kind.IsText() && from[i].Kind == pipeline.Text {
			dst, err = p.appendBytes(dst, i, from[i])
		} else {
			dst, err = p.appendValue(append(append(dst, c.quoted...), " <=> "...), i, from[i])
		}
		if err != nil {
			return dst, err
		}
	}
	if n == 0 {
		dst = append(dst, "TRUE"...)
	}
	return append(dst, " LIMIT 1"...), nil
}

// appendBytes compares characters as bytes.
func (p *plan) appendBytes(dst []byte, i int, v pipeline.Value) (_ []byte, err error) {
	dst = append(append(append(dst, "CAST(CONVERT("...), p.columns[i].quoted...), " USING utf8mb4) AS BINARY) <=> CAST("...)
	if dst, err = p.appendValue(dst, i, v); err != nil {
		return dst, err
	}
	return append(dst, " AS BINARY)"...), nil
}

// appendUpdate appends an UPDATE. Columns of the key that stay as they are are not written; nor is what PostgreSQL did not send.
func (p *plan) appendUpdate(dst []byte, oldKind byte, old, now row) (_ []byte, err error) {
	key, err := p.locating(oldKind)
	if err != nil {
		return dst, err
	}
	from := old
	if oldKind == pipeline.OldNone {
		from = now
	}
	dst = append(append(dst, "UPDATE "...), p.table.name.String()...)
	n := 0
	for i := range p.columns {
		c := &p.columns[i]
		if c.generated || now[i].Kind == pipeline.Unchanged || slices.Contains(key, i) && same(from[i], now[i]) {
			continue
		}
		dst = append(append(append(dst, separator(n, " SET ", ", ")...), c.quoted...), " = "...)
		if dst, err = p.appendValue(dst, i, now[i]); err != nil {
			return dst, err
		}
		n++
	}
	if n == 0 { // whether the row is there counts all the same
		c := p.columns[max(0, slices.IndexFunc(p.columns, func(c planned) bool { return !c.generated }))]
		dst = append(dst, " SET "+c.quoted+" = "+c.quoted...)
	}
	return p.appendWhere(dst, key, from)
}

func same(a, b pipeline.Value) bool { return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data) }

func (p *plan) appendDelete(dst []byte, oldKind byte, old row) ([]byte, error) {
	key, err := p.locating(oldKind)
	if err != nil {
		return dst, err
	}
	return p.appendDeleteBy(dst, key, old)
}

func (p *plan) appendDeleteBy(dst []byte, key []int, from row) ([]byte, error) {
	return p.appendWhere(append(append(dst, "DELETE FROM "...), p.table.name.String()...), key, from)
}

func separator(n int, first, others string) string {
	if n == 0 {
		return first
	}
	return others
}
