package mysql

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// Column is a column of MySQL, as information_schema.columns describes it.
type Column struct {
	DataType string // DATA_TYPE
	Type     string // COLUMN_TYPE, which has the labels of an ENUM
	// Places: NUMERIC_SCALE or DATETIME_PRECISION; -1: the type has none.
	Places int
	Length int // of a BINARY, in bytes: CHARACTER_OCTET_LENGTH
}

// fit says which values a column of MySQL keeps as they are. With the others it makes something else, and says nothing even
// in strict mode: it rounds numbers, cuts times and blanks, fills up bytes, and takes '1' for the first label of an ENUM.
type fit uint8

const (
	fitAll    fit = iota // those that it cannot hold are errors of MySQL, or of the form
	fitNone              // the types have nothing in common
	fitDouble            // numbers of so few digits that a DOUBLE prints them again
	fitFloat             // the same of a FLOAT
	fitSingle            // doubles that are floats
	fitChar              // no blanks at the end
	fitLength            // of the column's length
	fitLabel             // labels of the ENUM
)

// Digits of a decimal number that survive.
const (
	doubleDigits = 15
	floatDigits  = 6
)

// Types of MySQL, by what they hold.
var (
	numbers = setOf("tinyint", "smallint", "mediumint", "int", "bigint", "decimal") // exactly
	texts   = setOf("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "json")
	blobs   = setOf("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
)

func setOf(names ...string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[name] = true
	}
	return set
}

// In is the kind for this column of MySQL: into one of characters or bytes every value goes in PostgreSQL's text form, so none is unfit;
// into one of numbers, numbers go as such; and what MySQL would change in silence is unfit.
func (k Kind) In(c Column) Kind {
	c.DataType = strings.ToLower(c.DataType)
	k.column = &c
	switch {
	case texts[c.DataType]:
		k.inText(c.DataType)
	case blobs[c.DataType]:
		k.inBytes(c.DataType)
	case numbers[c.DataType]:
		k.inNumber()
	case c.DataType == "double", c.DataType == "float":
		k.inFloat(c.DataType)
	default:
		if !k.alike(c.DataType) {
			k.fit = fitNone
		}
	}
	switch k.form {
	case formDecimal, formMoney:
		k.places, k.hasPlaces = c.Places, c.Places >= 0 && numbers[c.DataType]
	case formTime, formDateTime, formDateTimeUTC:
		k.places, k.hasPlaces = c.Places, c.Places >= 0
	default:
	}
	return k
}

func (k *Kind) inText(dataType string) {
	if !k.IsText() {
		k.form = formText
	}
	switch {
	case dataType == "enum":
		k.fit = fitLabel
	case dataType == "char" && k.form != formPadded:
		k.fit = fitChar
	}
}

func (k *Kind) inBytes(dataType string) {
	if !k.IsText() && k.form != formBytes {
		k.form = formText
	}
	switch {
	case dataType != "binary":
	case k.form == formPadded, k.form == formArray: // their literals are of another length than their texts
		k.fit = fitNone
	default:
		k.fit = fitLength
	}
}

func (k *Kind) inNumber() {
	switch k.form {
	case formNumeric, formFloat:
		k.form = formDecimal
	case formBool, formInteger, formUnsigned, formDecimal, formMoney, formBits:
	default:
		k.fit = fitNone
	}
}

func (k *Kind) inFloat(dataType string) {
	switch k.form {
	case formFloat:
		if dataType == "float" && k.name != "float4" {
			k.fit = fitSingle
		}
	case formBool:
	case formInteger, formUnsigned, formDecimal, formNumeric, formMoney:
		k.fit = fitDouble
		if dataType == "float" {
			k.fit = fitFloat
		}
		if k.form == formNumeric {
			k.form = formFloat
		}
	default:
		k.fit = fitNone
	}
}

// alike says whether one of the other types keeps what the kind has.
func (k *Kind) alike(dataType string) bool {
	switch k.form {
	case formBool, formBits:
		return dataType == "bit"
	case formDate:
		return dataType == "date" || dataType == "datetime" || dataType == "timestamp"
	case formDateTime, formDateTimeUTC:
		return dataType == "datetime" || dataType == "timestamp"
	case formTime:
		return dataType == "time"
	case formASCII:
		return dataType == "uuid"
	case formText:
		return k.name == "inet" && (dataType == "inet4" || dataType == "inet6")
	default:
		return false
	}
}

// fits says whether the column keeps a value as it is.
func (k Kind) fits(text []byte) error {
	switch k.fit {
	case fitNone:
		return k.unfit(text, "a column of type "+k.column.DataType+" would change it")
	case fitDouble:
		return k.fewDigits(text, doubleDigits)
	case fitFloat:
		return k.fewDigits(text, floatDigits)
	case fitSingle:
		f, err := strconv.ParseFloat(string(text), 64)
		if err == nil && float64(float32(f)) != f && f == f {
			return k.unfit(text, "the column is a FLOAT, which would round it")
		}
	case fitChar:
		if bytes.HasSuffix(text, []byte(" ")) {
			return k.unfit(text, "the column is a CHAR, which loses blanks at the end")
		}
	case fitLength:
		n := len(text)
		if k.form == formBytes {
			n = (n - 2) / 2
		}
		if n != k.column.Length {
			return k.unfit(text, "the column is a BINARY, which fills up with zeros to "+strconv.Itoa(k.column.Length)+" bytes")
		}
	case fitLabel:
		if !slices.Contains(labels(k.column.Type), string(text)) {
			return k.unfit(text, "the column is an ENUM, and that is none of its labels")
		}
	case fitAll:
	}
	return nil
}

func (k Kind) fewDigits(text []byte, most int) error {
	n, zeros := 0, 0 // zeros: since the last other digit
	for _, c := range text {
		switch {
		case !isDigit(c) || c == '0' && n == 0:
		case c == '0':
			zeros++
		default:
			n, zeros = n+zeros+1, 0
		}
	}
	if n > most {
		return k.unfit(text, "the column is a "+strings.ToUpper(k.column.DataType)+", which keeps "+strconv.Itoa(most)+" digits")
	}
	return nil
}

// labels are those of an ENUM: enum('a','b'), where quotes are doubled, and some characters stand behind a backslash.
func labels(columnType string) (list []string) {
	_, rest, _ := strings.Cut(columnType, "(")
	for strings.HasPrefix(rest, "'") {
		var label []byte
		i := 1
		for ; i < len(rest); i++ {
			if rest[i] == '\'' {
				if i+1 == len(rest) || rest[i+1] != '\'' {
					break
				}
				i++
			}
			label = append(label, rest[i])
		}
		list = append(list, string(label))
		rest = strings.TrimPrefix(rest[min(len(rest), i+1):], ",")
	}
	return list
}
