package pgtype

import (
	"strconv"
	"strings"
	"testing"
)

// shown writes what it is told.
type shown struct{ strings.Builder }

func (s *shown) Open()  { s.WriteString("(") }
func (s *shown) Close() { s.WriteString(")") }
func (s *shown) Element(text []byte, null bool) {
	if null {
		s.WriteString(" NULL")
		return
	}
	s.WriteString(" " + strconv.Quote(string(text)))
}

func TestWalkArray(t *testing.T) {
	for _, c := range []struct {
		text      string
		delimiter byte
		want      string
	}{
		{`{}`, ',', `()`},
		{`{NULL}`, ',', `( NULL)`},
		{`{1,NULL,3}`, ',', `( "1" NULL "3")`},
		{`{{1,2},{3,4}}`, ',', `(( "1" "2")( "3" "4"))`},
		{`[0:2]={1,2,3}`, ',', `[0:2]( "1" "2" "3")`},
		{`[2:3][-1:0]={{1,2},{3,4}}`, ',', `[2:3][-1:0](( "1" "2")( "3" "4"))`},
		{`{"",NULL,"NULL",NULL}`, ',', `( "" NULL "NULL" NULL)`},
		{`{"a,b","c\"d","e\\f","{x}"," sp "}`, ',', `( "a,b" "c\"d" "e\\f" "{x}" " sp ")`},
		{`{"{\"a\": 1}"}`, ',', `( "{\"a\": 1}")`},
		{`{"\\x00ff"}`, ',', `( "\\x00ff")`},
		{`{NaN,1.10,Infinity}`, ',', `( "NaN" "1.10" "Infinity")`},
		{`{(1,1),(0,0);(2,2),(0,0)}`, ';', `( "(1,1),(0,0)" "(2,2),(0,0)")`},
	} {
		var s shown
		bounds, err := WalkArray([]byte(c.text), c.delimiter, &s)
		if got := bounds + s.String(); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.text, got, err, c.want)
		}
	}
}

func TestWalkArrayRefuses(t *testing.T) {
	for _, text := range []string{``, `1`, `{`, `{1`, `{1,`, `{1,}`, `{,1}`, `{1}2`, `{"a}`, `{"a\`, `[0:1`, `[0:1]=`, `{a"b}`, `{a\b}`, `{"a"b}`, `{{{{{{{1}}}}}}}`} {
		if _, err := WalkArray([]byte(text), ',', &shown{}); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
