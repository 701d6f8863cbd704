package json

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	stdjson "encoding/json"
	"fmt"
	"math"
	"strconv"
	"testing"
	"unicode/utf8"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"

	"github.com/goccy/go-json"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// cell is a column's value and what a reader must find for it: the oracle says it from the Go value, never from
// the text.
type cell struct {
	kind byte
	text string
	want any
}

var cells = map[uint32]*rapid.Generator[cell]{
	16: rapid.Custom(func(t *rapid.T) cell {
		v := rapid.Bool().Draw(t, "bool")
		return cell{pipeline.Text, map[bool]string{true: "t", false: "f"}[v], v}
	}),
	23: rapid.Custom(func(t *rapid.T) cell {
		v := strconv.Itoa(int(rapid.Int32().Draw(t, "int4")))
		return cell{pipeline.Text, v, stdjson.Number(v)}
	}),
	20: rapid.Custom(func(t *rapid.T) cell {
		v := rapid.OneOf(rapid.Int64(), rapid.Int64Range(1<<53-3, 1<<53+3), rapid.Int64Range(-1<<53-3, -1<<53+3)).Draw(t, "int8")
		text := strconv.FormatInt(v, 10)
		if v > 1<<53-1 || v < -(1<<53-1) {
			return cell{pipeline.Text, text, text}
		}
		return cell{pipeline.Text, text, stdjson.Number(text)}
	}),
	701: rapid.Custom(func(t *rapid.T) cell {
		v := math.Float64frombits(rapid.Uint64().Draw(t, "float8"))
		switch {
		case math.IsNaN(v):
			return cell{pipeline.Text, "NaN", "NaN"}
		case math.IsInf(v, 0):
			text := map[bool]string{true: "Infinity", false: "-Infinity"}[v > 0]
			return cell{pipeline.Text, text, text}
		}
		text := strconv.FormatFloat(v, rapid.SampledFrom([]byte("efg")).Draw(t, "form"), -1, 64)
		return cell{pipeline.Text, text, stdjson.Number(text)}
	}),
	1700: textCell(rapid.StringMatching(`-?[0-9]{1,40}(\.[0-9]{1,20})?`)),
	25:   textCell(rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("\"\\\x00\x1f\u2028\u2029\U0001F600a"))))),
	3802: textCell(rapid.SampledFrom([]string{`null`, `{"a": [1.0, "\u0000"]}`, ` 1e400`})),
	17: rapid.Custom(func(t *rapid.T) cell { // any bytes: a database with the encoding SQL_ASCII
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		if utf8.Valid(b) {
			return cell{pipeline.Text, string(b), string(b)}
		}
		return cell{pipeline.Text, string(b), map[string]any{"base64": base64.StdEncoding.EncodeToString(b)}}
	}),
}

var oids = []uint32{16, 23, 20, 701, 1700, 25, 3802, 17}

func textCell(g *rapid.Generator[string]) *rapid.Generator[cell] {
	return rapid.Custom(func(t *rapid.T) cell {
		s := g.Draw(t, "text")
		return cell{pipeline.Text, s, s}
	})
}

func drawCell(t *rapid.T, oid uint32, unchanged bool) cell {
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return cell{kind: pipeline.Null}
	case 1:
		if unchanged {
			return cell{kind: pipeline.Unchanged}
		}
	}
	return cells[oid].Draw(t, "value")
}

func appendTuple(msg []byte, kind byte, tuple []cell) []byte {
	msg = binary.BigEndian.AppendUint16(append(msg, kind), uint16(len(tuple)))
	for _, c := range tuple {
		msg = append(msg, c.kind)
		if c.kind == pipeline.Text {
			msg = binary.BigEndian.AppendUint32(msg, uint32(len(c.text)))
			msg = append(msg, c.text...)
		}
	}
	return msg
}

func wantObject(names []string, tuple []cell) map[string]any {
	m := make(map[string]any)
	for i, c := range tuple {
		if c.kind != pipeline.Unchanged {
			m[names[i]] = c.want
		}
	}
	return m
}

