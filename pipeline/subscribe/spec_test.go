package subscribe

import (
	"strings"
	"testing"
	"time"
)

func TestParseNamed(t *testing.T) {
	for _, c := range []struct{ text, fallback, name, dsn, err string }{
		{"a=postgres://h/db", "", "a", "postgres://h/db", ""},
		{"a=host=h dbname=d", "", "a", "host=h dbname=d", ""},
		{"a=", "", "a", "", ""},
		{"postgres://h/db?sslmode=disable", "target1", "target1", "postgres://h/db?sslmode=disable", ""},
		{"host=h dbname=d", "target1", "target1", "host=h dbname=d", ""},
		{"replica=host=h", "target1", "replica", "host=h", ""},
		{"postgres://h/db", "", "", "", "has no name"},
		{"host=h dbname=d", "", "", "", "has no name"},
		{"", "", "", "", "has no name"},
		{"A=postgres://h/db", "", "", "", "want a lower-case letter"},
		{"A=postgres://u:secret@h/db", "", "", "", "xxxxx"},
		{"A b=POSTGRES://u:secret@h/db", "", "", "", "xxxxx"},
		{"A b=password=secret", "", "", "", "xxxxx"},
		{"a= postgres://h/db ", "", "a", "postgres://h/db", ""},
	} {
		name, dsn, err := ParseNamed(c.text, c.fallback)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: error %v, want %q", c.text, err, c.err)
			}
			continue
		}
		if err != nil || name != c.name || dsn != c.dsn {
			t.Errorf("%q: %q %q %v, want %q %q", c.text, name, dsn, err, c.name, c.dsn)
		}
	}
}

func TestSelection(t *testing.T) {
	orders, audit := table{schema: "public", name: "orders", permanent: true}, table{schema: "public", name: "audit", permanent: true}
	odd, unlogged := table{schema: "public", name: `Odd.",x`, permanent: true}, table{schema: "public", name: "fleeting", permanent: false}
	for _, c := range []struct {
		patterns string // with blanks between
		in, out  []table
	}{
		{"public.*", []table{orders, audit, odd}, []table{unlogged, {schema: "app", name: "orders", permanent: true}}},
		{"public.fleeting", []table{unlogged}, []table{orders}},
		{"PUBLIC.Orders", []table{orders}, []table{audit}},
		{`public."Orders"`, nil, []table{orders}},
		{`public."Odd."",x"`, []table{odd}, []table{orders}},
		{"-public.audit public.*", []table{orders}, []table{audit}},
		{"public.* -public.a*", []table{orders}, []table{audit}},
		{"*.orders", []table{orders, {schema: "app", name: "orders", permanent: true}}, []table{audit}},
		{"public.o*s", []table{orders}, []table{{schema: "public", name: "order", permanent: true}, {schema: "public", name: "xorders", permanent: true}}},
	} {
		s, err := parseSelection(strings.Fields(c.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range c.in {
			if !s.chooses(in) {
				t.Errorf("%s does not choose %s", c.patterns, in.plain())
			}
		}
		for _, out := range c.out {
			if s.chooses(out) {
				t.Errorf("%s chooses %s", c.patterns, out.plain())
			}
		}
	}
	for _, bad := range []string{"orders", "", "-", "a.b.c", ".b", "a.", `a."b`, "a.b c", "a.b;"} {
		if _, err := parseSelection([]string{bad}); err == nil || !strings.Contains(err.Error(), "Try: ") {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func TestClocks(t *testing.T) {
	names := []Shard{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	ms := time.Millisecond
	for _, c := range []struct {
		offsets [3]time.Duration // of shards; 0 uncertainty for the third: not reached
		want    Severity
		what    string
	}{
		{[3]time.Duration{0, 10 * ms, time.Hour}, Info, "shard b is 10ms ahead of shard a"},
		{[3]time.Duration{0, -600 * ms, time.Hour}, Warning, "shard a is 600ms ahead of shard b"},
		{[3]time.Duration{0, 1003 * ms, time.Hour}, Error, "more than max_clock_skew 1s"},
		{[3]time.Duration{0, 1001 * ms, time.Hour}, Warning, "(± 2ms)"}, // in doubt
	} {
		shards := []shardCheck{{offset: c.offsets[0], uncertainty: ms}, {offset: c.offsets[1], uncertainty: ms}, {offset: c.offsets[2]}}
		got := clocks(names, shards, time.Second)
		if len(got) != 1 || got[0].Severity != c.want || !strings.Contains(got[0].What, c.what) {
			t.Errorf("%v: %+v", c.offsets, got)
		}
	}
	if got := clocks(names, []shardCheck{{uncertainty: ms}, {}, {}}, time.Second); got != nil {
		t.Errorf("one clock alone: %+v", got)
	}
}

// A DSN whose password would not be found is not taken.
func TestMisplacedURL(t *testing.T) {
	for _, text := range []string{"POSTGRES://u:secret@h/db", "x postgres://u:secret@h/db", "host=h postgresql://u:secret@h/db"} {
		err := Spec{Name: "s", Shards: []Shard{{Name: "a", DSN: text}}}.Validate()
		if err == nil || !strings.Contains(err.Error(), "neither a URL nor keywords") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (Spec{Name: "s", Shards: []Shard{{Name: "a", DSN: "postgresql://u@h/db"}}}).Validate(); err != nil {
		t.Error(err)
	}
}
