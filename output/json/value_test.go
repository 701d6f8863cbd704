package json

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"shardcdc/pipeline"
)

// slowText is appendText byte by byte, the oracle of what it does in eights.
func slowText(s string) string {
	if !utf8.ValidString(s) {
		return string(appendBase64(nil, []byte(s)))
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r < ' ' || r == '"' || r == '\\':
			b.Write(appendEscape(nil, byte(r)))
		case r == '\u2028':
			b.WriteString(`\u2028`)
		case r == '\u2029':
			b.WriteString(`\u2029`)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Whatever stands out is found at every place, alone and beside another.
func TestTextAtEveryPlace(t *testing.T) {
	special := []string{"\"", "\\", "\x00", "\n", "\x1f", " ", "\x7f", "ä", "\u2028", "\u2029", "\u202a", "\U0001F600", "\xff", "\xed\xa0\x80", "\xe2\x80", "!", "#", "[", "]"}
	for n := range 20 {
		for at := range n + 1 {
			for _, a := range special {
				for _, b := range append(special, "") {
					s := strings.Repeat("x", at) + a + strings.Repeat("~", n-at) + b
					if got, want := string(appendText(nil, []byte(s))), slowText(s); got != want {
						t.Fatalf("%q: %s, want %s", s, got, want)
					}
				}
			}
		}
	}
}

func TestTime(t *testing.T) {
	for _, at := range []pipeline.Timestamp{0, 1, -1, 999_999, 1_000_000, 834_570_000_123_456, -946_684_800_000_000, math.MaxInt64 / 2000, math.MinInt64 / 2000} {
		want := at.Time().UTC().AppendFormat(nil, "2006-01-02T15:04:05.000000Z")
		if got := appendTime(nil, at); !bytes.Equal(got, want) {
			t.Errorf("%d: %s, want %s", at, got, want)
		}
	}
}
