package debezium

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"shardcdc/pipeline"
)

// TestDocumentedExample keeps the example of docs/debezium.md what the encoder writes.
func TestDocumentedExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/debezium.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := bytes.Cut(page, []byte("```json\n"))
	example, _, _ = bytes.Cut(example, []byte("```"))
	var want bytes.Buffer
	if err := json.Compact(&want, example); err != nil {
		t.Fatal(err)
	}
	s := newSource(t, "events_docs")
	s.exec("CREATE TABLE accounts (id int PRIMARY KEY, name text, balance numeric(10,2)); INSERT INTO accounts VALUES (1, 'Ann', 1.5)")
	f := s.capture()[0]
	f.XID, f.End = 555, 0x16E3778
	e, err := New(Config{Subscription: "orders", Shards: []Shard{{"a", "app"}}, Debezium: options(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	tx := &pipeline.Transaction{CSN: pipeline.CSNAt(commitTime), CommitTime: commitTime, Fragments: []*pipeline.Fragment{f}}
	if got := encode(t, e, tx)[1].Data; !bytes.Equal(got, want.Bytes()) {
		t.Errorf("docs/debezium.md says\n%s\nthe encoder writes\n%s", want.Bytes(), got)
	}
}
