package debezium

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/pgtype"
)

// placeholder is Debezium's unavailable.value.placeholder: the value of a TOAST column that an update did not touch.
const placeholder = "__debezium_unavailable_value"

// form is how the values of a type are written.
type form struct {
	node   node
	append func(dst, text []byte) ([]byte, error) // errNoForm: the type cannot say this value
	// strict: a value that has no form is an error, because a text in its place might be taken for a value.
	strict error
	// absent stands for an unchanged TOAST value; absentItem for one of an array, as its only element.
	absent, absentItem string
}

var errNoForm = errors.New("the value has no form")

// write appends a value.
func (f *form) write(dst, text []byte) ([]byte, error) {
	mark := len(dst)
	out, err := f.append(dst, text)
	if err == nil || !errors.Is(err, errNoForm) {
		return out, err
	}
	if f.strict != nil {
		return dst[:mark], f.strict
	}
	return appendString(out[:mark], text)
}

// asText writes PostgreSQL's text form as a string.
func asText(dst, text []byte) ([]byte, error) { return appendString(dst, text) }

func textForm(n node, write func(dst, text []byte) ([]byte, error)) form {
	return form{node: n, append: write, absent: `"` + placeholder + `"`, absentItem: `"` + placeholder + `"`}
}

// integerForm: an array of integers that was not sent has the placeholder's bytes as its elements.
func integerForm(n node, write func(dst, text []byte) ([]byte, error)) form {
	f := textForm(n, write)
	var bytes strings.Builder
	for i, c := range []byte(placeholder) {
		if i > 0 {
			bytes.WriteByte(',')
		}
		bytes.WriteString(strconv.Itoa(int(c)))
	}
	f.absentItem = bytes.String()
	return f
}

// formOf finds the form of a column. A type that Debezium does not know has its text form.
func formOf(opts *format.DebeziumOptions, r *pipeline.Relation, c *pipeline.Column) form {
	name := typeName(r, c.Type)
	if item, ok := strings.CutSuffix(name, "[]"); ok {
		delimiter := byte(',')
		if item == "box" {
			delimiter = ';'
		}
		return arrayForm(scalar(opts, item, c.Modifier), delimiter)
	}
	return scalar(opts, name, c.Modifier)
}

// ofExtensions are types that are known by name wherever their extension was installed.
var ofExtensions = []string{"hstore", "citext", "ltree", "isbn", "geometry", "geography", "vector", "halfvec"}

// typeName is pgtype's, with arrays that are known by another name (of domains over arrays, and of extensions) as such.
func typeName(r *pipeline.Relation, oid uint32) string {
	name := pgtype.Name(r, oid)
	t, ok := r.TypeName(oid)
	if !ok {
		return name
	}
	item, array := strings.CutPrefix(t.Name, "_")
	for _, known := range ofExtensions {
		if t.Name == known {
			return known
		}
		if array && item == known {
			return known + "[]"
		}
	}
	if array && t.Namespace == "pg_catalog" {
		return item + "[]"
	}
	return name
}

// scalar is the form of a type that is no array.
func scalar(opts *format.DebeziumOptions, name string, modifier int32) form {
	switch name {
	case "bool":
		return textForm(plainNode("boolean"), appendBoolean)
	case "int2":
		return integerForm(plainNode("int16"), appendInteger)
	case "int4":
		return integerForm(plainNode("int32"), appendInteger)
	case "int8", "oid":
		return integerForm(plainNode("int64"), appendInteger)
	case "float4":
		return textForm(plainNode("float"), appendReal)
	case "float8":
		return textForm(plainNode("double"), appendDouble)
	case "numeric":
		return numericForm(opts.Decimal, modifier)
	case "money":
		return moneyForm(opts.Decimal)
	case "bytea":
		return binaryForm(opts.Binary)
	case "bit", "varbit":
		return bitsForm(modifier)
	case "date":
		return dateForm(opts.Time)
	case "time":
		return timeForm(opts.Time, modifier)
	case "timetz":
		return zonedTimeForm()
	case "timestamp":
		return timestampForm(opts.Time, modifier)
	case "timestamptz":
		return zonedTimestampForm(modifier)
	case "interval":
		return intervalForm(opts.Interval)
	case "uuid":
		f := textForm(named("string", "io.debezium.data.Uuid"), asText)
		f.absentItem = `"b68a35a7-17ad-35b3-af2a-ae46edb4545a"` // the UUID of version 3 that the placeholder gives
		return f
	case "json", "jsonb":
		return textForm(named("string", "io.debezium.data.Json"), asText)
	case "xml":
		return textForm(named("string", "io.debezium.data.Xml"), asText)
	case "tsvector":
		return textForm(named("string", "io.debezium.data.Tsvector"), asText)
	case "ltree":
		return textForm(named("string", "io.debezium.data.Ltree"), asText)
	case "point":
		return pointForm()
	case "geometry":
		return geometryForm("Geometry")
	case "geography":
		return geometryForm("Geography")
	case "vector":
		return vectorForm("DoubleVector", "double", appendDouble)
	case "halfvec":
		return vectorForm("FloatVector", "float", appendReal)
	case "hstore":
		return hstoreForm(opts.HStore)
	}
	return textForm(plainNode("string"), asText)
}

