package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/output"
	"shardcdc/output/debezium"
	outputjson "shardcdc/output/json"
	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/shape"
	"shardcdc/pipeline/wire"
)

// form is how a subscription's transactions become messages.
type form struct {
	output.Encoder
	// unitBytes is how much row data a unit holds, messages into how many a transaction becomes at most (nil: nobody counts), and
	// unitMessages how many a unit holds; 0: no bound.
	unitBytes    int
	messages     func(*pipeline.Transaction) int
	unitMessages int
	// singly: so many transactions are units of their own; see merge.Config.
	singly int
	// watermark is what a message says that tells a watermark alone; nil: nothing. With it an idle stream tells watermarks.
	watermark func(pipeline.CSN) []byte
}

// A unit of several messages is an atomic batch, whose cost at the server is some milliseconds and then some microseconds for each
// message. Its messages are those of its transactions, and those of a large checkpoint, for which there is always room.
const (
	batchUnitBytes  = 2 << 20
	batchMessageMax = 4000
	// So many messages cost one server no more by themselves than as a batch, which it stages in files of their own. The
	// servers of a cluster stage in memory, and agree on a batch as on one message.
	batchSingly = 10
)

// room is how many messages a server takes at once, and how many bytes of a payload each of them holds.
type room struct{ batchMax, messageBytes int }

// newForm finds the form. shaper may be nil.
func newForm(sub *control.Subscription, s room, shaper *shape.Shaper) (form, error) {
	if sub.Format == format.Internal {
		return form{Encoder: output.NewInternal(), unitBytes: UnitBytes}, nil
	}
	f := form{unitBytes: batchUnitBytes, unitMessages: min(batchMessageMax, s.batchMax-wire.CheckpointBytesMax/s.messageBytes-1)}
	f, err := f.encodes(sub, shaper)
	payloads := f.messages
	f.messages = func(tx *pipeline.Transaction) int {
		n := textBytesMax(tx) / s.messageBytes
		if payloads == nil {
			return 1 + n
		}
		return payloads(tx) + n
	}
	return f, err
}

// textBytesMax is more than a transaction becomes in any format but internal. Row data grows most where it is least: a NULL is one
// byte, and its column's name up to 63, which become 378 when all of them need an escape, more than once in each row.
func textBytesMax(tx *pipeline.Transaction) int {
	const value = 12 // a byte's escape, in a key and in a row
	const perColumn, perName = 500, 6
	const perChange, perTable = 4000, 1000
	n := value * int(tx.Bytes())
	for _, f := range tx.Fragments {
		widest := 0
		for _, use := range f.Relations {
			width := perColumn * len(use.Relation.Columns)
			for i := range use.Relation.Columns {
				width += perName * escapedMax(use.Relation.Columns[i].Name)
			}
			n += perTable + width // what it is called, and looks like
			widest = max(widest, width)
		}
		change := perChange + widest
		if f.Ops.Has(pipeline.Truncate) {
			change += perTable * len(f.Relations)
		}
		n += change * f.Changes
	}
	return n
}

// escapedMax is more than a name takes between quotes.
func escapedMax(name string) int {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c == '"' || c == '\\' || c == '\'' || c == '`' {
			return 6 * len(name)
		}
	}
	return len(name)
}

// encodes finds the encoder, and how many payloads it makes of a transaction; nil: one.
func (f form) encodes(sub *control.Subscription, shaper *shape.Shaper) (form, error) {
	switch {
	case sub.Format == format.JSON && sub.JSON.Flavour == format.Debezium:
		return f.debezium(sub, shaper)
	case sub.Format == format.JSON && sub.JSON.Layout == format.ByRow:
		rows := outputjson.NewRows(sub.Name, shardNames(sub), sub.JSON)
		rows.Route = shaper.Route
		f.Encoder, f.messages = rows, outputjson.RowMessages
		f.watermark = outputjson.Watermark
	case sub.Format == format.JSON:
		f.Encoder, f.singly = outputjson.New(shardNames(sub), sub.JSON), batchSingly
		f.watermark = outputjson.Watermark
	case sub.Format == format.SQL:
		f.Encoder = sql.New(sql.Config{Shards: shardNames(sub), Options: sub.Output().WithDefaults().SQL, Truncate: sub.Truncate})
		f.singly = batchSingly
	default:
		return f, fmt.Errorf("format %q is unknown", sub.Format)
	}
	return f, nil
}

// resume tells an encoder that has to know it which tables without a key are being copied: what shards do to them before their rows
// arrive is contained in these. Readers of other formats see to that themselves.
func (f *form) resume(tables []copying.Unkeyed) {
	encoder, ok := f.Encoder.(*sql.Encoder)
	if !ok {
		return
	}
	var copied []sql.Copied
	for _, t := range tables {
		copied = append(copied, sql.Copied{Schema: t.Table.Schema, Table: t.Table.Name, Job: t.Job, Arrived: t.Arrived})
	}
	encoder.Resume(copied)
}

func (f form) debezium(sub *control.Subscription, shaper *shape.Shaper) (form, error) {
	conf := debezium.Config{Subscription: sub.Name, Route: shaper.Route, Debezium: sub.Output().WithDefaults().Debezium}
	for _, s := range sub.Shards {
		database, err := databaseOf(s.DSN)
		if err != nil {
			return f, fmt.Errorf("shard %s: %w", s.Name, err)
		}
		conf.Shards = append(conf.Shards, debezium.Shard{Name: s.Name, Database: database})
	}
	encoder, err := debezium.New(conf)
	f.Encoder = encoder
	f.messages = func(tx *pipeline.Transaction) int { return debezium.MessagesMax(tx, &conf.Debezium) }
	f.watermark = outputjson.Watermark
	return f, err
}

// databaseOf is the database that a DSN names.
func databaseOf(text string) (string, error) {
	expanded, err := dsn.Expand(text, os.LookupEnv)
	if err != nil {
		return "", err
	}
	conf, err := pgconn.ParseConfig(expanded)
	if err != nil {
		return "", errors.New(dsn.Scrub(err.Error(), expanded))
	}
	return cmp.Or(conf.Database, conf.User), nil // as PostgreSQL does
}

func shardNames(sub *control.Subscription) []string {
	names := make([]string, len(sub.Shards))
	for i, s := range sub.Shards {
		names[i] = s.Name
	}
	return names
}

// filled says whether a batch was large enough for a unit.
func (f *form) filled(b *pipeline.Batch) bool {
	size, messages := int64(0), 0
	for _, tx := range b.Transactions {
		size += tx.Bytes()
		if f.messages != nil {
			messages += f.messages(tx)
		}
	}
	return size >= int64(f.unitBytes/2) || messages >= f.unitMessages/2
}
