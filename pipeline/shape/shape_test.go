package shape

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pattern"
)

// TestParseRefuses: every fault is told at once, and says where.
func TestParseRefuses(t *testing.T) {
	for _, test := range []struct{ yaml, want string }{
		{"", "s.yaml is empty"},
		{"tables: []", "the shape has no rule"},
		{"tables: [{table: public.a, exclude: true}]\n---\na: 1", "want one document"},
		{"tables:\n  - table: public.a\n    exlude: true\n    mask: {x: {hush: 1}}", "s.yaml: line 3: key \"exlude\" is unknown. Try: table, exclude, columns,"},
		{"tables:\n  - table: public.a\n    exlude: true\n    mask: {x: {hush: 1}}", "s.yaml: line 4: key \"hush\" is unknown. Try: hash, redact, truncate, nullify"},
		{"tables: [{table: public.a, columns: 3}]", "s.yaml: line 1: cannot unmarshal !!int"},
		{"tables: [{table: a, exclude: true}]", "names no schema"},
		{"tables: [{table: -public.a, exclude: true}]", "a pattern of a rule has no -"},
		{"tables: [{table: public.a}]", "rule public.a (line 1): the rule does nothing"},
		{"tables: [{table: public.a, exclude: true, rename: a.b}]", "exclude leaves nothing for the other keys to do"},
		{"tables: [{table: public.a, columns: [a], exclude_columns: [b]}]", "columns and exclude_columns exclude each other"},
		{"tables: [{table: public.a, columns: [a, a]}]", "columns names \"a\" twice"},
		{"tables: [{table: public.a, rename: b}]", "want schema.table"},
		{"tables: [{table: 'public.*', rename: x.b}]", "would give one name to every table of the pattern"},
		{"tables: [{table: public.a, rename_columns: {a: x, b: x}}]", "gives the name \"x\" to two columns"},
		{"tables: [{table: public.a, route: _tx}]", "none of which begins with _"},
		{"tables: [{table: public.a, route: 'a.*'}]", "want up to 8 words"},
		{"tables: [{table: public.a, mask: {x: {hash: 'swordfish-swordfish'}}}]", "hash does not name an environment variable of the node"},
		{"tables: [{table: public.a, mask: {x: {}}}]", "mask of column x: want exactly one way"},
		{"tables: [{table: public.a, mask: {x: {nullify: true, truncate: 3}}}]", "want exactly one way"},
		{"tables: [{table: public.a, mask: {x: {truncate: -3}}}]", "truncate -3: want the number of characters"},
		{"tables:\n  - table: public.a\n    rows: 'a >'", "s.yaml: rule public.a (line 2): rows, line 3, column 14: unexpected token EOF\n  | a >\n  |   ^"},
		{"tables:\n  - table: public.a\n    rows: |\n      a > 1 and\n      b >", "rows, line 2, column 3: unexpected token EOF\n  | b >"},
	} {
		_, err := Parse("s.yaml", []byte(test.yaml))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "swordfish") {
			t.Errorf("%s\ngot  %v\nwant %s", test.yaml, err, test.want)
		}
	}
}

const everything = `
tables:
  - {table: public.a, rows: 'id > 0', rename: '*.b', rename_columns: {region: r}, key: [id], route: vip.a,
     mask: {region: {hash: "${KEY}"}, code: {redact: ""}, balance: {nullify: true}}}
  - {table: '"Odd"."T.x"', columns: [id, region]}
  - {table: 'public.*', exclude: true}
`

