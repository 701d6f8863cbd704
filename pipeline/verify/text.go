package verify

import (
	"crypto/md5"
	"encoding/hex"
	"strings"
)

// value is a column's value as PostgreSQL's output function writes it.
type value struct {
	text string
	null bool
}

// recordText is what PostgreSQL makes of ROW(…)::text (record_out).
func recordText(values []value) string {
	var b strings.Builder
	b.WriteByte('(')
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		if v.null {
			continue
		}
		if v.text != "" && !strings.ContainsAny(v.text, "\"\\(), \t\n\r\v\f") {
			b.WriteString(v.text)
			continue
		}
		b.WriteByte('"')
		for j := range len(v.text) {
			if c := v.text[j]; c == '"' || c == '\\' {
				b.WriteByte(c)
			}
			b.WriteByte(v.text[j])
		}
		b.WriteByte('"')
	}
	b.WriteByte(')')
	return b.String()
}

// digest is PostgreSQL's md5(text). Nobody attacks it: it tells rows apart that have no key.
func digest(text string) string {
	sum := md5.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}
