package main

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// transfer is a transaction of two fragments with n messages.
func transfer(n int) *pipeline.Batch {
	tx := &pipeline.Transaction{CSN: 7, GID: `tx,"changes":[`, CommitTime: 1}
	for shard := range 2 {
		f := &pipeline.Fragment{Shard: pipeline.ShardID(shard), XID: 41, End: 0x100}
		for range n {
			f.Append(append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9, 'p', 0, 0, 0, 0, 8}, "contents"...))
		}
		tx.Fragments = append(tx.Fragments, f)
	}
	tx.Fragments[1].Origin = "import"
	return &pipeline.Batch{Previous: 3, Transactions: []*pipeline.Transaction{tx}}
}

// payloadOf is a batch in a format.
func payloadOf(t *testing.T, name string, b *pipeline.Batch) []byte {
	t.Helper()
	if name == format.Internal {
		frame, err := new(wire.Encoder).AppendUnit(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		return frame
	}
	payloads, err := outputjson.New([]string{"a", "b"}, format.JSONOptions{}).Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	return payloads[0].Data
}

// Of a transaction beyond the limit tail shows the head, whatever the format, and goes on behind it.
func TestTailLarge(t *testing.T) {
	const limit, part = 4000, 1000
	for _, name := range []string{format.Internal, format.JSON} {
		t.Run(name, func(t *testing.T) {
			sub := &control.Subscription{Name: "s", Format: name, Shards: []control.Shard{{Name: "a"}, {Name: "b"}}}
			r := newUnitReader(sub, limit)
			var shown []string
			add := func(parts [][]byte, until int) {
				t.Helper()
				for k, data := range parts[:until] {
					h := nats.Header{}
					h.Set(wire.HeaderFormat, name)
					if len(parts) > 1 {
						h.Set(wire.HeaderPart, wire.PartHeader(k+1, len(parts)))
					}
					if k == len(parts)-1 {
						h.Set(wire.HeaderCheckpoint, "x")
					}
					txs, err := r.add(wire.Subject("s"), h, data)
					if err != nil {
						t.Fatal(err)
					}
					for _, tx := range txs {
						parsed, err := parseTransaction(tx)
						if err != nil {
							t.Fatal(err)
						}
						shown = append(shown, parsed.text())
					}
				}
			}
			huge, small := wire.Split(payloadOf(t, name, transfer(300)), part), wire.Split(payloadOf(t, name, transfer(10)), part)
			add(huge, 3) // its writer dies
			if _, err := r.add(wire.EpochSubject("s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			add(huge, len(huge)-1) // and so does this one, unnoticed
			add(huge, len(huge))
			add(small, len(small))
			if len(shown) != 2 {
				t.Fatalf("%d transactions:\n%s", len(shown), strings.Join(shown, ""))
			}
			head, note, _ := strings.Cut(shown[0], "\n")
			if want := `csn 7  2000-01-01T00:00:00.000001Z  gid "tx,\"changes\":["  a@0/100  b@0/100 (origin import)`; head != want {
				t.Errorf("head\n%s\nwant\n%s", head, want)
			}
			if !strings.HasPrefix(note, "  600 changes, ") || !strings.HasSuffix(note, "iB: too large to show\n") {
				t.Errorf("note %q", note)
			}
			if !strings.HasPrefix(shown[1], head) || strings.Count(shown[1], "\n") != 21 {
				t.Errorf("the small one:\n%s", shown[1])
			}
		})
	}
}
