package json

import (
	"encoding/base64"
	"encoding/binary"
	"unicode/utf8"

	"shardcdc/pipeline"
)

// valueKind says how the text form of a type is written.
type valueKind uint8

const (
	asText    valueKind = iota
	asBoolean           // t, f
	asInteger           // fits a double
	asBigint            // a number where it fits a double
	asFloat             // a number where it is finite
)

// kindOf knows built-in types by their OID, and domains by the name of their base type, which is what PostgreSQL
// sends for them.
func kindOf(r *pipeline.Relation, oid uint32) valueKind {
	if t, ok := r.TypeName(oid); ok && t.Namespace == "pg_catalog" {
		return kindByName[t.Name]
	}
	return kindByOID[oid]
}

var kindByOID = map[uint32]valueKind{16: asBoolean, 20: asBigint, 21: asInteger, 23: asInteger, 26: asInteger, 700: asFloat, 701: asFloat}

var kindByName = map[string]valueKind{
	"bool": asBoolean, "int8": asBigint, "int2": asInteger, "int4": asInteger, "oid": asInteger, "float4": asFloat, "float8": asFloat,
}

// appendValue writes a value's text form. A text that is not what its type promises is written as a string, so
// that the JSON stays JSON and nothing is lost.
func appendValue(dst []byte, kind valueKind, text []byte) []byte {
	switch kind {
	case asBoolean:
		switch string(text) {
		case "t":
			return append(dst, `true`...)
		case "f":
			return append(dst, `false`...)
		}
	case asInteger:
		if isInteger(text) {
			return append(dst, text...)
		}
	case asBigint:
		if isInteger(text) && isSafe(text) {
			return append(dst, text...)
		}
	case asFloat:
		if isNumber(text) {
			return append(dst, text...)
		}
	case asText:
	}
	return appendText(dst, text)
}

// isInteger: an integer as JSON writes it, which excludes leading zeros and a plus sign.
func isInteger(b []byte) bool {
	rest, ok := integerPart(b)
	return ok && len(rest) == 0
}

// integerPart cuts the integer from the front of a number.
func integerPart(b []byte) (rest []byte, ok bool) {
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	n := digits(b)
	return b[n:], n == 1 || n > 1 && b[0] != '0'
}

func digits(b []byte) int {
	n := 0
	for n < len(b) && '0' <= b[n] && b[n] <= '9' {
		n++
	}
	return n
}

// safeMax is 2^53-1, the largest integer up to which a double holds every one.
const safeMax = "9007199254740991"

// isSafe expects an integer.
func isSafe(b []byte) bool {
	if b[0] == '-' {
		b = b[1:]
	}
	return len(b) < len(safeMax) || len(b) == len(safeMax) && string(b) <= safeMax
}

// isNumber: the grammar of RFC 8259, section 6.
func isNumber(b []byte) bool {
	b, ok := integerPart(b)
	if !ok {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		n := digits(b[1:])
		if n == 0 {
			return false
		}
		b = b[1+n:]
	}
	if len(b) > 0 && (b[0] == 'e' || b[0] == 'E') {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		n := digits(b)
		return n > 0 && n == len(b)
	}
	return len(b) == 0
}

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendText writes s as a JSON string, or, where it is not valid UTF-8 (encoded surrogates are not), as an
// object {"base64":"…"}.
func appendText(dst, s []byte) []byte {
	mark, start, valid := len(dst), 0, false
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		if len(s)-i >= 8 && plainWord(binary.LittleEndian.Uint64(s[i:])) {
			i += 8
			continue
		}
		for end := min(i+8, len(s)); i < end; {
			c := s[i]
			switch {
			case plain[c]:
				i++
			case c < utf8.RuneSelf:
				dst = append(dst, s[start:i]...)
				dst = appendEscape(dst, c)
				i++
				start = i
			case !valid: // what comes before is ASCII
				if valid = utf8.Valid(s[i:]); !valid {
					return appendBase64(dst[:mark], s)
				}
			case c == 0xE2 && s[i+1] == 0x80 && s[i+2]|1 == 0xA9: // U+2028, U+2029: ends a line in JavaScript
				dst = append(dst, s[start:i]...)
				dst = append(dst, '\\', 'u', '2', '0', '2', "89"[s[i+2]&1])
				i += 3
				start = i
			default:
				i++
			}
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// plainWord says whether all of eight bytes are plain.
func plainWord(w uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash := w^ones*'"', w^ones*'\\'
	return (w|(w-ones*' ')|(quote-ones)|(backslash-ones))&highs == 0
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', "01"[c>>4], upperHex[c&15])
}

func appendBase64(dst, s []byte) []byte {
	dst = append(dst, `{"base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, s)
	return append(dst, `"}`...)
}
