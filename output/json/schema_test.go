package json

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

const schemaFile = "../../docs/schema/native.schema.json"

var published = sync.OnceValues(func() (*jsonschema.Schema, error) {
	f, err := os.Open(schemaFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("native.schema.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("native.schema.json")
})

// valid validates one message against the published schema.
func valid(t interface{ Fatal(...any) }, data []byte) error {
	schema, err := published()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

func checkSchema(t *testing.T, payloads []output.Payload) {
	t.Helper()
	for _, p := range payloads {
		if err := valid(t, p.Data); err != nil {
			t.Errorf("%s: %v", p.Data, err)
		}
	}
}

// Whatever rows hold, in both layouts, with all options.
func TestSchemaOfValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opts := format.JSONOptions{Types: rapid.Bool().Draw(t, "types"), FillUnchanged: rapid.Bool().Draw(t, "fill")}
		r := &pipeline.Relation{ID: 1, Namespace: rapid.String().Draw(t, "schema"), Name: rapid.String().Draw(t, "table"), Identity: rapid.SampledFrom([]byte("dfni")).Draw(t, "identity")}
		names := rapid.SliceOfNDistinct(rapid.String(), len(oids), len(oids), rapid.ID).Draw(t, "names")
		var old, row []cell
		for i, oid := range oids {
			r.Columns = append(r.Columns, pipeline.Column{Name: names[i], Type: oid, Key: i%2 == 0, Modifier: rapid.Int32Range(-1, 9).Draw(t, "modifier")})
			old, row = append(old, drawCell(t, oid, false)), append(row, drawCell(t, oid, true))
		}
		f := &pipeline.Fragment{XID: 1<<32 - 1, End: 1<<64 - 1, Relations: []pipeline.RelationUse{{Relation: r}}}
		f.Append(appendTuple(appendTuple([]byte{'U', 0, 0, 0, 1}, pipeline.OldFull, old), 'N', row))
		f.Append(appendTuple([]byte{'D', 0, 0, 0, 1}, pipeline.OldKey, old))
		f.Append(appendTuple([]byte{'I', 0, 0, 0, 1}, 'N', old))
		f.Append(appendTuple([]byte{'C', 0, 0, 0, 1}, 'N', old))
		b := &pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1<<64 - 1, GID: rapid.String().Draw(t, "gid"), Fragments: []*pipeline.Fragment{f}}}}
		for _, e := range []output.Encoder{New([]string{"a"}, opts), NewRows("s", []string{"a"}, opts)} {
			payloads, err := e.Encode(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range payloads {
				if err := valid(t, p.Data); err != nil {
					t.Fatalf("%s: %v", p.Data, err)
				}
			}
		}
	})
}

func TestSchemaOfWatermark(t *testing.T) {
	for _, w := range []pipeline.CSN{0, 1, pipeline.CSNAt(834_570_000_123_456), 1<<63 - 1} {
		if err := valid(t, Watermark(w)); err != nil {
			t.Errorf("%s: %v", Watermark(w), err)
		}
	}
}

// The schema refuses what no encoder writes: each document is right but for one thing.
func TestSchemaRefuses(t *testing.T) {
	const row = `{"csn":"7","gid":null,"commit_time":"2000-01-01T00:00:00.000007Z","shard":"a","xid":741,"lsn":"0/16B3860","index":0,"total":1,"op":"update","schema":"public","table":"t","key":{"id":1},"after":{"id":1},"unchanged":["v"],"types":{"id":"int4"}}`
	const end = `{"csn":"7","previous":"6","gid":"g","commit_time":"2000-01-01T00:00:00.000007Z","fragments":[{"shard":"a","xid":741,"lsn":"1/A","changes":1}],"total":1,"tables":[{"schema":"public","table":"t","changes":1}]}`
	const tx = `{"csn":"7","previous":"6","gid":null,"commit_time":"2000-01-01T00:00:00.000007Z","fragments":[{"shard":"a","xid":741,"lsn":"1/A","changes":1}],"total":1,"changes":[{"index":0,"shard":"a","op":"truncate","tables":[{"schema":"public","table":"t"}],"cascade":false,"restart_identity":false}]}`
	for _, c := range []struct{ document, was, is string }{
		{row, `"csn":"7"`, `"csn":7`},
		{row, `"csn":"7"`, `"csn":"-7"`},
		{row, `"csn":"7",`, ``},
		{row, `"gid":null,`, ``},
		{row, `.000007Z`, `+00:00`},
		{row, `0/16B3860`, `0/16b3860`},
		{row, `"index":0`, `"index":-1`},
		{row, `"op":"update"`, `"op":"upsert"`},
		{row, `"op":"update"`, `"op":"insert"`}, // with unchanged
		{row, `"after":{"id":1}`, `"after":{"id":[1]}`},
		{row, `"after":{"id":1}`, `"after":{"id":{"base64":"!"}}`},
		{row, `,"after":{"id":1}`, ``},
		{row, `"unchanged":["v"]`, `"unchanged":[]`},
		{row, `"types"`, `"kinds"`},
		{row, `"table":"t",`, ``},
		{end, `"changes":1}],"total"`, `"changes":-1}],"total"`},
		{end, `"fragments":[{"shard":"a","xid":741,"lsn":"1/A","changes":1}]`, `"fragments":[]`},
		{end, `,"tables":[{"schema":"public","table":"t","changes":1}]`, ``},
		{end, `"previous":"6",`, ``},
		{end, `"xid":741`, `"xid":4294967296`},
		{tx, `"shard":"a","op"`, `"op"`},
		{tx, `"cascade":false,`, ``},
		{tx, `[{"schema":"public","table":"t"}]`, `[{"schema":"public","table":"t","keyed":true}]`},
		{tx, `"op":"truncate"`, `"op":"truncate","schema":"public","table":"t"`}, // as it is in rows
		{tx, `"total":1,`, `"total":1,"tables":[],`},
		{`{"watermark":"7","time":"2000-01-01T00:00:00.000000Z"}`, `"watermark":"7",`, ``},
	} {
		if err := valid(t, []byte(c.document)); err != nil {
			t.Fatalf("%s: %v", c.document, err)
		}
		broken := strings.Replace(c.document, c.was, c.is, 1)
		if broken == c.document {
			t.Fatalf("%s is not in %s", c.was, c.document)
		}
		if err := valid(t, []byte(broken)); err == nil {
			t.Errorf("taken: %s", broken)
		}
	}
}