var errPrecise = errors.New("a numeric that is no number, or has more digits than its column's type says, has no form as precise decimal. Try: cdcctl create-subscription … --debezium-decimal string")

func numericForm(mode string, modifier int32) form {
	switch mode {
	case "double":
		return textForm(plainNode("double"), appendDouble)
	case "string":
		return textForm(plainNode("string"), appendDecimalString)
	}
	if modifier < 4 {
		n := named("struct", "io.debezium.data.VariableScaleDecimal").doc("Variable scaled decimal").
			fields(plainNode("int32").field("scale"), plainNode("bytes").field("value"))
		return textForm(n, appendVariable)
	}
	digits := int(modifier-4) >> 16 & 0xFFFF
	scale := int(modifier-4)&0x7FF ^ 1024 - 1024
	f := textForm(decimalNode(scale).parameter("connect.decimal.precision", strconv.Itoa(digits)), decimalBytes(scale))
	f.strict = errPrecise
	return f
}

// moneyScale is Debezium's money.fraction.digits.
const moneyScale = 2

func moneyForm(mode string) form {
	switch mode {
	case "double":
		return textForm(plainNode("double"), money(appendDouble))
	case "string":
		return textForm(plainNode("string"), money(appendDecimalString))
	}
	f := textForm(decimalNode(moneyScale), money(decimalBytes(moneyScale)))
	f.strict = errPrecise
	return f
}

var errBytes = errors.New("the value is not what its type promises, and base64 of it would be another one. Try: cdcctl create-subscription … --format json --json-flavour native")

func binaryForm(mode string) form {
	n, absent := plainNode("string"), base64.StdEncoding.EncodeToString([]byte(placeholder))
	write := func(dst, b []byte) []byte { return base64.StdEncoding.AppendEncode(dst, b) }
	switch mode {
	case "hex":
		absent = placeholder
		write = nil
	case "base64-url-safe":
		write = func(dst, b []byte) []byte { return base64.URLEncoding.AppendEncode(dst, b) }
	case "bytes":
		n = plainNode("bytes")
	}
	f := textForm(n, func(dst, text []byte) ([]byte, error) {
		digits, ok := strings.CutPrefix(string(text), `\x`)
		if !ok {
			return dst, errNoForm
		}
		b, err := unhex(digits)
		if err != nil {
			return dst, errNoForm
		}
		dst = append(dst, '"')
		if write == nil {
			dst = append(dst, digits...)
		} else {
			dst = write(dst, b)
		}
		return append(dst, '"'), nil
	})
	f.strict, f.absent, f.absentItem = errBytes, `"`+absent+`"`, `"`+absent+`"`
	return f
}

// unboundedBits is the length that Debezium gives to bits of any number.
const unboundedBits = 2147483647

func bitsForm(modifier int32) form {
	if modifier == 1 {
		return textForm(plainNode("boolean"), appendBoolean)
	}
	length := int(modifier)
	if length < 0 {
		length = unboundedBits
	}
	f := textForm(named("bytes", "io.debezium.data.Bits").parameter("length", strconv.Itoa(length)), appendBits)
	f.strict = errBytes
	return f
}

// appendBits writes bits as bytes, the last bit in front, without zeros at the end.
func appendBits(dst, text []byte) ([]byte, error) {
	b := make([]byte, (len(text)+7)/8)
	used := 0
	for i := range text {
		switch text[len(text)-1-i] {
		case '1':
			b[i/8] |= 1 << (i % 8)
			used = i/8 + 1
		case '0':
		default:
			return dst, errNoForm
		}
	}
	return appendBase64(dst, b[:used]), nil
}

// wrapColumn names the column that an error is about.
func wrapColumn(r *pipeline.Relation, column int, err error) error {
	return fmt.Errorf("table %s: column %q: %w", r, r.Columns[column].Name, err)
}
