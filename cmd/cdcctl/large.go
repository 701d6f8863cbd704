package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// largeHead is what tail shows of a transaction that is too large to show: its JSON form (docs/formats.md) without
// the changes.
type largeHead struct {
	CSN        pipeline.CSN    `json:"csn"`
	Previous   pipeline.CSN    `json:"previous"`
	GID        json.RawMessage `json:"gid"` // as it stands in JSON: a string, null or base64
	CommitTime string          `json:"commit_time"`
	Fragments  []largeFragment `json:"fragments"`
	Total      int             `json:"total"`
	TooLarge   bool            `json:"too_large"`
	Bytes      int64           `json:"bytes"`
}

type largeFragment struct {
	Shard   string          `json:"shard"`
	XID     uint32          `json:"xid"`
	LSN     pipeline.LSN    `json:"lsn"`
	Changes int             `json:"changes"`
	Origin  json.RawMessage `json:"origin,omitempty"`
}

// largePayload reads a payload of many parts for its head, and keeps nothing else of it.
type largePayload interface {
	// add takes part k of n. With the last one it returns the heads of the transactions.
	add(k, n int, data []byte) (heads []largeHead, err error)
}

func (r *unitReader) newLarge(n int) (largePayload, error) {
	switch r.format {
	case format.Internal:
		return &largeFrame{a: r.decoder.Begin(n), shards: r.shards}, nil
	case format.JSON:
		return &largeText{}, nil
	}
	return nil, r.unknownFormat()
}

// largeFrame is a payload of the format internal.
type largeFrame struct {
	a      *wire.Assembly
	shards []string
}

func (l *largeFrame) add(k, n int, data []byte) ([]largeHead, error) {
	if err := l.a.Expect(k, n); err != nil {
		return nil, err
	}
	if _, err := l.a.Add(data); err != nil || k < n {
		return nil, err
	}
	if err := l.a.End(); err != nil {
		return nil, err
	}
	return l.heads()
}

func (l *largeFrame) heads() (heads []largeHead, err error) {
	u := l.a.Head()
	previous := u.Previous
	for _, tx := range u.Transactions {
		h := largeHead{CSN: tx.CSN, Previous: previous, CommitTime: tx.CommitTime.String(), Total: tx.Changes(), TooLarge: true, Bytes: tx.Bytes(), GID: textOrNull(tx.GID)}
		previous = tx.CSN
		for _, f := range tx.Fragments {
			if int(f.Shard) >= len(l.shards) {
				return nil, fmt.Errorf("fragment %s: the subscription has %d shards only", f, len(l.shards))
			}
			lf := largeFragment{Shard: l.shards[f.Shard], XID: uint32(f.XID), LSN: f.End, Changes: f.Changes}
			if f.Origin != "" {
				lf.Origin = textOrNull(f.Origin)
			}
			h.Fragments = append(h.Fragments, lf)
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

// largeText is a payload of the format json. Its head stands before its changes, in the first part unless the
// transaction has tens of thousands of fragments.
type largeText struct {
	head  largeHead
	k, of int
}

// changesKey ends the head: a fragment's "changes" is a number, and a quote in a value is escaped.
var changesKey = []byte(`,"changes":[`)

func (l *largeText) add(k, n int, data []byte) ([]largeHead, error) {
	if k == 1 {
		l.of = n
		head, _, found := bytes.Cut(data, changesKey)
		if !found {
			return nil, fmt.Errorf("a transaction of %d parts has its changes not in the first", n)
		}
		if err := json.Unmarshal(append(bytes.Clone(head), '}'), &l.head); err != nil {
			return nil, fmt.Errorf("transaction as JSON: %w", err)
		}
	}
	if k != l.k+1 || n != l.of {
		return nil, fmt.Errorf("part %s of a payload follows part %s", wire.PartHeader(k, n), wire.PartHeader(l.k, l.of))
	}
	l.k = k
	l.head.Bytes += int64(len(data))
	if k < n {
		return nil, nil
	}
	l.head.TooLarge = true
	return []largeHead{l.head}, nil
}
