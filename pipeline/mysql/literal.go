package mysql

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"unicode/utf8"
)

// Unfit says that MySQL cannot hold a value.
type Unfit struct {
	Type  string // PostgreSQL's name of it
	Value string // its beginning
	Why   string
}

func (e *Unfit) Error() string {
	return "the " + e.Type + " " + e.Value + " cannot be kept in MySQL: " + e.Why
}

// valueShown is how much of a value an error shows.
const valueShown = 60

func (k Kind) unfit(text []byte, why string) error {
	shown := string(bytes.ToValidUTF8(text[:min(len(text), valueShown)], []byte("?")))
	if len(text) > valueShown {
		shown += "…"
	}
	return &Unfit{Type: k.name, Value: shown, Why: why}
}

// Why a value is unfit.
const (
	whyForm     = "it is not in the form that PostgreSQL writes"
	whyNumber   = "it has neither NaN nor infinity"
	whyInfinity = "it has no infinite times"
	whyYear     = "its years are 1 to 9999"
	whyUTF8     = "it is no UTF-8"
	whyExponent = "it has an exponent, and the column's numbers have none"
)

// AppendLiteral appends the literal of a value that is not NULL; text is PostgreSQL's text form, as of package textform. The error is
// an *Unfit.
func (k Kind) AppendLiteral(dst, text []byte) ([]byte, error) {
	if k.fit != fitAll {
		if err := k.fits(text); err != nil {
			return dst, err
		}
	}
	switch k.form {
	case formText, formASCII, formNumeric:
		return k.appendString(dst, text)
	case formPadded:
		return k.appendString(dst, bytes.TrimRight(text, " "))
	case formBool:
		return k.appendBool(dst, text)
	case formInteger, formUnsigned, formDecimal:
		return k.appendNumber(dst, text)
	case formFloat:
		return k.appendFloat(dst, text)
	case formMoney:
		return k.appendMoney(dst, text)
	case formBytes:
		return k.appendBytes(dst, text)
	case formBits:
		return k.appendBits(dst, text)
	case formDate, formTime, formDateTime, formDateTimeUTC:
		return k.appendTime(dst, text)
	case formArray:
		return k.appendArray(dst, text)
	}
	return dst, k.unfit(text, whyForm)
}

// appendString writes a string that is read alike with and without NO_BACKSLASH_ESCAPES, in every character set of the
// connection, and by clients that read statements from a file.
func (k Kind) appendString(dst, text []byte) ([]byte, error) {
	ascii, plain := true, true
	for _, c := range text {
		ascii = ascii && c < utf8.RuneSelf
		plain = plain && c != '\\' && (c >= ' ' && c != 0x7f || c == '\t') // so a literal is on one line
	}
	switch {
	case !ascii && !utf8.Valid(text):
		return dst, k.unfit(text, whyUTF8)
	case !plain:
		dst = append(dst, "_utf8mb4 X'"...)
		dst = hex.AppendEncode(dst, text)
		return append(dst, '\''), nil
	case !ascii:
		dst = append(dst, "_utf8mb4"...)
	}
	return appendQuoted(dst, text), nil
}

func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '\'')
	for len(text) > 0 {
		i := bytes.IndexByte(text, '\'')
		if i < 0 {
			dst = append(dst, text...)
			break
		}
		dst = append(append(dst, text[:i]...), "''"...)
		text = text[i+1:]
	}
	return append(dst, '\'')
}

func (k Kind) appendBool(dst, text []byte) ([]byte, error) {
	switch string(text) {
	case "t":
		return append(dst, '1'), nil
	case "f":
		return append(dst, '0'), nil
	}
	return dst, k.unfit(text, whyForm)
}

