package debezium

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789ABCDEF"

var errUTF8 = errors.New("the text is not valid UTF-8 and has no form in Debezium's JSON. Try: cdcctl create-subscription … --format json --json-flavour native, or --format internal")

// appendString writes s as a JSON string, escaped as little as Debezium does.
func appendString(dst, s []byte) ([]byte, error) {
	if !utf8.Valid(s) {
		return dst, errUTF8
	}
	dst, start := append(dst, '"'), 0
	for i, c := range s {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		dst = appendEscape(dst, c)
		start = i + 1
	}
	return append(append(dst, s[start:]...), '"'), nil
}

func appendEscape(dst []byte, c byte) []byte {
	const short = "btn\x00fr" // of \b (8) to \r (13)
	switch {
	case c == '"' || c == '\\':
		return append(dst, '\\', c)
	case c >= '\b' && c <= '\r' && c != '\v':
		return append(dst, '\\', short[c-'\b'])
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// quote is the JSON string of a text that is known to be valid.
func quote(s string) string {
	b, err := appendString(nil, []byte(s))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// ascii is JSON with escapes for everything that is not printable ASCII: not every client takes other bytes in a header.
// In JSON they stand within strings only.
func (e *Encoder) ascii(json []byte) string {
	e.escaped = appendASCII(e.escaped[:0], json)
	return string(e.escaped)
}

func appendASCII(dst, json []byte) []byte {
	for len(json) > 0 {
		r, n := utf8.DecodeRune(json)
		json = json[n:]
		switch {
		case r < 0x7F:
			dst = append(dst, byte(r))
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			dst = appendUnicode(appendUnicode(dst, high), low)
		default:
			dst = appendUnicode(dst, r)
		}
	}
	return dst
}

func appendUnicode(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
