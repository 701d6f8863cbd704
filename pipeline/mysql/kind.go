package mysql

import (
	"strconv"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pgtype"
)

// Kind is how the values of a column are kept.
type Kind struct {
	form    form
	element form // of an array's
	length  int  // characters of a string, bits, digits of a decimal; 0: no limit
	scale   int  // of a decimal
	name    string
	array   byte // the delimiter of an array's elements
	// Of a column of MySQL that is known (In):
	column    *Column
	fit       fit
	places    int // digits behind the point, or of a second
	hasPlaces bool
}

// form is what a literal looks like.
type form uint8

const (
	formText     form = iota // PostgreSQL's text form
	formPadded               // the same, without the blanks at its end: char(n)
	formASCII                // the same, of ASCII only
	formBool                 // 1, 0
	formInteger              // digits
	formUnsigned             // digits
	formFloat                // 1.5e0
	formDecimal              // digits, in the type DECIMAL
	formNumeric              // digits, as a string
	formMoney                // digits
	formBytes                // X'…'
	formBits                 // b'…'
	formDate
	formTime
	formDateTime
	formDateTimeUTC // from timestamptz
	formArray       // JSON
)

// known are PostgreSQL's types by name; all others are text.
var known = map[string]Kind{
	"bool": {form: formBool}, "int2": {form: formInteger}, "int4": {form: formInteger}, "int8": {form: formInteger},
	"float4": {form: formFloat}, "float8": {form: formFloat}, "numeric": {form: formNumeric}, "money": {form: formMoney},
	"oid": {form: formUnsigned}, "xid": {form: formUnsigned}, "cid": {form: formUnsigned}, "xid8": {form: formUnsigned},
	"bytea": {form: formBytes}, "bit": {form: formText}, "varbit": {form: formText},
	"bpchar": {form: formPadded}, "char": {form: formText, length: 4}, "name": {form: formText, length: 63}, "uuid": {form: formASCII, length: 36},
	"date": {form: formDate}, "time": {form: formTime}, "timestamp": {form: formDateTime}, "timestamptz": {form: formDateTimeUTC},
	"timetz": {form: formText, length: 32}, "interval": {form: formText, length: 127},
	"inet": {form: formText, length: 64}, "cidr": {form: formText, length: 64}, "macaddr": {form: formText, length: 17}, "macaddr8": {form: formText, length: 23},
	"pg_lsn": {form: formText, length: 17}, "tid": {form: formText, length: 20},
}

// Limits of MySQL and MariaDB, the smaller one of the two.
const (
	decimalDigitsMax = 65
	decimalScaleMax  = 30
	bitsMax          = 64
	varcharMax       = 255 // characters of a column that is no key; longer ones are LONGTEXT, which has no share in the row's limit
	keyBytesMax      = 3072
	keyColumnsMax    = 16
)

// KindOf is the kind of a column of a relation. A domain is as its base type; types that are not PostgreSQL's own (enums,
// composites, those of extensions, and arrays of them) are text.
func KindOf(r *pipeline.Relation, column int) Kind {
	c := &r.Columns[column]
	name := pgtype.Name(r, c.Type)
	if t, ok := r.TypeName(c.Type); ok && t.Namespace == "pg_catalog" && strings.HasPrefix(t.Name, "_") {
		name = t.Name[1:] + "[]" // a domain over an array
	}
	if element, ok := strings.CutSuffix(name, "[]"); ok {
		k := Kind{form: formArray, element: known[element].form, name: name, array: ','}
		if element == "box" {
			k.array = ';'
		}
		return k
	}
	k := known[name]
	k.name = name
	if k.name == "" {
		k.name = "type " + strconv.FormatUint(uint64(c.Type), 10)
	}
	k.modify(c.Modifier)
	return k
}

// modify takes the length, or precision and scale, out of a column's atttypmod.
func (k *Kind) modify(m int32) {
	switch k.name {
	case "varchar", "bpchar":
		if m > 4 {
			k.length = int(m - 4)
		}
	case "bit", "varbit":
		if m > 0 {
			k.length = int(m)
		}
		if k.name == "bit" && m > 0 && m <= bitsMax {
			k.form = formBits
		}
	case "numeric":
		if m < 4 {
			return
		}
		precision, scale := int((m-4)>>16), int((m-4)&0x7ff)
		if scale >= 1024 {
			scale -= 2048 // negative scales
		}
		if precision <= decimalDigitsMax && scale >= 0 && scale <= min(precision, decimalScaleMax) {
			k.form, k.length, k.scale = formDecimal, precision, scale
		}
	}
}

// ColumnType is the type of a column in CREATE TABLE.
func (k Kind) ColumnType() string { return k.columnType(0) }

// columnType: keyBytes, if not 0, is what the column may take in a key if its length has no limit.
func (k Kind) columnType(keyBytes int) string {
	switch k.form {
	case formBool:
		return "TINYINT(1)"
	case formInteger:
		return map[string]string{"int2": "SMALLINT", "int4": "INT", "int8": "BIGINT"}[k.name]
	case formUnsigned:
		if k.name == "xid8" {
			return "BIGINT UNSIGNED"
		}
		return "INT UNSIGNED"
	case formFloat:
		return "DOUBLE"
	case formDecimal:
		return "DECIMAL(" + strconv.Itoa(k.length) + "," + strconv.Itoa(k.scale) + ")"
	case formMoney:
		return "DECIMAL(19,2)"
	case formBits:
		return "BIT(" + strconv.Itoa(k.length) + ")"
	case formDate:
		return "DATE"
	case formTime:
		return "TIME(6)"
	case formDateTime, formDateTimeUTC:
		return "DATETIME(6)"
	case formASCII:
		return "CHAR(" + strconv.Itoa(k.length) + ") CHARACTER SET ascii COLLATE ascii_bin"
	case formBytes:
		if keyBytes > 0 {
			return "VARBINARY(" + strconv.Itoa(keyBytes) + ")"
		}
		return "LONGBLOB"
	case formText, formPadded, formNumeric, formArray:
	}
	switch {
	case keyBytes > 0 && (k.length == 0 || k.length > keyBytes/4):
		return "VARCHAR(" + strconv.Itoa(keyBytes/4) + ")"
	case k.length > 0 && (k.length <= varcharMax || keyBytes > 0):
		return "VARCHAR(" + strconv.Itoa(k.length) + ")"
	}
	return "LONGTEXT"
}

// keyBytes is what a value takes in a key at most; 0: it has no limit.
func (k Kind) keyBytes() int {
	switch k.form {
	case formBool:
		return 1
	case formInteger, formUnsigned, formFloat, formBits, formDate, formTime, formDateTime, formDateTimeUTC, formMoney:
		return 9
	case formDecimal:
		return 30
	case formASCII:
		return k.length
	case formText, formPadded:
		return 4 * k.length
	case formNumeric, formBytes, formArray:
	}
	return 0
}

// Name is PostgreSQL's name of the type.
func (k Kind) Name() string { return k.name }
