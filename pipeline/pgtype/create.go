package pgtype

import (
	"fmt"
	"strconv"
	"strings"

	"shardcdc/pipeline"
)

// AppendCreateSchema appends CREATE SCHEMA IF NOT EXISTS for the relation's schema, without a semicolon. PostgreSQL asks for the right
// to create one even where the schema is there.
func AppendCreateSchema(dst []byte, r *pipeline.Relation) []byte {
	return appendQuoted(append(dst, "CREATE SCHEMA IF NOT EXISTS "...), r.Namespace)
}

// AppendCreateTable appends CREATE TABLE IF NOT EXISTS for PostgreSQL, without a semicolon: the columns that are sent with their
// types, and the replica identity's columns as the primary key, where it is the primary key or an index. It is what the stream
// knows: no defaults, no further constraints and indexes, no collations. A domain becomes its base type; a type of the user's
// (enum, composite, of an extension) has to be there under its name, and loses its modifier, whose meaning only its own database
// knows. dst is returned as it was with an error, which names the column.
func AppendCreateTable(dst []byte, r *pipeline.Relation) ([]byte, error) {
	out := append(dst, "CREATE TABLE IF NOT EXISTS "...)
	out = append(appendQuoted(out, r.Namespace), '.')
	out = append(appendQuoted(out, r.Name), " ("...)
	for i := range r.Columns {
		c := &r.Columns[i]
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(appendQuoted(out, c.Name), ' ')
		var err error
		if out, err = AppendType(out, r, c); err != nil {
			return dst, fmt.Errorf("table %s: %w", r, err)
		}
	}
	out = appendPrimaryKey(out, r)
	return append(out, ')'), nil
}

func appendPrimaryKey(dst []byte, r *pipeline.Relation) []byte {
	if r.Identity != 'd' && r.Identity != 'i' {
		return dst // of REPLICA IDENTITY FULL every column is marked, whatever the key is
	}
	between := ", PRIMARY KEY ("
	for i := range r.Columns {
		if r.Columns[i].Key {
			dst = appendQuoted(append(dst, between...), r.Columns[i].Name)
			between = ", "
		}
	}
	if between == ", " {
		dst = append(dst, ')')
	}
	return dst
}

// AppendType appends a column's type as a column definition has it.
func AppendType(dst []byte, r *pipeline.Relation, c *pipeline.Column) ([]byte, error) {
	if t, ok := r.TypeName(c.Type); ok {
		dst = append(appendQuoted(dst, t.Namespace), '.')
		return appendQuoted(dst, t.Name), nil
	}
	array := elementOf[c.Type]
	element := c.Type
	if array != 0 {
		element = array
	}
	name, ok := builtIn[element]
	if !ok {
		return dst, fmt.Errorf("column %q: its type has OID %d, which is not known here", c.Name, c.Type)
	}
	dst = appendBuiltIn(dst, name, c.Modifier)
	if array != 0 {
		dst = append(dst, "[]"...)
	}
	return dst, nil
}

// varHeader is what PostgreSQL adds to a length in the modifiers of numeric, char and varchar.
const varHeader = 4

// appendBuiltIn writes a built-in type with its modifier, which is -1 when there is none.
func appendBuiltIn(dst []byte, name string, modifier int32) []byte {
	switch name {
	case "char", "bit", "bpchar": // without quotes, and without a length, the first two mean another type, of length 1
		if modifier < 0 || name == "char" {
			return appendQuoted(dst, name)
		}
	case "interval":
		return appendInterval(dst, modifier)
	}
	dst = append(dst, name...)
	if modifier < 0 {
		return dst
	}
	switch name {
	case "varchar", "bpchar":
		return appendModifier(dst, int(modifier-varHeader))
	case "bit", "varbit", "time", "timetz", "timestamp", "timestamptz":
		return appendModifier(dst, int(modifier))
	case "numeric":
		precision, scale := NumericModifier(modifier)
		return appendModifier(dst, precision, scale)
	}
	return dst
}

// NumericModifier is what the modifier of a numeric column says; it is not negative. The scale may be, and may exceed the precision.
func NumericModifier(modifier int32) (precision, scale int) {
	m := modifier - varHeader
	return int(m >> 16 & 0xffff), int((m&0x7ff ^ 0x400) - 0x400) // the scale is a signed number of 11 bits
}

func appendModifier(dst []byte, numbers ...int) []byte {
	between := byte('(')
	for _, n := range numbers {
		dst = strconv.AppendInt(append(dst, between), int64(n), 10)
		between = ','
	}
	return append(dst, ')')
}

// Bits of an interval's modifier (INTERVAL_MASK in PostgreSQL's datetime.h), and the value of a precision that was not given.
const (
	intervalMonth, intervalYear, intervalDay           = 1 << 1, 1 << 2, 1 << 3
	intervalHour, intervalMinute, intervalSecond       = 1 << 10, 1 << 11, 1 << 12
	intervalFullRange, intervalFullPrecision     int32 = 0x7fff, 0xffff
)

// intervalFields are the restrictions that there are.
var intervalFields = map[int32]string{
	intervalYear:                  " year",
	intervalMonth:                 " month",
	intervalDay:                   " day",
	intervalHour:                  " hour",
	intervalMinute:                " minute",
	intervalSecond:                " second",
	intervalYear | intervalMonth:  " year to month",
	intervalDay | intervalHour:    " day to hour",
	intervalHour | intervalMinute: " hour to minute",
	intervalDay | intervalHour | intervalMinute:                  " day to minute",
	intervalMinute | intervalSecond:                              " minute to second",
	intervalHour | intervalMinute | intervalSecond:               " hour to second",
	intervalDay | intervalHour | intervalMinute | intervalSecond: " day to second",
	intervalFullRange: "",
}

func appendInterval(dst []byte, modifier int32) []byte {
	dst = append(dst, "interval"...)
	if modifier < 0 {
		return dst
	}
	dst = append(dst, intervalFields[modifier>>16&intervalFullRange]...)
	if precision := modifier & intervalFullPrecision; precision != intervalFullPrecision {
		dst = appendModifier(dst, int(precision))
	}
	return dst
}

// appendQuoted makes an identifier of any name.
func appendQuoted(dst []byte, name string) []byte {
	dst = append(dst, '"')
	dst = append(dst, strings.ReplaceAll(name, `"`, `""`)...)
	return append(dst, '"')
}
