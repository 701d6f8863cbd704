package reading

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"shardcdc/pipeline"
	"shardcdc/pipeline/wire"
)

// rows puts the messages of a transaction together that is published row by row. Its last message is on the subject of
// transactions.
type rows struct {
	limit int // bytes of rows that are kept; beyond it none are

	csn      pipeline.CSN
	first    pipeline.Seq
	messages int
	bytes    int64
	tooLarge bool

	begin  json.RawMessage // of Debezium
	stored []Row
}

// Row is a message about one row, or about what else a transaction did.
type Row struct {
	Subject   string
	Key       string // Debezium's key as JSON; empty: the message has none
	Tombstone bool   // of Debezium
	Body      json.RawMessage
}

// Debezium is a transaction in the flavour debezium: its messages as they are.
type Debezium struct {
	Begin, End json.RawMessage
	Rows       []Row
}

func (r *rows) reset() { *r = rows{limit: r.limit} }

// note counts a message of a transaction; another one than before begins anew.
func (r *rows) note(m *Message, messages int, size int64) error {
	csn, err := pipeline.ParseCSN(m.Header.Get(wire.HeaderCSN))
	if err != nil {
		return fmt.Errorf("header %s: %w", wire.HeaderCSN, err)
	}
	if csn != r.csn {
		r.reset()
		r.csn, r.first = csn, m.Seq-pipeline.Seq(messages-1)
	}
	r.messages += messages
	r.bytes += size
	if r.bytes > int64(r.limit) {
		r.tooLarge, r.stored = true, nil
	}
	return nil
}

// add takes a row.
func (r *rows) add(m *Message, messages int, payload []byte) error {
	if err := r.note(m, messages, int64(len(payload))); err != nil || r.tooLarge {
		return err
	}
	r.stored = append(r.stored, Row{
		Subject: m.Subject, Key: m.Header.Get(wire.HeaderKey), Tombstone: m.Header.Get(wire.HeaderTombstone) == "true", Body: payload,
	})
	return nil
}

// largeRow takes a row that alone is too large: its size is all that is there of it.
func (r *rows) largeRow(m *Message, parts int, size int64) error {
	if err := r.note(m, parts, size); err != nil {
		return err
	}
	r.tooLarge, r.stored = true, nil
	return nil
}

// place is where the transaction stands, with its last message m.
func (r *rows) place(m *Message) Place {
	return Place{First: r.first, Last: m.Seq, Messages: r.messages}
}

// transaction takes the message that ends a transaction, and gives it the form that it has in the layout transaction.
func (r *rows) transaction(m *Message, payload []byte) ([]*Transaction, error) {
	if err := r.note(m, 1, 0); err != nil {
		return nil, err
	}
	defer r.reset()
	h, err := headOf(payload)
	if err != nil {
		return nil, err
	}
	h.Bytes, h.TooLarge = r.bytes, r.tooLarge
	t := &Transaction{Head: h, Place: r.place(m)}
	if r.tooLarge {
		return []*Transaction{t}, nil
	}
	if t.JSON, err = r.together(payload, h.Total); err != nil {
		return nil, fmt.Errorf("csn %s: %w", h.CSN, err)
	}
	t.Tables = h.Tables
	return []*Transaction{t}, nil
}

// envelope are the fields of a row's message that are its transaction's.
var envelope = []string{"csn", "gid", "commit_time", "xid", "lsn", "total"}

// together is the transaction with its rows in it.
func (r *rows) together(payload []byte, total int) ([]byte, error) {
	out, err := without(payload, []string{"tables"})
	if err != nil {
		return nil, err
	}
	out = append(bytes.TrimSuffix(out, []byte("}")), changesKey...)
	next := 0
	for i, row := range r.stored {
		at, err := changeOf(row)
		if err != nil {
			return nil, err
		}
		switch {
		case *at.Index == next-1: // another table of a TRUNCATE
			continue
		case *at.Index != next:
			return nil, fmt.Errorf("row %d follows row %d", *at.Index, next-1)
		}
		change, err := without(row.Body, envelope)
		if err == nil && at.Op == "truncate" {
			change, err = truncation(change, r.stored[i:], next)
		}
		if err != nil {
			return nil, err
		}
		if next > 0 {
			out = append(out, ',')
		}
		out = append(out, change...)
		next++
	}
	if next != total {
		return nil, fmt.Errorf("%d rows, and its end says %d", next, total)
	}
	return append(out, "]}"...), nil
}

// change is what a row's message says of its place.
type change struct {
	Index             *int
	Op, Schema, Table string
}

func changeOf(row Row) (c change, err error) {
	if err := json.Unmarshal(row.Body, &c); err != nil || c.Index == nil {
		return c, errors.Join(errors.New("a row's message has no index"), err)
	}
	return c, nil
}

// truncation makes a TRUNCATE of its messages, one for each table, all with one index: these are the first of rows.
func truncation(first []byte, rows []Row, index int) ([]byte, error) {
	type table struct {
		Schema string `json:"schema"`
		Table  string `json:"table"`
	}
	var tables []table
	for _, row := range rows {
		c, err := changeOf(row)
		if err != nil {
			return nil, err
		}
		if *c.Index != index {
			break
		}
		tables = append(tables, table{c.Schema, c.Table})
	}
	all, err := json.Marshal(tables)
	if err != nil {
		return nil, err
	}
	out, err := without(first, []string{"schema", "table"})
	if err != nil {
		return nil, err
	}
	return append(append(append(bytes.TrimSuffix(out, []byte("}")), `,"tables":`...), all...), '}'), nil
}

// debezium takes a message on the subject of transactions: BEGIN or END.
func (r *rows) debezium(m *Message, payload []byte) ([]*Transaction, error) {
	if err := r.note(m, 1, 0); err != nil {
		return nil, err
	}
	event, err := transactionEvent(payload)
	if err != nil {
		return nil, err
	}
	if event.Status == "BEGIN" {
		r.begin = payload
		return nil, nil
	}
	defer r.reset()
	h := Head{CSN: r.csn, Previous: event.Previous, GID: event.GID, CommitTime: event.time(), Total: event.Count, Bytes: r.bytes, TooLarge: r.tooLarge, Fragments: []Fragment{}}
	t := &Transaction{Head: h, Place: r.place(m)}
	if !r.tooLarge {
		t.Parts = &Debezium{Begin: r.begin, End: payload, Rows: r.stored}
	}
	return []*Transaction{t}, nil
}

// Field is a member of a JSON object.
type Field struct {
	Name  string
	Value json.RawMessage
}

// Fields are the members of a JSON object, in their order; none of null.
func Fields(b []byte) (fields []Field, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	t, err := d.Token()
	if err != nil || t == nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, fmt.Errorf("%.20s… is no JSON object", b)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		f := Field{Name: fmt.Sprint(name)}
		if err := d.Decode(&f.Value); err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// without is a JSON object without some of its members.
func without(object []byte, names []string) ([]byte, error) {
	fields, err := Fields(object)
	if err != nil {
		return nil, err
	}
	out := []byte{'{'}
	for _, f := range fields {
		if slices.Contains(names, f.Name) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), f.Value...)
	}
	return append(out, '}'), nil
}
