package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// elsewhere is a body that is not in memory.
type elsewhere []byte

func (e elsewhere) Size() int64                  { return int64(len(e)) }
func (e elsewhere) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e)), nil }
func (e elsewhere) Release()                     {}

// A transaction that is not in memory is in the files as one that is, and the files are what the formats say.
func TestFolder(t *testing.T) {
	for options, want := range map[string]string{
		"":                               "INSERT INTO \"public\".\"t\" (\"id\") OVERRIDING SYSTEM VALUE VALUES (7);\n",
		"?dialect=mysql&idempotent=true": "INSERT INTO `t` (`id`) VALUES (7) ON DUPLICATE KEY UPDATE",
		"?format=json":                   `{"index":1,"shard":"a","op":"insert","schema":"public","table":"t","key":{"id":7},"after":{"id":7}}`,
	} {
		var texts [2]string
		for i := range texts {
			folder := filepath.Join(t.TempDir(), "out")
			sub := control.NewSubscription("s", "incarnation", time.Unix(0, 0))
			sub.Shards = []control.Shard{{Name: "a"}}
			target, err := newFolder(sub, "file://"+folder+options)
			if err != nil {
				t.Fatal(err)
			}
			texts[i] = written(t, target, folder, i == 1)
		}
		if texts[0] != texts[1] || !strings.Contains(texts[0], want) || strings.Count(texts[0], "9") == 0 {
			t.Errorf("%s: in memory\n%s\nelsewhere\n%s\nwant %s", options, texts[0], texts[1], want)
		}
	}
}

// written applies two transactions and returns what is in the file.
func written(t *testing.T, target apply.Target, folder string, large bool) string {
	t.Helper()
	s, err := target.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	r := &pipeline.Relation{ID: 1, Namespace: "public", Name: "t", Identity: 'd', Columns: []pipeline.Column{{Name: "id", Key: true, Type: 23, Modifier: -1}}}
	u := &wire.Unit{Previous: 8, Last: 10}
	for csn := range 2 {
		f := &pipeline.Fragment{Relations: []pipeline.RelationUse{{Relation: r}}}
		f.Append(append(binary.BigEndian.AppendUint32([]byte{'I', 0, 0, 0, 1, 'N', 0, 1, 't'}, 1), byte('7'+2*csn)))
		if large {
			f.Content, f.Body = elsewhere(f.Body), nil
		}
		u.Transactions = append(u.Transactions, &pipeline.Transaction{CSN: pipeline.CSN(9 + csn), Fragments: []*pipeline.Fragment{f}})
	}
	g := apply.Group{To: apply.Progress{StreamID: "x", CSN: 10, Seq: 1}, Units: []apply.Unit{{Unit: u, End: apply.End{Seq: 1}}}}
	if err := s.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(folder, "0*"))
	if err != nil || len(names) != 2 {
		t.Fatalf("%q, %v", names, err)
	}
	for _, name := range names {
		if filepath.Ext(name) == ".index" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return ""
}
