package debezium

import (
	"encoding/binary"
	"strconv"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// BenchmarkEncode is a transaction of 1000 rows of a usual table.
func BenchmarkEncode(b *testing.B) {
	for _, name := range []string{"plain", "schema"} {
		b.Run(name, func(b *testing.B) {
			tx := rowsOf(1000)
			opts := benchOptions
			opts.Schema = name == "schema"
			e, err := New(Config{Subscription: "srv", Shards: []Shard{{"a", "app"}}, Debezium: opts})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(tx.Bytes())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Encode(&pipeline.Batch{Transactions: []*pipeline.Transaction{tx}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var benchOptions = format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow, Flavour: format.Debezium}}.WithDefaults().Debezium

// rowsOf is a transaction of n inserts.
func rowsOf(n int) *pipeline.Transaction {
	r := &pipeline.Relation{ID: 1, Namespace: "public", Name: "accounts", Identity: 'd', Columns: []pipeline.Column{
		{Name: "id", Key: true, Type: 20, Modifier: -1},
		{Name: "owner", Type: 25, Modifier: -1},
		{Name: "balance", Type: 1700, Modifier: 655366},
		{Name: "updated", Type: 1184, Modifier: -1},
		{Name: "note", Type: 25, Modifier: -1},
	}}
	f := &pipeline.Fragment{XID: 7, End: 0x16E3778, Relations: []pipeline.RelationUse{{Relation: r}}}
	for i := range n {
		msg := []byte{'I', 0, 0, 0, 1, 'N', 0, 5}
		for _, text := range []string{strconv.Itoa(i), "Alice", "1234.50", "2026-11-04 13:51:30.123456+00"} {
			msg = binary.BigEndian.AppendUint32(append(msg, pipeline.Text), uint32(len(text)))
			msg = append(msg, text...)
		}
		f.Append(append(msg, pipeline.Null))
	}
	return &pipeline.Transaction{CSN: 1, CommitTime: commitTime, Fragments: []*pipeline.Fragment{f}}
}
