package reading

import (
	"encoding/json"
	"fmt"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// event is Debezium's BEGIN or END of a transaction.
type event struct {
	Status string `json:"status"`
	ID     string `json:"id"`
	Count  int    `json:"event_count"`
	TsMs   int64  `json:"ts_ms"`
}

// transactionEvent reads an event, with its schema around it or without.
func transactionEvent(payload []byte) (e event, err error) {
	payload, err = Unwrapped(payload)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return e, fmt.Errorf("transaction event: %w", err)
	}
	if e.Status != "BEGIN" && e.Status != "END" {
		return e, fmt.Errorf("transaction event: status %q is unknown, want BEGIN or END", e.Status)
	}
	return e, nil
}

func (e *event) time() string {
	if e.TsMs == 0 {
		return ""
	}
	return pipeline.TimestampOf(time.UnixMilli(e.TsMs)).String()
}

// Unwrapped is a message of Debezium's without the schema around it, if there is one.
func Unwrapped(message json.RawMessage) (json.RawMessage, error) {
	fields, err := Fields(message)
	if err != nil {
		return nil, fmt.Errorf("message as JSON: %w", err)
	}
	if len(fields) == 2 && fields[0].Name == "schema" && fields[1].Name == "payload" {
		return fields[1].Value, nil
	}
	return message, nil
}

// sqlHead is what a transaction of statements says about itself.
func sqlHead(m *Message, text []byte) (Head, error) {
	csn, err := pipeline.ParseCSN(m.Header.Get(wire.HeaderCSN))
	if err != nil {
		return Head{}, fmt.Errorf("header %s: %w", wire.HeaderCSN, err)
	}
	return Head{CSN: csn, GID: json.RawMessage("null"), Fragments: []Fragment{}, Bytes: int64(len(text))}, nil
}

func sqlTransaction(m *Message, text []byte) (*Transaction, error) {
	h, err := sqlHead(m, text)
	return &Transaction{Head: h, SQL: text}, err
}
