package mysql

import (
	"bytes"

	"shardcdc/pipeline/pgtype"
)

// Arrays are JSON, with the values that the format json has (docs/formats.md): numbers where every reader reads the same one,
// else strings of PostgreSQL's text form. JSON has no bounds, so an array whose bounds do not begin at 1 is
// {"bounds":"[0:2]","values":[…]}.

// safeMax is 2^53-1, the largest integer up to which a double holds every one.
const safeMax = "9007199254740991"

type arrayJSON struct {
	dst     []byte
	element form
}

func (a *arrayJSON) comma() {
	if last := a.dst[len(a.dst)-1]; last != '[' && last != ':' {
		a.dst = append(a.dst, ',')
	}
}

func (a *arrayJSON) Open() {
	if len(a.dst) > 0 {
		a.comma()
	}
	a.dst = append(a.dst, '[')
}

func (a *arrayJSON) Close() { a.dst = append(a.dst, ']') }

func (a *arrayJSON) Element(text []byte, null bool) {
	a.comma()
	if null {
		a.dst = append(a.dst, "null"...)
		return
	}
	n, isNumber := number(text)
	switch {
	case a.element == formBool && string(text) == "t":
		a.dst = append(a.dst, "true"...)
	case a.element == formBool && string(text) == "f":
		a.dst = append(a.dst, "false"...)
	case a.element == formFloat && isNumber, (a.element == formInteger || a.element == formUnsigned) && isNumber && n == len(text) && safe(text):
		a.dst = append(a.dst, text...)
	default:
		a.dst = appendJSONString(a.dst, text)
	}
}

func safe(digits []byte) bool {
	digits = bytes.TrimPrefix(digits, []byte("-"))
	return len(digits) < len(safeMax) || len(digits) == len(safeMax) && string(digits) <= safeMax
}

func appendJSONString(dst, text []byte) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

func (k Kind) appendArray(dst, text []byte) ([]byte, error) {
	a := arrayJSON{element: k.element, dst: make([]byte, 0, len(text)+16)}
	bounds, err := pgtype.WalkArray(text, k.array, &a)
	if err != nil {
		return dst, k.unfit(text, whyForm)
	}
	if bounds != "" {
		a.dst = append(append([]byte(`{"bounds":"`+bounds+`","values":`), a.dst...), '}')
	}
	return k.appendString(dst, a.dst)
}
