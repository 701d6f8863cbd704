package sql

import (
	"strconv"
	"unicode/utf8"
)

// appendQuoted shows a text of others in a comment, which ends with its line: in Go's quotes nothing but printable characters is left.
func appendQuoted(dst []byte, text string) []byte { return strconv.AppendQuote(dst, text) }

// shownBytes of a text of others are shown in a comment.
const shownBytes = 200

// appendShown shows the beginning of a text that may be long.
func appendShown(dst, text []byte) []byte {
	if len(text) <= shownBytes {
		return appendQuoted(dst, string(text))
	}
	dst = appendQuoted(dst, string(text[:shownBytes]))
	dst = append(dst, " (of "...)
	dst = strconv.AppendInt(dst, int64(len(text)), 10)
	return append(dst, " bytes)"...)
}

// appendName quotes a name of PostgreSQL. One with control characters is written with escapes: a statement is one line.
func appendName(dst []byte, name string) []byte {
	if hasControls(name) {
		return appendEscapedName(dst, name)
	}
	dst = append(dst, '"')
	for i := range len(name) {
		if name[i] == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, name[i])
	}
	return append(dst, '"')
}

func appendEscapedName(dst []byte, name string) []byte {
	dst = append(dst, `U&"`...)
	for i := range len(name) {
		switch c := name[i]; {
		case isControl(c):
			dst = append(dst, '\\', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case c == '"' || c == '\\':
			dst = append(dst, c, c)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

const hexDigits = "0123456789abcdef"

func isControl(c byte) bool { return c < ' ' || c == 0x7f }

func hasControls(name string) bool {
	for i := range len(name) {
		if isControl(name[i]) {
			return true
		}
	}
	return false
}

// plain marks the bytes that stand for themselves in a string of PostgreSQL in every way to write one.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '\'' && c != '\\'
	}
	return t
}()

// appendString writes a text as a string constant of PostgreSQL that means the same whatever standard_conforming_strings says:
// a constant with a backslash, a control character, or bytes that are no UTF-8 (only a database with the encoding SQL_ASCII has them)
// is E'…'.
func appendString(dst, text []byte) []byte {
	i, escapes := 0, false
	for ; i < len(text) && plain[text[i]]; i++ {
	}
	if i == len(text) {
		return append(append(append(dst, '\''), text...), '\'')
	}
	valid := utf8.Valid(text[i:])
	for _, c := range text[i:] {
		if isControl(c) || c == '\\' || c >= utf8.RuneSelf && !valid {
			escapes = true
			break
		}
	}
	if escapes {
		dst = append(dst, 'E')
	}
	dst = append(append(dst, '\''), text[:i]...)
	for _, c := range text[i:] {
		dst = appendByte(dst, c, valid)
	}
	return append(dst, '\'')
}

func appendByte(dst []byte, c byte, valid bool) []byte {
	switch {
	case plain[c] || c >= utf8.RuneSelf && valid:
		return append(dst, c)
	case c == '\'':
		return append(dst, '\'', '\'')
	case c == '\\':
		return append(dst, '\\', '\\')
	case c == '\n':
		return append(dst, '\\', 'n')
	case c == '\r':
		return append(dst, '\\', 'r')
	case c == '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
}

// isNumber: digits, with a sign, with a point between, as PostgreSQL writes finite numbers without an exponent.
func isNumber(text []byte, max int) bool {
	if len(text) > max {
		return false
	}
	i, point, digits := 0, false, 0
	if len(text) > 0 && text[0] == '-' {
		i++
	}
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case '0' <= c && c <= '9':
			digits++
		case c == '.' && !point && digits > 0 && i+1 < len(text):
			point = true
		default:
			return false
		}
	}
	return digits > 0
}
