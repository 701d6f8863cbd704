package debezium

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"shardcdc/output"

	"github.com/cockroachdb/datadriven"
)

// TestValues runs testdata/values/*.txt, every line against a real server:
//
//	values [schema] [decimal=…] [binary=…] [time=…] [interval=…] [hstore=…]
//	type  literal
//
// Each line is a column with one value, which comes out as it stands in the event of its insert; with schema, the column's node
// of the schema. Two blanks stand between a type and its literal; "NULL" without quotes is NULL. What Debezium makes of the same
// statements is the source of what is expected, unless a comment says that it differs.
func TestValues(t *testing.T) {
	s := newSource(t, "events_values")
	for _, extension := range []string{"citext", "hstore", "ltree", "isn"} {
		s.exec("CREATE EXTENSION " + extension)
	}
	s.exec(`CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
		CREATE DOMAIN price AS numeric(10,2); CREATE DOMAIN flags AS bit(3); CREATE DOMAIN ints AS int[]; CREATE DOMAIN deep AS price`)
	n := 0
	datadriven.Walk(t, filepath.Join("testdata", "values"), func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			n++
			return s.values(d, n)
		})
	})
}

func (s *source) values(d *datadriven.TestData, n int) string {
	var words []string
	for _, arg := range d.CmdArgs {
		words = append(words, arg.String())
	}
	var columns, literals []string
	for i, line := range strings.Split(strings.TrimRight(d.Input, "\n"), "\n") {
		typ, literal, ok := strings.Cut(line, "  ")
		if !ok {
			s.t.Fatalf("%s: %q: two blanks expected", d.Pos, line)
		}
		columns = append(columns, fmt.Sprintf("c%d %s", i, typ))
		if literal != "NULL" {
			literal = "'" + strings.ReplaceAll(literal, "'", "''") + "'"
		}
		literals = append(literals, literal)
	}
	s.exec(fmt.Sprintf("CREATE TABLE v%d (%s)", n, strings.Join(columns, ", ")))
	s.exec(fmt.Sprintf("INSERT INTO v%d VALUES (%s)", n, strings.Join(literals, ", ")))
	opts := options(s.t, words)
	payloads, err := newEncoder(s.t, opts).Encode(batchOf(s.capture()))
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	if opts.Schema {
		return s.nodes(payloads[1])
	}
	var event struct {
		After map[string]json.RawMessage
	}
	if err := json.Unmarshal(payloads[1].Data, &event); err != nil {
		s.t.Fatalf("%s: %v\n%s", d.Pos, err, payloads[1].Data)
	}
	var out strings.Builder
	for i := range columns {
		fmt.Fprintf(&out, "%s\n", event.After[fmt.Sprintf("c%d", i)])
	}
	return out.String()
}

// nodes are the columns' schemas.
func (s *source) nodes(p output.Payload) string {
	var event struct {
		Schema struct {
			Fields []struct {
				Field  string
				Fields []json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(p.Data, &event); err != nil {
		s.t.Fatalf("%v\n%s", err, p.Data)
	}
	var out strings.Builder
	for _, f := range event.Schema.Fields[1].Fields {
		fmt.Fprintf(&out, "%s\n", f)
	}
	return out.String()
}
