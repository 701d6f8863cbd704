package ddl

import (
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline/mark"
)

// The text of statements: enough of SQL's lexical rules (PostgreSQL documentation, "Lexical Structure") to tell statements
// from each other and what kind they are. Whatever is not understood is not guessed.

// token of a statement. Comments and blanks are none.
type token struct {
	kind tokenKind
	text string // of a word in lower case, of a quoted identifier without the quotes; else as it is written
	from int    // in the source
	to   int
}

type tokenKind uint8

const (
	word   tokenKind = iota // keyword or identifier
	quoted                  // "identifier"
	text                    // a string constant of any form
	number
	symbol // one character
)

// is says whether the token is this keyword, or this character.
func (t token) is(what string) bool { return (t.kind == word || t.kind == symbol) && t.text == what }

// name is the identifier that a token is.
func (t token) name() (string, bool) { return t.text, t.kind == word || t.kind == quoted }

// phrase is a text of one statement.
type phrase struct {
	tokens []token
	source string
}

func (s phrase) String() string {
	if len(s.tokens) == 0 {
		return ""
	}
	return s.source[s.tokens[0].from:s.tokens[len(s.tokens)-1].to]
}

// normal is the statement without comments and differences of blanks and case: the same for the same statement.
func (s phrase) normal() string {
	var b strings.Builder
	for i, t := range s.tokens {
		if i > 0 {
			b.WriteByte(' ')
		}
		if t.kind == quoted {
			b.WriteString(Quote(t.text))
		} else {
			b.WriteString(t.text)
		}
	}
	return b.String()
}

// starts says whether the statement has these keywords from token i on.
func (s phrase) starts(i int, words ...string) bool {
	if i < 0 || i+len(words) > len(s.tokens) {
		return false
	}
	for n, w := range words {
		if !s.tokens[i+n].is(w) {
			return false
		}
	}
	return true
}

// slice is a part of the statement.
func (s phrase) slice(from, to int) phrase { return phrase{s.tokens[from:to], s.source} }

// without takes tokens that match a keyword out of the text.
func (s phrase) without(keyword string) phrase {
	var b strings.Builder
	at := s.tokens[0].from
	for _, t := range s.tokens {
		if t.is(keyword) && t.kind == word {
			b.WriteString(s.source[at:t.from])
			at = t.to
		}
	}
	b.WriteString(s.source[at:s.tokens[len(s.tokens)-1].to])
	all, err := statements(b.String(), false)
	if err != nil || len(all) != 1 {
		return s // cannot be: a word less makes no other tokens
	}
	return all[0]
}

// parts splits at commas outside of brackets.
func (s phrase) parts() (parts []phrase) {
	depth, from := 0, 0
	for i, t := range s.tokens {
		depth += bracket(t)
		if depth == 0 && t.is(",") {
			parts = append(parts, s.slice(from, i))
			from = i + 1
		}
	}
	return append(parts, s.slice(from, len(s.tokens)))
}

func bracket(t token) int {
	switch {
	case t.is("("), t.is("["):
		return 1
	case t.is(")"), t.is("]"):
		return -1
	}
	return 0
}

// bracketed says that the tokens from i on are one pair of brackets and what is in it.
func (s phrase) bracketed(i int) bool {
	depth := 0
	for n := i; n < len(s.tokens); n++ {
		if depth += bracket(s.tokens[n]); depth == 0 {
			return n > i && n == len(s.tokens)-1
		}
	}
	return false
}

// statements splits a text at semicolons. Backslashes says that they mean something in ordinary strings
// (standard_conforming_strings off).
func statements(source string, backslashes bool) (all []phrase, err error) {
	tokens, err := lex(source, backslashes)
	if err != nil {
		return nil, err
	}
	from, depth := 0, 0
	end := func(to int) {
		if to > from {
			all = append(all, phrase{tokens[from:to], source})
		}
		from = to + 1
	}
	for i, t := range tokens {
		depth += bracket(t)
		switch {
		case t.is("atomic") && i > 0 && tokens[i-1].is("begin"):
			return nil, fmt.Errorf("a body in BEGIN ATOMIC is not taken apart")
		case t.is(";") && depth == 0:
			end(i)
		}
	}
	end(len(tokens))
	return all, nil
}

func lex(s string, backslashes bool) (tokens []token, err error) {
	for i := 0; i < len(s); {
		from := i
		kind := symbol
		switch c := s[i]; {
		case strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			i++
			continue
		case strings.HasPrefix(s[i:], "--"):
			if i = lineEnd(s, i); i < 0 {
				return tokens, nil
			}
			continue
		case strings.HasPrefix(s[i:], "/*"):
			if i = commentEnd(s, i); i < 0 {
				return nil, fmt.Errorf("a comment does not end")
			}
			continue
		case c == '\'':
			kind, i = text, stringEnd(s, i, backslashes)
		case (c == 'e' || c == 'E') && strings.HasPrefix(s[i+1:], "'"):
			kind, i = text, stringEnd(s, i+1, true)
		case strings.IndexByte("bBxXnN", c) >= 0 && strings.HasPrefix(s[i+1:], "'"):
			kind, i = text, stringEnd(s, i+1, backslashes)
		case (c == 'u' || c == 'U') && strings.HasPrefix(s[i+1:], "&") && len(s) > i+2 && (s[i+2] == '\'' || s[i+2] == '"'):
			return nil, fmt.Errorf("names and strings of the form U&… are not taken apart")
		case c == '"':
			kind, i = quoted, quoteEnd(s, i)
		case c == '$' && dollar(s[i:]) != "":
			kind, i = text, dollarEnd(s, i)
		case c >= '0' && c <= '9':
			kind = number
			for i < len(s) && (wordByte(s[i]) || s[i] == '.') {
				i++
			}
		case wordByte(c) && c != '$':
			kind = word
			for i < len(s) && wordByte(s[i]) {
				i++
			}
		default:
			i++
		}
		if i < 0 {
			return nil, fmt.Errorf("a string or a quoted name does not end")
		}
		tokens = append(tokens, made(kind, s, from, i))
	}
	return tokens, nil
}

