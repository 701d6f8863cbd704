package shape

import (
	"bytes"
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pgtype"
)

// filter decides about rows.
type filter struct {
	eval func(row) (value, error)
	used map[int]bool // columns
}

// passes says whether the row is in the stream: the expression is true, neither false nor NULL.
func (f *filter) passes(r row) (bool, error) {
	v, err := f.eval(r)
	return v.truth && !v.null, err
}

// row is a row of the source.
type row struct {
	relation *pipeline.Relation
	values   []pipeline.Value
}

// value is a value in an expression; which field it is in depends on its kind.
type value struct {
	null   bool
	truth  bool
	number number
	text   []byte
	moment moment
}

// value reads a column.
func (r row) value(i int, k kind) (v value, err error) {
	c := r.values[i]
	switch c.Kind {
	case pipeline.Null:
		return value{null: true}, nil
	case pipeline.Unchanged:
		return v, fmt.Errorf("column %s is not known: it is a large value that the change did not touch, and the old row is not sent. Try: ALTER TABLE %s REPLICA IDENTITY FULL, on every shard", r.relation.Columns[i].Name, r.relation)
	case pipeline.Binary:
		return v, fmt.Errorf("column %s is in binary form, which filters cannot read", r.relation.Columns[i].Name)
	}
	switch k {
	case boolean:
		v.truth = len(c.Data) == 1 && c.Data[0] == 't'
	case numeric:
		v.number, err = parseNumber(string(c.Data))
	case momentary, zonedTime:
		v.moment, _, err = parseMoment(string(c.Data))
	default:
		v.text = c.Data
		if pgtype.Name(r.relation, r.relation.Columns[i].Type) == "bpchar" {
			v.text = bytes.TrimRight(c.Data, " ") // char(n) is compared without the blanks that fill it
		}
	}
	if err != nil {
		err = fmt.Errorf("column %s: %w", r.relation.Columns[i].Name, err)
	}
	return v, err
}

// kindOf is what a column of this type is to an expression.
func kindOf(r *pipeline.Relation, oid uint32) kind {
	switch pgtype.Name(r, oid) {
	case "bool":
		return boolean
	case "int2", "int4", "int8", "numeric", "float4", "float8", "oid":
		return numeric
	case "text", "varchar", "bpchar", "name":
		return text
	case "date", "timestamp":
		return momentary
	case "timestamptz":
		return zonedTime
	}
	return opaque
}

// columnsOf finds the columns of a relation.
func columnsOf(r *pipeline.Relation) columnOf {
	return func(name string) (int, kind, bool) {
		for i, c := range r.Columns {
			if c.Name == name {
				return i, kindOf(r, c.Type), true
			}
		}
		return 0, broken, false
	}
}
