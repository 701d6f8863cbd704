package pattern_test

import (
	"testing"

	"shardcdc/pipeline/pattern"
)

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, schema, name string
		want                  bool
	}{
		{"public.*", "public", "T", true},
		{"public.*", "publi", "t", false},
		{"*.*", "x", "y", true},
		{"Public.Orders", "public", "orders", true},
		{`public."Orders"`, "public", "orders", false},
		{`public."a.b""*"`, "public", `a.b"*`, true},
		{`public."*"`, "public", "x", false},
		{"public.ord*_20*", "public", "orders_2024", true},
		{"public.ord*_20*", "public", "ord_19", false},
		{"public.a*a", "public", "a", false},
		{"public.a*a", "public", "aa", true},
		{"public.*b*", "public", "abc", true},
		{"s_*.t", "s_1", "t", true},
		{"public.GRÖSSE", "public", "grÖsse", true},
		{"public.GRÖSSE", "public", "grösse", false},
		{"public.größe", "public", "größe", true},
	} {
		p, err := pattern.Parse(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(test.schema, test.name); got != test.want {
			t.Errorf("%s matches %s.%s: %v", test.pattern, test.schema, test.name, got)
		}
	}
}
