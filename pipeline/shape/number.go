package shape

import (
	"cmp"
	"errors"
	"math/big"
	"math/bits"
	"strconv"
)

// number is a decimal number, exactly. Small integers, which nearly all numbers are, take no memory of their own.
type number struct {
	special special
	small   int64
	large   *big.Rat // instead of small
}

// special is what is no number, in the order in which PostgreSQL sorts it.
type special int8

const (
	minusInfinity special = -1
	finite        special = 0
	infinity      special = 1
	notANumber    special = 2 // equal to itself, and above everything
)

// errNumber does not show the value, which may be one that is masked.
var errNumber = errors.New("the value is no number")

// parseNumber reads the text form of an integer, a numeric or a float.
func parseNumber(text string) (number, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return number{small: n}, nil
	}
	switch text {
	case "NaN":
		return number{special: notANumber}, nil
	case "Infinity":
		return number{special: infinity}, nil
	case "-Infinity":
		return number{special: minusInfinity}, nil
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return number{}, errNumber
		}
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return number{}, errNumber
	}
	return number{large: r}, nil
}

func (n number) rat() *big.Rat {
	if n.large != nil {
		return n.large
	}
	return new(big.Rat).SetInt64(n.small)
}

// compare is -1, 0 or 1, as PostgreSQL sorts numeric.
func (n number) compare(m number) int {
	switch {
	case n.special != m.special:
		return cmp.Compare(n.special, m.special)
	case n.special != finite:
		return 0
	case n.large == nil && m.large == nil:
		return cmp.Compare(n.small, m.small)
	}
	return n.rat().Cmp(m.rat())
}

// sign of a number that is not NaN.
func (n number) sign() int {
	switch {
	case n.special != finite:
		return int(n.special)
	case n.large != nil:
		return n.large.Sign()
	}
	return cmp.Compare(n.small, 0)
}

func infinite(sign int) number {
	switch {
	case sign > 0:
		return number{special: infinity}
	case sign < 0:
		return number{special: minusInfinity}
	}
	return number{special: notANumber} // 0 * Infinity
}

func (n number) negate() number {
	switch {
	case n.special == notANumber:
		return n
	case n.special != finite:
		return infinite(-n.sign())
	case n.large == nil && n.small != -n.small || n.small == 0 && n.large == nil:
		return number{small: -n.small}
	}
	return number{large: new(big.Rat).Neg(n.rat())}
}

func (n number) add(m number) number {
	switch {
	case n.special == notANumber || m.special == notANumber, n.special != finite && m.special == -n.special:
		return number{special: notANumber}
	case n.special != finite:
		return n
	case m.special != finite:
		return m
	case n.large == nil && m.large == nil:
		if sum := n.small + m.small; (sum > n.small) == (m.small > 0) {
			return number{small: sum}
		}
	}
	return number{large: new(big.Rat).Add(n.rat(), m.rat())}
}

func (n number) multiply(m number) number {
	switch {
	case n.special == notANumber || m.special == notANumber:
		return number{special: notANumber}
	case n.special != finite || m.special != finite:
		return infinite(n.sign() * m.sign())
	case n.large == nil && m.large == nil && bits.Len64(magnitude(n.small))+bits.Len64(magnitude(m.small)) < 63:
		return number{small: n.small * m.small}
	}
	return number{large: new(big.Rat).Mul(n.rat(), m.rat())}
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}
