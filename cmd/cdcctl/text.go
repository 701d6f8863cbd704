package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
)

// transaction is a JSON transaction (docs/formats.md), as far as its text form shows it.
type transaction struct {
	CSN        pipeline.CSN    `json:"csn"`
	GID        json.RawMessage `json:"gid"` // a string, null or base64
	CommitTime string          `json:"commit_time"`
	Fragments  []struct {
		Shard  string          `json:"shard"`
		XID    uint32          `json:"xid"`
		LSN    string          `json:"lsn"`
		Origin json.RawMessage `json:"origin"`
	} `json:"fragments"`
	Total    int      `json:"total"`
	Changes  []change `json:"changes"`
	TooLarge bool     `json:"too_large"` // there are no changes
	Bytes    int64    `json:"bytes"`     // when it is too large
}

type change struct {
	Shard     string   `json:"shard"`
	Op        string   `json:"op"`
	Schema    string   `json:"schema"`
	Table     string   `json:"table"`
	Key       object   `json:"key"`
	Before    object   `json:"before"`
	After     object   `json:"after"`
	Unchanged []string `json:"unchanged"`
	Tables    []struct {
		Schema string `json:"schema"`
		Table  string `json:"table"`
	} `json:"tables"`
	Columns []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	} `json:"columns"`
	Mark            string          `json:"mark"`
	Job             string          `json:"job"`
	Chunk           string          `json:"chunk"`
	Tag             string          `json:"tag"`
	Statement       string          `json:"statement"`
	Cascade         bool            `json:"cascade"`
	RestartIdentity bool            `json:"restart_identity"`
	Prefix          json.RawMessage `json:"prefix"`
	Content         json.RawMessage `json:"content"`
}

// object is a JSON object whose order stays.
type object []reading.Field

func (o *object) UnmarshalJSON(b []byte) error {
	fields, err := reading.Fields(b)
	*o = fields
	return err
}

func (o object) text() string {
	parts := make([]string, len(o))
	for i, m := range o {
		parts[i] = m.Name + "=" + string(m.Value)
	}
	return strings.Join(parts, " ")
}

func parseTransaction(b []byte) (t transaction, err error) {
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("transaction as JSON: %w", err)
	}
	return t, nil
}

// text is the transaction for people: a line, and an indented line per change.
func (t *transaction) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "csn %s  %s", t.CSN, t.CommitTime)
	if len(t.GID) > 0 && string(t.GID) != "null" {
		fmt.Fprintf(&b, "  gid %s", t.GID)
	}
	for _, f := range t.Fragments {
		fmt.Fprintf(&b, "  %s@%s", f.Shard, f.LSN)
		if len(f.Origin) > 0 {
			fmt.Fprintf(&b, " (origin %s)", bytes.Trim(f.Origin, `"`))
		}
	}
	b.WriteByte('\n')
	if t.TooLarge {
		fmt.Fprintf(&b, "  %d changes, %s: too large to show\n", t.Total, humanize.IBytes(uint64(t.Bytes)))
	}
	for i := range t.Changes {
		b.WriteString("  " + t.Changes[i].text() + "\n")
	}
	return b.String()
}

func (c *change) text() string {
	head := c.Shard + "  " + c.Op + " "
	name := c.Schema + "." + c.Table
	switch c.Op {
	case "insert":
		return head + name + "  " + c.After.text()
	case "delete":
		return head + name + "  " + c.Before.text()
	case "update":
		return head + name + c.updateText()
	case "truncate":
		return head + c.truncateText()
	case "message":
		return head + string(c.Prefix) + "  " + string(c.Content)
	case "relation":
		return head + name + "  " + c.columnsText()
	case "ddl":
		return head + c.Tag + "  " + c.Statement
	case "copy":
		return head + c.Mark + "  job " + c.Job + "  " + c.tablesText()
	}
	return head + name
}

// updateText: which row, then what it is now, then what was not sent because it did not change.
func (c *change) updateText() string {
	var b strings.Builder
	switch {
	case len(c.Before) > 0:
		b.WriteString("  [" + c.Before.text() + "]")
	case len(c.Key) > 0:
		b.WriteString("  [" + c.Key.text() + "]")
	}
	b.WriteString("  " + c.After.text())
	if len(c.Unchanged) > 0 {
		b.WriteString("  (unchanged: " + strings.Join(c.Unchanged, ", ") + ")")
	}
	return b.String()
}

func (c *change) columnsText() string {
	columns := make([]string, len(c.Columns))
	for i, column := range c.Columns {
		columns[i] = strings.TrimSpace(column.Name + " " + column.Type)
	}
	return "(" + strings.Join(columns, ", ") + ")"
}

func (c *change) tablesText() string {
	names := make([]string, len(c.Tables))
	for i, t := range c.Tables {
		names[i] = t.Schema + "." + t.Table
	}
	return strings.Join(names, ", ")
}

func (c *change) truncateText() string {
	text := c.tablesText()
	if c.Cascade {
		text += " cascade"
	}
	if c.RestartIdentity {
		text += " restart identity"
	}
	return text
}