// TestStored: what is stored is what was written, and unknown fields of a later release are refused.
func TestStored(t *testing.T) {
	s, err := Parse("s.yaml", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	got := &Shape{}
	if err := json.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	if err := got.Validate(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got, cmpopts.IgnoreUnexported(Table{}), cmp.AllowUnexported(pattern.Pattern{})); diff != "" {
		t.Error(diff)
	}
	if err := json.Unmarshal([]byte(`{"tables":[{"table":"a.b","later":1}]}`), &Shape{}); err == nil || !strings.Contains(err.Error(), "Try: upgrade") {
		t.Error(err)
	}
	if r := got.Rule("public", "a"); r == nil || r.Route != "vip.a" || got.Rule("Odd", "T.x") != &got.Tables[1] || got.Rule("x", "y") != nil {
		t.Error("another rule counts")
	}
	if got.Alters("x", "y") || !got.Alters("public", "a") || !got.Excluded("public", "z") {
		t.Error("what is altered")
	}
	if schema, name := got.Name("public", "a"); schema+"."+name != "public.b" {
		t.Error(schema, name)
	}
	if diff := cmp.Diff([]string{"id", "r"}, got.Columns("public", "a", []string{"id", "region"})); diff != "" {
		t.Error(diff)
	}
}

// TestBindRefuses: what a rule cannot do with a table is told before anything is made.
func TestBindRefuses(t *testing.T) {
	byKey := accounts() // its replica identity is its key
	byKey.Identity = 'd'
	full := accounts()
	for i := range full.Columns {
		full.Columns[i].Key = true
	}
	varchar := accounts()
	varchar.Columns[1].Type, varchar.Columns[1].Modifier = 1043, 4+3
	for _, test := range []struct {
		of         *pipeline.Relation
		rule, want string // want "": it is possible
	}{
		{byKey, "columns: [id, region]", ""},
		{byKey, "columns: [region]", `column "id" is part of the replica identity, and without it nobody finds the row`},
		{byKey, "exclude_columns: [id]", `column "id" is part of the replica identity`},
		{byKey, "columns: [id, nope]", `columns: there is no column "nope"`},
		{byKey, "columns: [id], mask: {region: {nullify: true}}", `column "region" is left out, and another key of the rule speaks of it`},
		{byKey, "rows: 'balance > 0'", `rows: column "balance" is not part of the replica identity`},
		{byKey, "rows: 'id > 0'", ""},
		{full, "rows: 'balance > 0'", ""},
		{full, "exclude_columns: [id]", ""},
		{full, "key: [id, region]", ""},
		{byKey, "key: [region]", `key: column "region" is not part of the replica identity`},
		{full, "key: [id], exclude_columns: [id]", `column "id" is left out`},
		{full, "key: [id], mask: {id: {nullify: true}}", "mask of column id: it identifies rows, and nullify would make many the same. Try: hash"},
		{byKey, "mask: {id: {redact: '0'}}", "mask of column id: it identifies rows, and redact would make many the same"},
		{byKey, "mask: {id: {hash: '${KEY}'}}", ""},
		{byKey, "mask: {balance: {truncate: 3}}", "truncate is for texts, and the column is numeric"},
		{byKey, "mask: {opened: {redact: '2026-01-01'}}", "does not fit type timestamptz"},
		{byKey, "mask: {balance: {redact: '0'}, active: {redact: f}, region: {redact: anything}, Odd name: {redact: '7'}}", ""},
		{byKey, "mask: {balance: {redact: '0.5'}}", "does not fit type numeric"},
		{byKey, "mask: {Odd name: {redact: '3000000000'}}", "does not fit type int4"},
		{byKey, "mask: {level: {redact: low}}", "does not fit type public.level"},
		{varchar, "mask: {region: {redact: four}}", "does not fit type varchar"},
		{varchar, "mask: {region: {redact: äöü}}", ""},
		{byKey, "rename_columns: {region: balance}", `two columns would be called "balance"`},
		{byKey, "rename_columns: {region: balance, balance: region}", ""},
	} {
		s, err := Parse("s.yaml", []byte("tables: [{table: public.accounts, "+test.rule+"}]"))
		if err != nil {
			t.Errorf("%s: %v", test.rule, err)
			continue
		}
		_, err = s.Tables[0].bind(test.of)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\ngot  %v\nwant %s", test.rule, err, test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	full, byKey := accounts(), accounts()
	byKey.Identity = 'd'
	for i := range full.Columns {
		full.Columns[i].Key = true
	}
	for _, test := range []struct {
		of         *pipeline.Relation
		rule, want string // want: the first letter says whether it is a fault
	}{
		{full, "key: [region]", "F key: no unique index says that (region) names one row"},
		{full, "key: [id, region]", ""},
		{full, "mask: {id: {redact: '0'}}", "F mask of column id: it is unique, and redact would make many the same"},
		{full, "mask: {id: {hash: '${KEY}'}}", ""},
		{full, "mask: {region: {nullify: true}}", "W mask of column region: it is NOT NULL"},
		{byKey, "rows: 'id > 0'", "W rows: an update that lets a row in and does not touch a large value of (region, balance) stops the stream"},
		{byKey, "rows: 'id > 0', columns: [id]", ""},
		{full, "rows: 'id > 0'", ""},
		{full, "rows: 'nope > 0'", `F table public.accounts: rows, line 1, column 42: the table has no column "nope"`},
	} {
		s, err := Parse("s.yaml", []byte("tables: [{table: public.accounts, "+test.rule+"}]"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range s.Check(&Facts{Relation: test.of, Unique: [][]string{{"id"}}, Large: []string{"region", "balance"}, NotNull: []string{"id", "region"}}) {
			got = append(got, map[bool]string{true: "F ", false: "W "}[f.Fault]+strings.TrimPrefix(f.Text, "rule public.accounts (line 1): "))
		}
		all := strings.Join(got, "\n")
		kind, text, _ := strings.Cut(test.want, " ")
		if (all == "") != (test.want == "") || !strings.HasPrefix(all, kind) || !strings.Contains(all, text) {
			t.Errorf("%s\ngot  %s\nwant %s", test.rule, all, test.want)
		}
	}
}

func TestTablesTogether(t *testing.T) {
	s, err := Parse("s.yaml", []byte("tables: [{table: public.a, rename: public.b}, {table: public.c, exclude: true}, {table: 'later.*', rename: 'x.*'}, {table: public.d, exclude: true}]"))
	if err != nil {
		t.Fatal(err)
	}
	tables := [][2]string{{"public", "a"}, {"public", "b"}, {"public", "c"}, {"public", "a"}}
	if err := s.CheckNames(tables); err == nil || !strings.Contains(err.Error(), "tables public.a and public.b would both be public.b in the stream. Try: another rename") {
		t.Error(err)
	}
	var got []string
	for _, f := range s.CheckUse(tables) {
		got = append(got, map[bool]string{true: "F ", false: "W "}[f.Fault]+f.Text[:len("rule later.*")])
	}
	if diff := cmp.Diff([]string{"W rule later.*", "F rule public."}, got); diff != "" {
		t.Error(diff)
	}
}
