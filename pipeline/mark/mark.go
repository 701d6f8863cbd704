// Package mark is what shardcdc itself says in the stream: where the copy of a table begins, arrives and ends, and which
// statement changed a table. A mark is a transactional logical message. It is written into a shard's WAL, so it comes at its
// place among the transactions of that shard and gets a CSN as every other; or it is made where the stream is published.
//
// The content of a mark is JSON. Unknown fields are an error: a mark that is not understood must not be passed over.
//
// # The copy of tables
//
//	begin   the tables of a job will be copied. From here on their rows on a target are incomplete.
//	high    a chunk was read from a shard; its rows belong here. The node that captures puts the rows in place of the mark
//	        (rows). One that it does not know, because another node read that chunk, stays as it is and means nothing.
//	rows    the rows of a chunk: in the body of the fragment, behind the mark, as pipeline.Read
//	end     every row of these tables was there: at this CSN a target that has applied everything equals the source
package mark

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"shardcdc/pipeline"
)

// Prefixes of the logical messages.
const (
	CopyPrefix = "cdc.copy"
	DDLPrefix  = "cdc.ddl"
)

// Is says whether a logical message is a mark.
func Is(prefix string) bool { return prefix == CopyPrefix || prefix == DDLPrefix }

// Kind of a Copy mark.
type Kind string

const (
	Begin Kind = "begin"
	High  Kind = "high"
	Rows  Kind = "rows"
	End   Kind = "end"
)

// What a target does, at Begin, with rows that a table holds already.
const (
	TargetFail     = "fail"     // it stops until the table is empty
	TargetTruncate = "truncate" // it empties the table
	TargetMerge    = "merge"    // it keeps them; copied rows take the place of those with the same key
)

// Copy is the content of a mark of CopyPrefix.
type Copy struct {
	Token string `json:"token,omitempty"` // see From
	Kind  Kind   `json:"mark"`
	Job   string `json:"job"`             // which copy
	Chunk string `json:"chunk,omitempty"` // High, Rows: which chunk
	// Tables: all that begin or end here; of Rows the one that the rows are of.
	Tables []Table `json:"tables,omitempty"`
	// TargetRows of Begin.
	TargetRows string `json:"target_rows,omitempty"`
	// Last of End: no table is being copied any more.
	Last bool `json:"last,omitempty"`
}

// Table names a table, as the shards publish it.
type Table struct {
	Schema string `json:"schema"`
	Name   string `json:"table"`
	// Keyed: a row is found by a key, so the table is copied in many chunks. Else the rows of each shard come in one, and
	// what a shard sent about the table after Begin and before its Rows is contained in these: a reader leaves it out.
	Keyed bool `json:"keyed"`
}

func (t Table) String() string { return t.Schema + "." + t.Name }

// DDL is the content of a mark of DDLPrefix: one statement that changed what tables look like, as a shard ran it. Every
// subscription whose triggers are on the shard writes its own.
type DDL struct {
	Subscription string `json:"subscription"`    // whose triggers wrote it; it means nothing to others
	Token        string `json:"token,omitempty"` // see From
	// Statement is what the client sent, or what a function or DO block executed. Several statements in one text each have
	// a mark with the whole text; Tag and Nth say which of them this one is.
	Statement  string `json:"statement"`
	Tag        string `json:"tag"`         // PostgreSQL's command tag: ALTER TABLE, …
	Nth        int    `json:"nth"`         // among those of this tag that the client's message has run so far, from 1
	SearchPath string `json:"search_path"` // as it was where the statement ran
	// Nested: the statement was executed by another one (a function, a DO block), so Nth does not count in it.
	Nested bool `json:"nested,omitempty"`
	// Inexact: why Statement is not the text of the command, but of what caused it.
	Inexact string `json:"inexact,omitempty"`
	// Settings are those of the shard's session that the meaning of the statement may depend on.
	Settings map[string]string `json:"settings,omitempty"`
	Objects  []DDLObject       `json:"objects,omitempty"` // what was changed or dropped
	// Filled names partitions of the table that was changed that hold rows, if it may have got one: schema and name.
	Filled []Table `json:"filled,omitempty"`
}

// Types of a DDLObject.
const (
	DDLTable  = "table"
	DDLColumn = "column" // of a table; after a RENAME its new name
	DDLIndex  = "index"  // of a table
	DDLType   = "type"   // enum, domain, composite type
	DDLSchema = "schema"
)

// DDLObject is something that a statement changed, under the name that it has then; or dropped.
type DDLObject struct {
	Type    string `json:"type"`
	Schema  string `json:"schema"`
	Name    string `json:"name"`             // of a column: its table's
	Column  string `json:"column,omitempty"` // DDLColumn
	Dropped bool   `json:"dropped,omitempty"`
	// Published, of a table that was dropped: it was in the subscription itself. Else it may be a partition, or a table of
	// that name which was never captured.
	Published bool `json:"published,omitempty"`
}

// Content is the mark as it is written.
func (c *Copy) Content() []byte { return content(c) }

// Content is the mark as it is written.
func (d *DDL) Content() []byte { return content(d) }

func content(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and booleans only
	}
	return b
}

// ParseCopy reads a mark of CopyPrefix.
func ParseCopy(b []byte) (c Copy, err error) {
	if err = parse(CopyPrefix, b, &c); err != nil {
		return c, err
	}
	switch c.Kind {
	case Begin, High, Rows, End:
		return c, nil
	}
	return c, fmt.Errorf("mark %s: kind %q is unknown. Try: upgrade this reader to the release of the writing node", CopyPrefix, c.Kind)
}

// ParseDDL reads a mark of DDLPrefix.
func ParseDDL(b []byte) (d DDL, err error) { return d, parse(DDLPrefix, b, &d) }

func parse(prefix string, b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("mark %s: %w. Try: upgrade this reader to the release of the writing node", prefix, err)
	}
	return nil
}

// From says whether a mark of a shard's WAL is the subscription's own: it carries the subscription's token. Everybody who may
// connect to a shard may write logical messages, and other subscriptions write theirs; but a target does what a mark says.
// Whoever reads a shard leaves out every other mark, whatever it looks like.
func From(content []byte, token string) bool {
	var m struct{ Token string }
	return json.Unmarshal(content, &m) == nil && subtle.ConstantTimeCompare([]byte(m.Token), []byte(token)) == 1
}

// Message is a logical message as it stands in a fragment's body (see pipeline.Fragment.Append).
func Message(prefix string, content []byte, at pipeline.LSN) []byte {
	msg := []byte{byte(pipeline.Message), 1} // transactional
	msg = binary.BigEndian.AppendUint64(msg, uint64(at))
	msg = append(msg, prefix...)
	msg = append(msg, 0)
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(content)))
	return append(msg, content...)
}

// CopyOf is the mark that a change carries; ok is false when it is another change.
func CopyOf(c *pipeline.Change) (m Copy, ok bool, err error) {
	if c.Op != pipeline.Message || c.Prefix != CopyPrefix {
		return m, false, nil
	}
	m, err = ParseCopy(c.Content)
	return m, true, err
}

// DDLOf is the mark that a change carries; ok is false when it is another change.
func DDLOf(c *pipeline.Change) (d DDL, ok bool, err error) {
	if c.Op != pipeline.Message || c.Prefix != DDLPrefix {
		return d, false, nil
	}
	d, err = ParseDDL(c.Content)
	return d, true, err
}
