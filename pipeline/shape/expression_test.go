package shape

import (
	"strings"
	"testing"

	"shardcdc/pipeline"
)

// accounts has a column of every kind.
func accounts() *pipeline.Relation {
	columns := []pipeline.Column{
		{Name: "id", Key: true, Type: 20},
		{Name: "region", Type: 25},
		{Name: "balance", Type: 1700},
		{Name: "active", Type: 16},
		{Name: "opened", Type: 1184},
		{Name: "born", Type: 1082},
		{Name: "tag", Type: 2950},
		{Name: "Odd name", Type: 23},
		{Name: "code", Type: 1042},
		{Name: "ratio", Type: 701},
		{Name: "level", Type: 20000},
		{Name: "dom", Type: 20001},
	}
	for i := range columns {
		columns[i].Modifier = -1
	}
	return &pipeline.Relation{
		ID: 7, Namespace: "public", Name: "accounts", Identity: 'f', Columns: columns,
		Types: []pipeline.Type{{OID: 20000, Namespace: "public", Name: "level"}, {OID: 20001, Namespace: "pg_catalog", Name: "int4"}},
	}
}

func one(text string) pipeline.Value {
	if text == "NULL" {
		return pipeline.Value{Kind: pipeline.Null}
	}
	return pipeline.Value{Kind: pipeline.Text, Data: []byte(text)}
}

func TestExpressions(t *testing.T) {
	r := accounts()
	base := []string{"9007199254740993", "eu", "0.1", "t", "2026-01-31 12:00:00.5+05:30", "0044-03-15 BC", "6f1c0d3e-0000-4000-8000-000000000001", "-3", "ab   ", "0.1", "high", "4"}
	for _, test := range []struct {
		source string
		want   string // true, false, null
		with   map[int]string
	}{
		{source: "true", want: "true"},
		{source: `balance > 0 && region in ["eu"]`, want: "true"},
		{source: `balance == 0.1 and balance * 3 == 0.3 and balance + 0.2 == 0.3`, want: "true"},
		{source: `balance == 0.10000000000000000000000000001`, want: "false"},
		{source: `balance == 0.10000000000000000000000000001`, with: map[int]string{2: "0.10000000000000000000000000001"}, want: "true"},
		{source: `id == 9007199254740993 and id != 9007199254740992.0 and id - 1 == 9007199254740992`, want: "true"},
		{source: `id * id > 81129638414606681695789005144063.5 and id + id > id and -id < 0`, want: "true"},
		{source: `id + 1 > 9223372036854775807`, with: map[int]string{0: "9223372036854775807"}, want: "true"},
		{source: `balance > 1000000000`, with: map[int]string{2: "NaN"}, want: "true"},
		{source: `balance < 0`, with: map[int]string{2: "-Infinity"}, want: "true"},
		{source: `ratio == 0.1 and ratio < 1`, want: "true"},
		{source: `ratio > 1`, with: map[int]string{9: "1e+308"}, want: "true"},
		{source: `region == "eu" or balance > 0`, with: map[int]string{1: "NULL"}, want: "true"},
		{source: `region == "eu"`, with: map[int]string{1: "NULL"}, want: "null"},
		{source: `region != "eu"`, with: map[int]string{1: "NULL"}, want: "null"},
		{source: `not (region == "eu")`, with: map[int]string{1: "NULL"}, want: "null"},
		{source: `region == "us" and balance > 5`, with: map[int]string{1: "NULL"}, want: "false"},
		{source: `region == nil`, with: map[int]string{1: "NULL"}, want: "true"},
		{source: `region != nil`, with: map[int]string{1: "NULL"}, want: "false"},
		{source: `nil == region`, want: "false"},
		{source: `(region ?? "none") == "none"`, with: map[int]string{1: "NULL"}, want: "true"},
		{source: `region in ["us", "eu"]`, with: map[int]string{1: "NULL"}, want: "null"},
		{source: `region not in ["us", "fr"]`, want: "true"},
		{source: `active`, want: "true"},
		{source: `!active`, want: "false"},
		{source: `active`, with: map[int]string{3: "NULL"}, want: "null"},
		{source: `active == true and active != false`, want: "true"},
		{source: `opened == "2026-01-31 06:30:00.5Z" and opened < "2026-01-31T08:00:00+01:00"`, want: "true"},
		{source: `opened > "infinity"`, want: "false"},
		{source: `opened == "infinity"`, with: map[int]string{4: "infinity"}, want: "true"},
		{source: `born < "0001-01-01"`, want: "true"},
		{source: `born > "9999-12-31"`, with: map[int]string{5: "10000-01-01"}, want: "true"},
		{source: `tag == "6f1c0d3e-0000-4000-8000-000000000001"`, want: "true"},
		{source: `level in ["high", "higher"] and dom == 4`, want: "true"},
		{source: `$env["Odd name"] < 0`, want: "true"},
		{source: `code == "ab"`, want: "true"},
		{source: `lower(upper(region)) == "eu" and len(region) == 2 and trim(" eu ") == region and abs(dom - 5) == 1`, want: "true"},
		{source: `len(region) == 3`, with: map[int]string{1: "äöü"}, want: "true"},
		{source: `region matches "^e.$" and region contains "u" and region startsWith "e" and not (region endsWith "e")`, want: "true"},
		{source: `active ? region == "eu" : false`, want: "true"},
		{source: `0 < dom < 5`, want: "true"},
		{source: `"0044-03-15 BC" in [born] and "6f1c0d3e-0000-4000-8000-000000000001" in [tag]`, want: "true"},
		{source: `"2026-01-01" not in ["2027-01-01", born]`, want: "true"},
		{source: `"2026-01-01" in [born]`, with: map[int]string{5: "NULL"}, want: "null"},
	} {
		values := make([]pipeline.Value, len(base))
		for i, text := range base {
			if v, ok := test.with[i]; ok {
				text = v
			}
			values[i] = one(text)
		}
		e, err := parseExpression(test.source, position{})
		if err != nil {
			t.Errorf("%s: %v", test.source, err)
			continue
		}
		f, err := e.bind(columnsOf(r))
		if err != nil {
			t.Errorf("%s: %v", test.source, err)
			continue
		}
		v, err := f.eval(row{r, values})
		if err != nil {
			t.Errorf("%s: %v", test.source, err)
			continue
		}
		got := map[[2]bool]string{{true, false}: "true", {false, false}: "false", {true, true}: "null", {false, true}: "null"}[[2]bool{v.truth, v.null}]
		if got != test.want {
			t.Errorf("%s is %s, want %s", test.source, got, test.want)
		}
		if passes, _ := f.passes(row{r, values}); passes != (test.want == "true") {
			t.Errorf("%s: passes %v", test.source, passes)
		}
	}
}