// number is an optional sign, digits, and a fraction; the places of an exponent's letter and the end.
func number(text []byte) (mantissa int, ok bool) {
	i := 0
	if i < len(text) && text[i] == '-' {
		i++
	}
	from := i
	for i < len(text) && isDigit(text[i]) {
		i++
	}
	if i == from {
		return 0, false
	}
	if i < len(text) && text[i] == '.' {
		i++
		from = i
		for i < len(text) && isDigit(text[i]) {
			i++
		}
		if i == from {
			return 0, false
		}
	}
	return i, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func allDigits(text []byte) bool {
	for _, c := range text {
		if !isDigit(c) {
			return false
		}
	}
	return len(text) > 0
}

func (k Kind) appendNumber(dst, text []byte) ([]byte, error) {
	n, ok := number(text)
	if !ok {
		return dst, k.unfit(text, whyNumber)
	}
	if n != len(text) {
		why := whyForm
		if text[n] == 'e' {
			why = whyExponent
		}
		return dst, k.unfit(text, why)
	}
	if digits := bytes.TrimLeft(text, "-0."); len(digits)-bytes.Count(digits, []byte(".")) > decimalDigitsMax {
		return dst, k.unfit(text, "it has 65 digits")
	}
	if err := k.rounds(text, text); err != nil {
		return dst, err
	}
	return append(dst, text...), nil
}

// appendFloat writes a literal that MySQL takes for a double from the beginning: without an exponent it would be a decimal.
func (k Kind) appendFloat(dst, text []byte) ([]byte, error) {
	n, ok := number(text)
	if !ok {
		return dst, k.unfit(text, whyNumber)
	}
	dst = append(dst, text...)
	if n == len(text) {
		return append(dst, "e0"...), nil
	}
	exponent := bytes.TrimLeft(text[n+1:], "+-")
	if text[n] != 'e' || len(text)-n-1-len(exponent) > 1 || !allDigits(exponent) {
		return dst[:len(dst)-len(text)], k.unfit(text, whyForm)
	}
	return dst, nil
}

// appendMoney takes the symbol and separators of lc_monetary C out.
func (k Kind) appendMoney(dst, text []byte) ([]byte, error) {
	from := len(dst)
	for i, c := range text {
		switch {
		case isDigit(c) || c == '.' || c == '-' && i == 0:
			dst = append(dst, c)
		case c != '$' && c != ',':
			return dst[:from], k.unfit(text, whyForm)
		}
	}
	if n, ok := number(dst[from:]); !ok || n != len(dst)-from {
		return dst[:from], k.unfit(text, whyForm)
	}
	if err := k.rounds(text, dst[from:]); err != nil {
		return dst[:from], err
	}
	return dst, nil
}

// rounds says that a column has fewer places behind the point than a number.
func (k Kind) rounds(text, number []byte) error {
	if !k.hasPlaces {
		return nil
	}
	if _, places, _ := bytes.Cut(number, []byte(".")); len(bytes.TrimRight(places, "0")) > k.places {
		return k.unfit(text, "the column has "+strconv.Itoa(k.places)+" digits behind the point")
	}
	return nil
}

func (k Kind) appendBytes(dst, text []byte) ([]byte, error) {
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	if !ok || len(digits)%2 != 0 {
		return dst, k.unfit(text, whyForm)
	}
	for _, c := range digits {
		if !isDigit(c) && (c < 'a' || c > 'f') {
			return dst, k.unfit(text, whyForm)
		}
	}
	dst = append(dst, "X'"...)
	return append(append(dst, digits...), '\''), nil
}

func (k Kind) appendBits(dst, text []byte) ([]byte, error) {
	if len(text) == 0 || len(text) > bitsMax || len(bytes.Trim(text, "01")) > 0 {
		return dst, k.unfit(text, whyForm)
	}
	dst = append(dst, "b'"...)
	return append(append(dst, text...), '\''), nil
}

// appendTime checks what MySQL takes for something else: years, offsets, infinity.
func (k Kind) appendTime(dst, text []byte) ([]byte, error) {
	rest := text
	if k.form != formTime {
		switch string(text) {
		case "infinity", "-infinity":
			return dst, k.unfit(text, whyInfinity)
		}
		if bytes.HasSuffix(text, []byte(" BC")) || bytes.IndexByte(text, '-') > 4 {
			return dst, k.unfit(text, whyYear)
		}
		if !like(&rest, "0000-00-00") {
			return dst, k.unfit(text, whyForm)
		}
	}
	switch k.form {
	case formDateTime, formDateTimeUTC:
		if !like(&rest, " 00:00:00") {
			return dst, k.unfit(text, whyForm)
		}
		rest = fraction(rest)
	case formTime:
		if !like(&rest, "00:00:00") {
			return dst, k.unfit(text, whyForm)
		}
		rest = fraction(rest)
	default:
	}
	written := text[:len(text)-len(rest)]
	if k.form == formDateTimeUTC {
		if string(rest) != "+00" {
			return dst, k.unfit(text, "it is not in UTC")
		}
		rest = nil
	}
	if len(rest) > 0 {
		return dst, k.unfit(text, whyForm)
	}
	if err := k.rounds(text, written); err != nil {
		return dst, err
	}
	return appendQuoted(dst, written), nil
}

// like cuts what has the pattern's form from the front: a 0 is any digit.
func like(text *[]byte, pattern string) bool {
	t := *text
	if len(t) < len(pattern) {
		return false
	}
	for i := range len(pattern) {
		if pattern[i] == '0' && !isDigit(t[i]) || pattern[i] != '0' && t[i] != pattern[i] {
			return false
		}
	}
	*text = t[len(pattern):]
	return true
}

// fraction cuts one of a second from the front.
func fraction(text []byte) []byte {
	if len(text) < 2 || text[0] != '.' || !isDigit(text[1]) {
		return text
	}
	n := 1
	for n < len(text) && n <= 6 && isDigit(text[n]) {
		n++
	}
	return text[n:]
}
