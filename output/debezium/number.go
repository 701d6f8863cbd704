package debezium

import (
	"bytes"
	"encoding/base64"
	"math"
	"math/big"
	"strconv"
)

// appendInteger writes an integer as it stands.
func appendInteger(dst, text []byte) ([]byte, error) {
	digits := bytes.TrimPrefix(text, []byte{'-'})
	if !allDigits(digits) || len(digits) > 1 && digits[0] == '0' {
		return dst, errNoForm
	}
	return append(dst, text...), nil
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

func appendBoolean(dst, text []byte) ([]byte, error) {
	switch string(text) {
	case "t", "1":
		return append(dst, `true`...), nil
	case "f", "0":
		return append(dst, `false`...), nil
	}
	return dst, errNoForm
}

// appendDouble and appendReal write a number with the fewest digits that are read as the same one, in the form that Java gives it.
func appendDouble(dst, text []byte) ([]byte, error) { return appendFloat(dst, text, 64) }
func appendReal(dst, text []byte) ([]byte, error)   { return appendFloat(dst, text, 32) }

func appendFloat(dst, text []byte, bits int) ([]byte, error) {
	f, err := strconv.ParseFloat(string(text), bits)
	switch {
	case err != nil:
		return dst, errNoForm
	case math.IsNaN(f):
		return append(dst, `"NaN"`...), nil
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...), nil
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...), nil
	}
	if math.Signbit(f) {
		dst, f = append(dst, '-'), -f
	}
	var scratch [32]byte
	mantissa, exponent, _ := bytes.Cut(strconv.AppendFloat(scratch[:0], f, 'e', -1, bits), []byte{'e'})
	power, err := strconv.Atoi(string(exponent))
	if err != nil {
		return dst, err
	}
	digits := mantissa[:1]
	if len(mantissa) > 2 {
		digits = append(digits, mantissa[2:]...)
	}
	if f == 0 {
		digits = nil
	}
	return appendJava(dst, digits, power), nil
}

// appendJava writes the number d.ddd × 10^power as Double.toString does: with an exponent below 10^-3 and from 10^7 on.
func appendJava(dst, digits []byte, power int) []byte {
	switch {
	case len(digits) == 0:
		return append(dst, "0.0"...)
	case power >= -3 && power < 0:
		dst = append(dst, "0."...)
		dst = append(dst, "00"[:-power-1]...)
		return append(dst, digits...)
	case power >= 0 && power < 7:
		return appendPoint(dst, digits, power+1)
	}
	dst = append(appendPoint(dst, digits, 1), 'E')
	return strconv.AppendInt(dst, int64(power), 10)
}

// appendPoint writes digits with a point behind the first n, and at least one digit behind it.
func appendPoint(dst, digits []byte, n int) []byte {
	for i := range max(n, len(digits)) {
		if i == n {
			dst = append(dst, '.')
		}
		if i < len(digits) {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	if len(digits) <= n {
		dst = append(dst, ".0"...)
	}
	return dst
}

// appendDecimalString writes a numeric as it stands, but for the names that Debezium gives to what is no number.
func appendDecimalString(dst, text []byte) ([]byte, error) {
	switch string(text) {
	case "NaN":
		return append(dst, `"NAN"`...), nil
	case "Infinity":
		return append(dst, `"POSITIVE_INFINITY"`...), nil
	case "-Infinity":
		return append(dst, `"NEGATIVE_INFINITY"`...), nil
	}
	return appendString(dst, text)
}

// scaled is the integer that a numeric is at a scale, if it is one.
func scaled(text []byte, scale int) (*big.Int, bool) {
	digits, negative := bytes.CutPrefix(text, []byte{'-'})
	whole, fraction, _ := bytes.Cut(digits, []byte{'.'})
	if !allDigits(whole) || len(fraction) > 0 && !allDigits(fraction) {
		return nil, false
	}
	all := append(bytes.Clone(whole), fraction...)
	for missing := scale - len(fraction); missing > 0; missing-- {
		all = append(all, '0')
	}
	for extra := len(fraction) - scale; extra > 0 && len(all) > 0; extra-- {
		if all[len(all)-1] != '0' {
			return nil, false
		}
		all = all[:len(all)-1]
	}
	if len(all) == 0 {
		all = []byte{'0'}
	}
	n, ok := new(big.Int).SetString(string(all), 10)
	if negative && ok {
		n.Neg(n)
	}
	return n, ok
}

// decimalBytes writes precise decimals: the integer at the scale, in two's complement, base64.
func decimalBytes(scale int) func(dst, text []byte) ([]byte, error) {
	return func(dst, text []byte) ([]byte, error) {
		n, ok := scaled(text, scale)
		if !ok {
			return dst, errNoForm
		}
		return appendBase64(dst, twosComplement(n)), nil
	}
}

// appendVariable writes precise decimals of any scale.
func appendVariable(dst, text []byte) ([]byte, error) {
	_, fraction, _ := bytes.Cut(text, []byte{'.'})
	scale := len(bytes.TrimRight(fraction, "0"))
	n, ok := scaled(text, scale)
	if !ok {
		return dst, errNoForm
	}
	dst = append(dst, `{"scale":`...)
	dst = strconv.AppendInt(dst, int64(scale), 10)
	dst = append(dst, `,"value":`...)
	return append(appendBase64(dst, twosComplement(n)), '}'), nil
}

// twosComplement is the shortest form, as BigInteger.toByteArray has it.
func twosComplement(n *big.Int) []byte {
	if n.Sign() >= 0 {
		if n.BitLen()%8 == 0 { // room for the sign
			return append([]byte{0}, n.Bytes()...)
		}
		return n.Bytes()
	}
	inverted := new(big.Int).Not(n) // -n-1
	b := inverted.Bytes()
	if inverted.BitLen()%8 == 0 {
		b = append([]byte{0}, b...)
	}
	for i := range b {
		b[i] = ^b[i]
	}
	return b
}

func appendBase64(dst, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), b), '"')
}

// money is a form for what is behind the currency's sign: "-$1,234.11" with lc_monetary C.
func money(next func(dst, text []byte) ([]byte, error)) func(dst, text []byte) ([]byte, error) {
	return func(dst, text []byte) ([]byte, error) {
		number := make([]byte, 0, len(text))
		for _, c := range text {
			switch {
			case c == '-' || c == '.' || c >= '0' && c <= '9':
				number = append(number, c)
			case c != '$' && c != ',':
				return dst, errNoForm
			}
		}
		return next(dst, number)
	}
}