func TestExpressionsAreRefused(t *testing.T) {
	for _, test := range []struct{ source, want string }{
		{`balanse > 0`, `rows, line 5, column 12: the table has no column "balanse"
  | balanse > 0
  | ^`},
		{`region == 1`, "column 19: a text and a number cannot be put together\n  | region == 1\n  |        ^"},
		{`balance > "x"`, "a number and a text cannot be put together"},
		{`balance >`, "unexpected token EOF"},
		{`balance + 1`, "the expression is a number, and has to be a boolean"},
		{`balance`, "the expression is a number, and has to be a boolean"},
		{`region > nil`, "nothing is > nil: a comparison with NULL is never true. Try: == nil or != nil"},
		{`region in [nil]`, "NULL is in no list"},
		{`region in balance`, "a list has to stand behind in"},
		{`tag < "6f"`, "a value of another type has no order here. Try: == or !="},
		{`active < true`, "a boolean has no order here"},
		{`opened > "yesterday"`, `"yesterday" is no date and no time`},
		{`opened > "2026-01-31"`, `"2026-01-31" has no offset from UTC, and a timestamptz has one. Try: "2026-01-31 00:00Z"`},
		{`born > "2026-01-31 00:00Z"`, "has an offset from UTC, and a timestamp or date has none"},
		{`born > opened`, "a date or timestamp and a timestamptz cannot be put together"},
		{`balance / 2 > 1`, "the operator / is not possible"},
		{`now() > opened`, "there is no function now"},
		{`len(region, 2) > 1`, "len has one argument, not 2"},
		{`region matches "("`, "missing closing )"},
		{`region matches region`, "the pattern of matches has to stand here"},
		{`all([1], # > 0)`, "there is no function all"},
		{`region.x == "a"`, "this is not possible in a filter"},
		{`balanse > 0 and regoin == "x"`, `no column "regoin"`},
		{`not region`, "this is a text, and has to be a boolean"},
		{`-region == "a"`, "this is a text, and has to be a number"},
	} {
		e, err := parseExpression(test.source, position{5, 12})
		if err == nil {
			_, err = e.bind(columnsOf(accounts()))
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v\nwant %s", test.source, err, test.want)
		}
	}
}
