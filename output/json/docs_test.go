package json

import (
	"bytes"
	stdjson "encoding/json"
	"os"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// TestDocumentedExample keeps the example of docs/formats.md what the encoder writes.
func TestDocumentedExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := bytes.Cut(page, []byte("```json\n"))
	example, _, _ = bytes.Cut(example, []byte("```"))
	var want bytes.Buffer
	if err := stdjson.Compact(&want, example); err != nil {
		t.Fatal(err)
	}

	accounts := &pipeline.Relation{ID: 1, Namespace: "public", Name: "accounts", Identity: 'd', Columns: []pipeline.Column{
		{Name: "id", Key: true, Type: 23}, {Name: "owner", Type: 25}, {Name: "balance", Type: 1700}, {Name: "note", Type: 25}, {Name: "photo", Type: 17},
	}}
	audit := &pipeline.Relation{ID: 2, Namespace: "public", Name: "audit"}
	text := func(s string) cell { return cell{kind: pipeline.Text, text: s} }
	a := &pipeline.Fragment{Shard: 0, XID: 741, End: 0x16B3860, Relations: []pipeline.RelationUse{{Relation: accounts}}}
	a.Append(appendTuple([]byte{'U', 0, 0, 0, 1}, 'N', []cell{text("1"), text("Alice"), text("95.00"), {kind: pipeline.Null}, {kind: pipeline.Unchanged}}))
	b := &pipeline.Fragment{Shard: 1, XID: 42, End: 0x1F04A8, Origin: "import", Relations: []pipeline.RelationUse{{Relation: accounts}, {Relation: audit}}}
	b.Append(appendTuple([]byte{'U', 0, 0, 0, 1}, 'N', []cell{text("2"), text("Bob"), text("105.00"), text(""), text("\\x00ff")}))
	b.Append([]byte{'T', 0, 0, 0, 1, pipeline.TruncateRestartIdentity, 0, 0, 0, 2})
	b.Append(append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 0}, "app\x00\x00\x00\x00\x04done"...))
	tx := &pipeline.Transaction{CSN: 3469010534391808000, GID: "transfer-17", Fragments: []*pipeline.Fragment{a, b}}
	if err := tx.CommitTime.UnmarshalText([]byte("2026-11-02T09:20:00.000001Z")); err != nil {
		t.Fatal(err)
	}
	e := New([]string{"a", "b"}, format.JSONOptions{})
	if _, err := e.Encode(&pipeline.Batch{Transactions: []*pipeline.Transaction{tx}}); err != nil { // it describes the tables
		t.Fatal(err)
	}
	payloads, err := e.Encode(&pipeline.Batch{Previous: 3469010534388813824, Transactions: []*pipeline.Transaction{tx}})
	if err != nil {
		t.Fatal(err)
	}
	if got := payloads[0].Data; !bytes.Equal(got, want.Bytes()) {
		t.Errorf("docs/formats.md says\n%s\nthe encoder writes\n%s", want.Bytes(), got)
	}
}
