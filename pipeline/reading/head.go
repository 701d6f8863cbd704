package reading

import (
	"bytes"
	"encoding/json"
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// Head is what a transaction is: its JSON form (docs/formats.md) without the changes.
type Head struct {
	CSN        pipeline.CSN    `json:"csn"`
	Previous   pipeline.CSN    `json:"previous"`
	GID        json.RawMessage `json:"gid"`         // as it stands in JSON: a string, null or base64
	CommitTime string          `json:"commit_time"` // RFC 3339 in UTC; empty: the stream does not say it
	Fragments  []Fragment      `json:"fragments"`
	Total      int             `json:"total"`
	Tables     []Table         `json:"tables,omitempty"`    // of the layout row: what was changed
	TooLarge   bool            `json:"too_large,omitempty"` // to be read whole
	Bytes      int64           `json:"bytes"`               // of the rows; of JSON and SQL, of the text
}

// Fragment is what a transaction did on one shard.
type Fragment struct {
	Shard   string          `json:"shard"`
	XID     uint32          `json:"xid"`
	LSN     pipeline.LSN    `json:"lsn"`
	Changes int             `json:"changes"`
	Origin  json.RawMessage `json:"origin,omitempty"`
}

// Table says how many changes of a transaction were to a table.
type Table struct {
	Schema  string `json:"schema"`
	Table   string `json:"table"`
	Changes int    `json:"changes"`
}

// headsOf are the heads of a unit of the format internal.
func headsOf(u *wire.Unit, shards []string) ([]Head, error) {
	heads := make([]Head, 0, len(u.Transactions))
	previous := u.Previous
	for _, tx := range u.Transactions {
		h := Head{CSN: tx.CSN, Previous: previous, CommitTime: tx.CommitTime.String(), Total: tx.Changes(), Bytes: tx.Bytes(), GID: textOrNull(tx.GID)}
		previous = tx.CSN
		for _, f := range tx.Fragments {
			if int(f.Shard) >= len(shards) {
				return nil, fmt.Errorf("fragment %s: the subscription has %d shards only", f, len(shards))
			}
			of := Fragment{Shard: shards[f.Shard], XID: uint32(f.XID), LSN: f.End, Changes: f.Changes}
			if f.Origin != "" {
				of.Origin = textOrNull(f.Origin)
			}
			h.Fragments = append(h.Fragments, of)
		}
		heads = append(heads, h)
	}
	return heads, nil
}

func textOrNull(s string) json.RawMessage {
	if s == "" {
		return json.RawMessage("null")
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // of a string: cannot be
	}
	return b
}

// changesKey ends the head: a fragment's "changes" is a number, and a quote in a value is escaped.
var changesKey = []byte(`,"changes":[`)

// headOf is the head of a JSON transaction, whole or its beginning up to the changes; of the layout row it is all of it.
func headOf(payload []byte) (h Head, err error) {
	head, _, found := bytes.Cut(payload, changesKey)
	if found {
		head = append(bytes.Clone(head), '}')
	}
	if err := json.Unmarshal(head, &h); err != nil {
		return h, fmt.Errorf("transaction as JSON: %w", err)
	}
	h.Bytes = int64(len(payload))
	return h, nil
}

// largePayload reads a payload of many parts for its head, and keeps nothing else of it.
type largePayload interface {
	// add takes part k of n. With the last one it returns the heads of the transactions.
	add(k, n int, data []byte) ([]Head, error)
}

func (r *Reader) newLarge(m *Message, n int) (largePayload, error) {
	switch {
	case r.format == format.Internal:
		return &largeFrame{a: r.decoder.Begin(n), shards: r.shards}, nil
	case r.format == format.JSON && r.layout == format.ByTransaction:
		return &largeText{head: headOf}, nil
	case r.format == format.JSON && m.Subject != r.transactions: // a row: its transaction's head comes later
		return &largeText{head: func([]byte) (Head, error) { return Head{}, nil }}, nil
	case r.format == format.JSON:
		return nil, fmt.Errorf("what ends a transaction has %d parts, more than %d bytes", n, r.limit)
	case r.format == format.SQL:
		return &largeText{head: func(data []byte) (Head, error) { return sqlHead(m, data) }}, nil
	}
	return nil, r.unknownFormat()
}

// largeFrame is a payload of the format internal.
type largeFrame struct {
	a      *wire.Assembly
	shards []string
}

func (l *largeFrame) add(k, n int, data []byte) ([]Head, error) {
	if err := l.a.Expect(k, n); err != nil {
		return nil, err
	}
	if _, err := l.a.Add(data); err != nil || k < n {
		return nil, err
	}
	if err := l.a.End(); err != nil {
		return nil, err
	}
	heads, err := headsOf(l.a.Head(), l.shards)
	for i := range heads {
		heads[i].TooLarge = true
	}
	return heads, err
}

// largeText is a payload of text. Its head stands in the first part (of JSON: unless the transaction has tens of thousands of
// fragments).
type largeText struct {
	head  func(first []byte) (Head, error)
	h     Head
	bytes int64
	k, of int
}

func (l *largeText) add(k, n int, data []byte) (heads []Head, err error) {
	if k == 1 {
		l.of = n
		if l.h, err = l.head(data); err != nil {
			return nil, err
		}
	}
	if k != l.k+1 || n != l.of {
		return nil, fmt.Errorf("part %s of a payload follows part %s", wire.PartHeader(k, n), wire.PartHeader(l.k, l.of))
	}
	l.k = k
	l.bytes += int64(len(data))
	if k < n {
		return nil, nil
	}
	l.h.TooLarge, l.h.Bytes = true, l.bytes
	return []Head{l.h}, nil
}
