package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	outputjson "shardcdc/output/json"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/wire"
)

// shower makes what is printed of one transaction. It is called in the order of the stream.
type shower func(*reading.Transaction) ([]byte, error)

// newShower makes the shower of a form: text, json.
func newShower(form string, sub *control.Subscription) (shower, error) {
	s := &asJSON{encoder: outputjson.New(shardNames(sub), format.JSONOptions{})}
	if form == "json" {
		return func(t *reading.Transaction) ([]byte, error) {
			text, err := s.of(t)
			return append(text, '\n'), err
		}, nil
	}
	return func(t *reading.Transaction) ([]byte, error) { return s.text(t, wire.SubjectOf(sub.Name, "")) }, nil
}

func shardNames(sub *control.Subscription) []string {
	names := make([]string, len(sub.Shards))
	for i, s := range sub.Shards {
		names[i] = s.Name
	}
	return names
}

// asJSON is the JSON form of transactions, in the layout transaction, whatever the stream's format.
type asJSON struct{ encoder *outputjson.Encoder }

// of is the transaction's JSON, on one line.
func (s *asJSON) of(t *reading.Transaction) ([]byte, error) {
	switch {
	case t.Rows != nil:
		payloads, err := s.encoder.Encode(&pipeline.Batch{Previous: t.Previous, Transactions: []*pipeline.Transaction{t.Rows}})
		if err != nil {
			return nil, err
		}
		return bytes.Clone(payloads[0].Data), nil
	case t.JSON != nil:
		return bytes.Clone(t.JSON), nil
	case t.SQL != nil:
		return json.Marshal(struct {
			CSN pipeline.CSN `json:"csn"`
			SQL string       `json:"sql"`
		}{t.CSN, string(t.SQL)})
	case t.Parts != nil:
		return debeziumJSON(t)
	}
	return json.Marshal(t.Head)
}

// text is the transaction for people.
func (s *asJSON) text(t *reading.Transaction, subjects string) ([]byte, error) {
	switch {
	case t.SQL != nil:
		return append(bytes.TrimRight(t.SQL, "\n"), '\n'), nil
	case t.Parts != nil:
		return debeziumText(t, subjects)
	case t.TooLarge && len(t.Fragments) == 0: // what its head says of itself is less than of others
		return fmt.Appendf(nil, "csn %s  %s\n  %s: too large to show\n", t.CSN, t.CommitTime, humanize.IBytes(uint64(t.Bytes))), nil
	}
	b, err := s.of(t)
	if err != nil {
		return nil, err
	}
	parsed, err := parseTransaction(b)
	return []byte(parsed.text()), err
}

// message is a message of Debezium's.
type message struct {
	Subject   string          `json:"subject"`
	Key       json.RawMessage `json:"key,omitempty"`
	Tombstone bool            `json:"tombstone,omitempty"`
	Value     json.RawMessage `json:"value,omitempty"`
}

// debeziumJSON is a transaction with its messages as they are.
func debeziumJSON(t *reading.Transaction) ([]byte, error) {
	all := make([]message, len(t.Parts.Rows))
	for i, r := range t.Parts.Rows {
		all[i] = message{Subject: r.Subject, Key: json.RawMessage(r.Key), Tombstone: r.Tombstone, Value: r.Body}
	}
	return json.Marshal(struct {
		CSN      pipeline.CSN    `json:"csn"`
		Begin    json.RawMessage `json:"begin,omitempty"`
		Messages []message       `json:"messages"`
		End      json.RawMessage `json:"end"`
	}{t.CSN, t.Parts.Begin, all, t.Parts.End})
}

// debeziumText is a line for the transaction and one per message.
func debeziumText(t *reading.Transaction, subjects string) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "csn %s  %s\n", t.CSN, t.CommitTime)
	for _, r := range t.Parts.Rows {
		line, err := debeziumLine(r)
		if err != nil {
			return nil, fmt.Errorf("csn %s: %w", t.CSN, err)
		}
		fmt.Fprintf(&b, "  %s  %s\n", strings.TrimPrefix(r.Subject, subjects), line)
	}
	return []byte(b.String()), nil
}

func debeziumLine(r reading.Row) (string, error) {
	if r.Tombstone {
		return "tombstone " + r.Key, nil
	}
	value, err := reading.Unwrapped(r.Body)
	if err != nil {
		return "", err
	}
	var e struct {
		Op      string          `json:"op"`
		Before  object          `json:"before"`
		After   object          `json:"after"`
		Message json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return "", fmt.Errorf("message as JSON: %w", err)
	}
	parts := []string{"op " + e.Op}
	if len(e.Before) > 0 {
		parts = append(parts, "["+e.Before.text()+"]")
	}
	if len(e.After) > 0 {
		parts = append(parts, e.After.text())
	}
	if len(e.Message) > 0 {
		parts = append(parts, string(e.Message))
	}
	return strings.Join(parts, "  "), nil
}
