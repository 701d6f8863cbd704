package node

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// sparse makes transactions of rows that are NULL but for their key, in a wide table.
func sparse(transactions, rows, columns int, name string) *pipeline.Batch {
	r := &pipeline.Relation{ID: 1, Namespace: "public", Name: "t", Identity: 'd', Raw: []byte("R")}
	row := binary.BigEndian.AppendUint16([]byte{'I', 0, 0, 0, 1, 'N'}, uint16(columns))
	for i := range columns {
		r.Columns = append(r.Columns, pipeline.Column{Name: fmt.Sprintf("%s%04d", name, i), Type: 25, Key: i == 0, Modifier: -1})
		if i == 0 {
			row = append(row, 't', 0, 0, 0, 1, 1) // a byte that needs an escape
		} else {
			row = append(row, 'n')
		}
	}
	b := &pipeline.Batch{}
	for i := range transactions {
		f := &pipeline.Fragment{End: pipeline.LSN(i + 1), Relations: []pipeline.RelationUse{{Relation: r}}}
		for range rows {
			f.Append(row)
		}
		b.Transactions = append(b.Transactions, &pipeline.Transaction{CSN: pipeline.CSN(i + 1), GID: strings.Repeat("\x01", 200), Fragments: []*pipeline.Fragment{f}})
	}
	return b
}

// A batch never has more messages than it was counted as: it is stored at once, or the subscription stops.
func TestMessagesAreBounded(t *testing.T) {
	shards := []control.Shard{{Name: "a", DSN: "dbname=x"}}
	debezium := format.DebeziumOptions{Schema: true}
	for name, f := range map[string]format.Format{
		"transactions": {Name: format.JSON, JSON: format.JSONOptions{Types: true}},
		"rows":         {Name: format.JSON, JSON: format.JSONOptions{Types: true, Layout: format.ByRow, CloudEvents: true}},
		"debezium":     {Name: format.JSON, JSON: format.JSONOptions{Flavour: format.Debezium}, Debezium: debezium},
		"postgresql":   {Name: format.SQL, SQL: format.SQLOptions{Dialect: "postgresql", CreateTables: true, Idempotent: true}},
		"mysql":        {Name: format.SQL, SQL: format.SQLOptions{Dialect: "mysql", CreateTables: true}},
	} {
		for _, column := range []string{"note", strings.Repeat("long", 14), strings.Repeat("\x01", 59)} {
			if f.SQL.Dialect == "mysql" && column[0] == 1 {
				continue // refused
			}
			s := room{batchMax: 1000, messageBytes: 64 << 10}
			form, err := newForm(&control.Subscription{Name: "s", Shards: shards, Format: f.Name, JSON: f.JSON, SQL: f.SQL, Debezium: f.Debezium}, s, nil)
			if err != nil {
				t.Fatal(err)
			}
			b := sparse(5, 20, 200, column)
			payloads, err := form.Encode(b)
			if err != nil {
				t.Fatal(err)
			}
			messages, counted := 0, 0
			for _, p := range payloads {
				messages += len(wire.Split(p.Data, s.messageBytes))
			}
			for _, tx := range b.Transactions {
				counted += form.messages(tx)
			}
			t.Logf("%s, %.4q…: %d payloads, %d messages, counted %d", name, column, len(payloads), messages, counted)
			if messages > counted {
				t.Errorf("%s, %.4q…: %d messages, counted %d", name, column, messages, counted)
			}
			if form.unitMessages+wire.CheckpointBytesMax/s.messageBytes >= s.batchMax {
				t.Errorf("no room for a checkpoint beside %d messages", form.unitMessages)
			}
		}
	}
}

// What is ordinary is not counted as more than it is.
func TestMessagesOfSmallTransactions(t *testing.T) {
	for _, layout := range []string{format.ByTransaction, format.ByRow} {
		form, err := newForm(&control.Subscription{
			Name: "s", Shards: []control.Shard{{Name: "a"}}, Format: format.JSON, JSON: format.JSONOptions{Layout: layout},
		}, room{batchMax: 1000, messageBytes: 900 << 10}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := sparse(1, 5, 30, "note")
		payloads, err := form.Encode(b)
		if n := form.messages(b.Transactions[0]); err != nil || n != len(payloads) || form.unitMessages < 900 {
			t.Errorf("%d payloads, counted %d, %d in a unit: %v", len(payloads), n, form.unitMessages, err)
		}
	}
}