// TestValuesComeBack: a reader finds exactly the values that the shard sent, and knows NULL, empty, unchanged and
// not sent apart.
func TestValuesComeBack(t *testing.T) {
	e := New([]string{"a"}, format.JSONOptions{})
	rapid.Check(t, func(t *rapid.T) {
		types := rapid.SliceOfN(rapid.SampledFrom(oids), 0, 8).Draw(t, "types")
		r := &pipeline.Relation{ID: 1, Namespace: rapid.String().Draw(t, "schema"), Name: rapid.String().Draw(t, "table"), Identity: 'f'}
		names := rapid.SliceOfNDistinct(rapid.String(), len(types), len(types), rapid.ID).Draw(t, "names")
		for i, oid := range types {
			r.Columns = append(r.Columns, pipeline.Column{Name: names[i], Type: oid, Key: true})
		}
		f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: r}}}
		var want []any
		for i := range rapid.IntRange(1, 4).Draw(t, "updates") {
			old, row := make([]cell, len(types)), make([]cell, len(types))
			unchanged := []any{}
			for c, oid := range types {
				old[c], row[c] = drawCell(t, oid, false), drawCell(t, oid, true)
				if row[c].kind == pipeline.Unchanged {
					unchanged = append(unchanged, names[c])
				}
			}
			f.Append(appendTuple(appendTuple([]byte{'U', 0, 0, 0, 1}, 'O', old), 'N', row))
			change := map[string]any{
				"index": stdjson.Number(strconv.Itoa(i + 1)), "shard": "a", "op": "update", "schema": r.Namespace, "table": r.Name,
				"before": wantObject(names, old), "after": wantObject(names, row),
			}
			if len(unchanged) > 0 {
				change["unchanged"] = unchanged
			}
			want = append(want, change)
		}
		payloads, err := e.Encode(&pipeline.Batch{Transactions: []*pipeline.Transaction{{CSN: 1, Fragments: []*pipeline.Fragment{f}}}})
		if err != nil {
			t.Fatal(err)
		}
		d := stdjson.NewDecoder(bytes.NewReader(payloads[0].Data))
		d.UseNumber()
		var got map[string]any
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%v in %s", err, payloads[0].Data)
		}
		changes := got["changes"].([]any)
		if relation := changes[0].(map[string]any); relation["op"] != "relation" || relation["schema"] != r.Namespace || len(relation["columns"].([]any)) != len(names) {
			t.Fatalf("the table is described as %v", relation)
		}
		if diff := cmp.Diff(want, changes[1:]); diff != "" {
			t.Fatal(diff)
		}
		if !json.Valid(payloads[0].Data) {
			t.Fatalf("not valid: %s", payloads[0].Data)
		}
	})
}

// bulk is a batch of n transactions with rows rows each.
func bulk(n, rows int) *pipeline.Batch {
	r := &pipeline.Relation{ID: 1, Namespace: "public", Name: "accounts", Identity: 'd', Columns: []pipeline.Column{
		{Name: "id", Key: true, Type: 20}, {Name: "owner", Type: 25}, {Name: "balance", Type: 1700}, {Name: "active", Type: 16}, {Name: "note", Type: 25},
	}}
	b := &pipeline.Batch{}
	for i := range n {
		f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: r}}}
		for k := range rows {
			f.Append(appendTuple([]byte{'I', 0, 0, 0, 1}, 'N', []cell{
				{pipeline.Text, strconv.Itoa(k), nil},
				{pipeline.Text, "Ada \"Lovelace\"", nil},
				{pipeline.Text, "1234.50", nil},
				{pipeline.Text, "t", nil},
				{kind: pipeline.Null},
			}))
		}
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: pipeline.CSN(i + 1), Fragments: []*pipeline.Fragment{f}})
	}
	return b
}