func made(kind tokenKind, s string, from, to int) token {
	t := token{kind: kind, text: s[from:to], from: from, to: to}
	switch kind {
	case word:
		t.text = lower(t.text)
	case quoted:
		t.text = strings.ReplaceAll(s[from+1:to-1], `""`, `"`)
	case text, number, symbol:
	}
	return t
}

// lower folds the letters of ASCII, as PostgreSQL does in UTF-8.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func wordByte(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func lineEnd(s string, i int) int {
	n := strings.IndexAny(s[i:], "\r\n")
	if n < 0 {
		return -1
	}
	return i + n + 1
}

// commentEnd: comments nest.
func commentEnd(s string, i int) int {
	depth := 0
	for i < len(s)-1 {
		switch s[i : i+2] {
		case "/*":
			depth++
			i += 2
		case "*/":
			depth--
			i += 2
			if depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return -1
}

func stringEnd(s string, i int, backslashes bool) int {
	for i++; i < len(s); i++ {
		switch {
		case backslashes && s[i] == '\\':
			i++
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		case s[i] == '\'':
			return i + 1
		}
	}
	return -1
}

func quoteEnd(s string, i int) int {
	for i++; i < len(s); i++ {
		if s[i] != '"' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			i++
			continue
		}
		return i + 1
	}
	return -1
}

// dollar is the $tag$ that s begins with.
func dollar(s string) string {
	for i := 1; i < len(s); i++ {
		if s[i] == '$' {
			return s[:i+1]
		}
		if !wordByte(s[i]) || i == 1 && '0' <= s[i] && s[i] <= '9' {
			return ""
		}
	}
	return ""
}

func dollarEnd(s string, i int) int {
	tag := dollar(s[i:])
	n := strings.Index(s[i+len(tag):], tag)
	if n < 0 {
		return -1
	}
	return i + n + 2*len(tag)
}

// tag is PostgreSQL's command tag, of the statements that are captured; of others something that is none of these.
func (s phrase) tag() string {
	i := 1
	for i < len(s.tokens) && slices.Contains([]string{"or", "replace", "global", "local", "temp", "temporary", "unlogged", "unique"}, s.tokens[i].text) && s.tokens[i].kind == word {
		i++
	}
	if i >= len(s.tokens) || s.tokens[0].kind != word {
		return ""
	}
	tag := strings.ToUpper(s.tokens[0].text + " " + s.tokens[i].text)
	if tag == "CREATE TABLE" && s.top("as") >= 0 {
		return "CREATE TABLE AS"
	}
	if s.tokens[0].is("select") || s.tokens[0].is("with") {
		return "SELECT INTO"
	}
	return tag
}

// top finds a keyword outside of brackets; -1: it is not there.
func (s phrase) top(keyword string) int {
	depth := 0
	for i, t := range s.tokens {
		depth += bracket(t)
		if depth == 0 && t.kind == word && t.text == keyword {
			return i
		}
	}
	return -1
}

// statementOf finds the statement that a mark is about in the text that it came with; why says why it cannot be told.
func statementOf(d *mark.DDL) (s phrase, why string) {
	if d.Inexact != "" {
		return s, d.Inexact
	}
	all, err := statements(d.Statement, d.Settings["standard_conforming_strings"] == "off")
	if err != nil {
		return s, err.Error()
	}
	var same []phrase
	for _, one := range all {
		if one.tag() == d.Tag {
			same = append(same, one)
		}
	}
	switch {
	case len(same) == 0:
		return s, fmt.Sprintf("the client's text shows no %s", d.Tag)
	case len(same) == 1:
		return same[0], ""
	case d.Nested, slices.ContainsFunc(beforeCommit(all), controls):
		return s, fmt.Sprintf("the client's text has %d statements of %s, and which of them ran cannot be told", len(same), d.Tag)
	case d.Nth < 1 || d.Nth > len(same):
		return s, fmt.Sprintf("the client's text has %d statements of %s, and this is number %d", len(same), d.Tag, d.Nth)
	}
	return same[d.Nth-1], ""
}

// beforeCommit leaves out a COMMIT or PREPARE TRANSACTION at the end, as in files of migrations: nothing stands behind it.
func beforeCommit(all []phrase) []phrase {
	if last := all[len(all)-1]; last.starts(0, "commit") || last.starts(0, "end") || last.starts(0, "prepare", "transaction") {
		return all[:len(all)-1]
	}
	return all
}

// controls says that a statement begins, ends or takes back a transaction or a part of it: what stood before may not count.
func controls(s phrase) bool {
	return slices.Contains([]string{"commit", "end", "rollback", "abort", "savepoint", "release", "prepare"}, s.tokens[0].text)
}
