package sql

import (
	"bytes"
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
	_, want, _ := bytes.Cut(page, []byte("```sql\n"))
	want, _, _ = bytes.Cut(want, []byte("```"))
	accounts := &pipeline.Relation{ID: 1, Namespace: "public", Name: "accounts", Identity: 'd', Columns: []pipeline.Column{
		{Name: "id", Key: true, Type: 23}, {Name: "owner", Type: 25}, {Name: "balance", Type: 1700}, {Name: "note", Type: 25}, {Name: "photo", Type: 17},
	}}
	a := &pipeline.Fragment{Shard: 0, XID: 741, End: 0x16B3860, Relations: []pipeline.RelationUse{{Relation: accounts}}}
	a.Append(appendTuples([]byte{'U', 0, 0, 0, 1}, []string{"N", "1", "Alice", "95.00", "NULL", "UNCHANGED"}))
	b := &pipeline.Fragment{Shard: 1, XID: 42, End: 0x1F04A8, Origin: "import", Relations: []pipeline.RelationUse{{Relation: accounts}}}
	b.Append(appendTuples([]byte{'U', 0, 0, 0, 1}, []string{"N", "2", "Bob", "105.00", "", `\x00ff`}))
	b.Append(append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 0}, "app\x00\x00\x00\x00\x04done"...))
	tx := &pipeline.Transaction{CSN: 3469010534391808000, GID: "transfer-17", Fragments: []*pipeline.Fragment{a, b}}
	if err := tx.CommitTime.UnmarshalText([]byte("2026-11-02T09:20:00.000001Z")); err != nil {
		t.Fatal(err)
	}
	e := New(Config{Shards: []string{"a", "b"}, Options: format.SQLOptions{Dialect: format.PostgreSQL}})
	payloads, err := e.Encode(&pipeline.Batch{Previous: 3469010534388813824, Transactions: []*pipeline.Transaction{tx}})
	if err != nil {
		t.Fatal(err)
	}
	if got := payloads[0].Data; !bytes.Equal(got, want) {
		t.Errorf("docs/formats.md says\n%s\nthe encoder writes\n%s", want, got)
	}
}