// Tables come and go; what is remembered of them has a limit.
func TestTablesAreForgotten(t *testing.T) {
	e, rows := New([]string{"a"}, format.JSONOptions{}), NewRows("s", []string{"a"}, format.JSONOptions{})
	b := bulk(1, 1)
	f := b.Transactions[0].Fragments[0]
	r := *f.Relations[0].Relation
	for i := range 2*output.RelationsMax + 10 {
		another := r
		another.Name = strconv.Itoa(i)
		f.Relations[0].Relation = &another
		for _, e := range []output.Encoder{e, rows} {
			if _, err := e.Encode(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range []*writer{&e.writer, &rows.writer} {
		if n := max(len(w.tables.places), len(w.told)); n > output.RelationsMax {
			t.Errorf("%d tables are remembered", n)
		}
	}
}

func TestNothingIsAllocatedPerRow(t *testing.T) {
	e := New([]string{"a"}, format.JSONOptions{})
	allocs := func(b *pipeline.Batch) float64 {
		return testing.AllocsPerRun(10, func() {
			if _, err := e.Encode(b); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocs(bulk(1, 10)), allocs(bulk(1, 1000)); many > few {
		t.Errorf("%v allocations for 10 rows, %v for 1000", few, many)
	}
	if few, many := allocs(bulk(10, 1)), allocs(bulk(1000, 1)); many > few {
		t.Errorf("%v allocations for 10 transactions, %v for 1000", few, many)
	}
}

// Payloads belong to the caller: the next Encode must not write to them, nor an append to the next one.
func TestPayloadsAreTheCallers(t *testing.T) {
	e := New([]string{"a"}, format.JSONOptions{})
	first, err := e.Encode(bulk(3, 2))
	if err != nil {
		t.Fatal(err)
	}
	var before []string
	for _, p := range first {
		before = append(before, string(p.Data))
	}
	if _, err := e.Encode(bulk(5, 5)); err != nil {
		t.Fatal(err)
	}
	_ = append(first[0].Data, "overwritten"...)
	for i, p := range first {
		if string(p.Data) != before[i] {
			t.Errorf("payload %d changed to %s", i, p.Data)
		}
	}
}

func TestCountsMustAgree(t *testing.T) {
	b := bulk(1, 2)
	b.Transactions[0].Fragments[0].Changes = 3
	_, err := New([]string{"a"}, format.JSONOptions{}).Encode(b)
	if err == nil || err.Error() != "encode csn 1 as json: 3 changes in the bodies, 4 announced" {
		t.Error(err)
	}
}

func TestTableNameNotUTF8(t *testing.T) {
	b := bulk(1, 1)
	b.Transactions[0].Fragments[0].Relations[0].Relation.Name = "t\xff"
	const want = `encode csn 1 as json: shard "a": relation: table "public.t\xff": the name is not valid UTF-8 and has no form in JSON. Try: ALTER TABLE … RENAME, or cdcctl create-subscription … --format internal`
	if _, err := New([]string{"a"}, format.JSONOptions{}).Encode(b); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func FuzzAppendText(f *testing.F) {
	f.Add([]byte("a\"\\\x00\u2028\xed\xa0\x80"))
	f.Fuzz(func(t *testing.T, s []byte) {
		var got any
		out := appendText(nil, s)
		if err := stdjson.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if text, ok := got.(string); ok && text != string(s) || !ok && utf8.Valid(s) {
			t.Fatalf("%q came back as %v", s, got)
		}
	})
}

func FuzzNumber(f *testing.F) {
	for _, s := range []string{"1e+20", "-0", "01", "1.", "", "NaN", "9007199254740993"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		number := len(s) > 0 && s[0] != ' ' && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && stdjson.Valid(s) && !bytes.ContainsAny(s, " \t\r\n")
		if isNumber(s) != number {
			t.Fatalf("%q: %v, encoding/json says %v", s, isNumber(s), number)
		}
		if isInteger(s) != (number && !bytes.ContainsAny(s, ".eE")) {
			t.Fatalf("%q: %v", s, isInteger(s))
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, rows := range []int{1, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			e, batch := New([]string{"a"}, format.JSONOptions{}), bulk(1000/rows, rows)
			payloads, err := e.Encode(batch)
			if err != nil {
				b.Fatal(err)
			}
			size := 0
			for _, p := range payloads {
				size += len(p.Data)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				e.Encode(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
		})
	}
}
