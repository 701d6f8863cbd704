// Package pattern is how people name tables, wherever they may name many.
package pattern

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Pattern is what people write for tables: schema.table, where each part is a name, a "quoted name", or a name with *
// in it for any characters. Of an unquoted name the ASCII letters are folded to lower case, as PostgreSQL does. A - in
// front excludes what others match.
type Pattern struct {
	Exclude       bool
	text          string // without the -
	schema, table part
}

type part struct {
	text string
	wild bool
}

// Parse reads a pattern.
func Parse(s string) (Pattern, error) {
	s, exclude := strings.CutPrefix(s, "-")
	p := Pattern{Exclude: exclude, text: s}
	schema, rest, err := parsePart(s)
	if err != nil {
		return p, fmt.Errorf("table pattern %q: %w", s, err)
	}
	if !strings.HasPrefix(rest, ".") {
		return p, fmt.Errorf("table pattern %q names no schema. Try: public.%s", s, s)
	}
	table, rest, err := parsePart(rest[1:])
	if err != nil {
		return p, fmt.Errorf("table pattern %q: %w", s, err)
	}
	if rest != "" {
		return p, fmt.Errorf("table pattern %q: %q is left over. Try: schema.table, schema.*, or \"Quoted\".\"Names\"", s, rest)
	}
	p.schema, p.table = schema, table
	return p, nil
}

func parsePart(s string) (p part, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, '.')
		if end < 0 {
			end = len(s)
		}
		text := fold(s[:end])
		if text == "" || strings.ContainsAny(text, " \t\"',;") {
			return p, "", fmt.Errorf("%q is no name. Try: quote it", text)
		}
		return part{text: text, wild: strings.Contains(text, "*")}, s[end:], nil
	}
	var name strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			name.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			name.WriteByte('"')
			i++
			continue
		}
		if name.Len() == 0 {
			break
		}
		return part{text: name.String()}, s[i+1:], nil
	}
	return p, "", errors.New("a quoted name is empty or does not end. Try: \"Name\", with \"\" for a quote in it")
}

// fold is PostgreSQL's for unquoted names in UTF-8: other letters than those of ASCII stay as they are.
func fold(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (p part) match(name string) bool {
	if !p.wild {
		return p.text == name
	}
	pieces := strings.Split(p.text, "*")
	if !strings.HasPrefix(name, pieces[0]) {
		return false
	}
	name = name[len(pieces[0]):]
	last := len(pieces) - 1
	for _, piece := range pieces[1:last] {
		i := strings.Index(name, piece)
		if i < 0 {
			return false
		}
		name = name[i+len(piece):]
	}
	return strings.HasSuffix(name, pieces[last])
}

// String is the pattern as it was written, without the -.
func (p Pattern) String() string { return p.text }

// Match reports whether the pattern matches the table.
func (p Pattern) Match(schema, name string) bool {
	return p.schema.match(schema) && p.table.match(name)
}

// Wild reports whether the pattern may match several tables.
func (p Pattern) Wild() bool { return p.schema.wild || p.table.wild }

// Regexps are PostgreSQL's for the parts of a pattern. Its names contain no newline that . would have to match: it does.
func (p Pattern) Regexps() (schema, table string) { return p.schema.regexp(), p.table.regexp() }

func (p part) regexp() string {
	if !p.wild {
		return "^" + regexp.QuoteMeta(p.text) + "$"
	}
	pieces := strings.Split(p.text, "*")
	for i, piece := range pieces {
		pieces[i] = regexp.QuoteMeta(piece)
	}
	return "^" + strings.Join(pieces, ".*") + "$"
}
