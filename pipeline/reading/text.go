package reading

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
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
	// What Debezium does not have:
	Previous pipeline.CSN    `json:"previous"`
	GID      json.RawMessage `json:"gid"`
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

// sqlHead is what a transaction of statements says about itself: the comment in front of it.
//
//	-- csn 9 previous 8 committed 2026-11-02T09:20:00.000001Z gid "transfer-17"
//	-- shard "a" xid 741 lsn 0/16B3860 changes 1 origin "import"
func sqlHead(m *Message, text []byte) (h Head, err error) {
	h = Head{GID: json.RawMessage("null"), Fragments: []Fragment{}, Bytes: int64(len(text))}
	if h.CSN, err = pipeline.ParseCSN(m.Header.Get(wire.HeaderCSN)); err != nil {
		return h, fmt.Errorf("header %s: %w", wire.HeaderCSN, err)
	}
	for line := range bytes.Lines(text) {
		words := words(string(bytes.TrimRight(line, "\n")))
		switch {
		case words["csn"] != "":
			h.CommitTime = words["committed"]
			if gid, ok := words["gid"]; ok {
				h.GID = textOrNull(gid)
			}
			if h.Previous, err = pipeline.ParseCSN(words["previous"]); err != nil {
				return h, fmt.Errorf("csn %s: comment in front: %w", h.CSN, err)
			}
		case words["xid"] != "":
			f, err := sqlFragment(words)
			if err != nil {
				return h, fmt.Errorf("csn %s: comment in front: %w", h.CSN, err)
			}
			h.Fragments = append(h.Fragments, f)
			h.Total += f.Changes
		default:
			return h, nil
		}
	}
	return h, nil
}

func sqlFragment(words map[string]string) (f Fragment, err error) {
	f.Shard = words["shard"]
	if f.LSN, err = pipeline.ParseLSN(words["lsn"]); err != nil {
		return f, err
	}
	xid, err := strconv.ParseUint(words["xid"], 10, 32)
	if err != nil {
		return f, err
	}
	f.XID = uint32(xid)
	if origin, ok := words["origin"]; ok {
		f.Origin = textOrNull(origin)
	}
	f.Changes, err = strconv.Atoi(words["changes"])
	return f, err
}

// words are the pairs of a comment: a word and its value, which may be quoted as Go does it. Of any other line there are none.
func words(line string) map[string]string {
	rest, ok := strings.CutPrefix(line, "-- ")
	if !ok {
		return nil
	}
	pairs := map[string]string{}
	for rest != "" {
		name, after, _ := strings.Cut(rest, " ")
		value, next, _ := strings.Cut(after, " ")
		if quoted, err := strconv.QuotedPrefix(after); err == nil {
			value, _ = strconv.Unquote(quoted) // QuotedPrefix has checked it
			next = strings.TrimPrefix(after[len(quoted):], " ")
		}
		pairs[name], rest = value, next
	}
	return pairs
}

func sqlTransaction(m *Message, text []byte) (*Transaction, error) {
	h, err := sqlHead(m, text)
	return &Transaction{Head: h, SQL: text}, err
}
