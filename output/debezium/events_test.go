package debezium

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"shardcdc/output"
	"shardcdc/pipeline"

	"github.com/cockroachdb/datadriven"
)

// TestEvents runs testdata/events/*.txt against a real server, in a database of its own for each file:
//
//	run                                       statements that are not captured
//	events [together] [copied] [schema] [decimal=…] … statements, each of which is a transaction; what they become
//
// together makes one distributed transaction of them, with fragments on shard a and shard b in turn; copied makes reads of inserts.
func TestEvents(t *testing.T) {
	datadriven.Walk(t, filepath.Join("testdata", "events"), func(t *testing.T, path string) {
		name, _, _ := strings.Cut(filepath.Base(path), ".")
		s := newSource(t, "events_"+name)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			if d.Cmd == "run" {
				s.exec(d.Input)
				s.capture()
				return ""
			}
			return s.events(d)
		})
	})
}

func (s *source) events(d *datadriven.TestData) string {
	var words []string
	var together, copied bool
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "together":
			together = true
		case "copied":
			copied = true
		default:
			words = append(words, arg.String())
		}
	}
	for _, statement := range strings.Split(strings.TrimSpace(d.Input), ";\n") {
		s.exec(statement)
	}
	txs := transactions(s.capture())
	if copied {
		for _, tx := range txs {
			for _, f := range tx.Fragments {
				f.Body[4] = byte(pipeline.Read)
			}
		}
	}
	if together {
		one := &pipeline.Transaction{CSN: txs[0].CSN, GID: "transfer-17", CommitTime: commitTime}
		for i, tx := range txs {
			tx.Fragments[0].Shard = pipeline.ShardID(i % 2)
			one.Fragments = append(one.Fragments, tx.Fragments...)
		}
		txs = []*pipeline.Transaction{one}
	}
	var out strings.Builder
	for _, p := range encode(s.t, newEncoder(s.t, options(s.t, words)), txs...) {
		show(s.t, &out, p)
	}
	return out.String()
}

// show writes a payload: subject, headers, data.
func show(t *testing.T, out *strings.Builder, p output.Payload) {
	t.Helper()
	subject := p.Subject
	if subject == "" {
		subject = "_tx"
	}
	fmt.Fprintf(out, "%s csn=%s", subject, p.CSN)
	if p.Transactions > 0 {
		fmt.Fprintf(out, " ends=%d", p.Transactions)
	}
	out.WriteByte('\n')
	for _, h := range p.Headers {
		fmt.Fprintf(out, "  %s: %s\n", h.Name, h.Value)
		if h.Name != "Cdc-Tombstone" && !json.Valid([]byte(h.Value)) {
			t.Errorf("header %s is no JSON: %s", h.Name, h.Value)
		}
	}
	if len(p.Data) > 0 {
		fmt.Fprintf(out, "  %s\n", p.Data)
		if !json.Valid(p.Data) {
			t.Errorf("no JSON: %s", p.Data)
		}
	}
}
