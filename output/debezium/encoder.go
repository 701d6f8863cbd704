package debezium

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/moves"
)

// Config is what events say besides their rows.
type Config struct {
	Subscription string  // Debezium's topic.prefix
	Shards       []Shard // by ShardID
	// Debezium are the choices, with their defaults filled in.
	Debezium format.DebeziumOptions
	// Route is the subject (behind the subscription's part) of tables that have another one than their name; nil: none has.
	Route func(schema, table string) (tokens string, ok bool)
}

// Shard is where rows come from.
type Shard struct {
	Name     string
	Database string
}

// Encoder writes events; it is an output.Encoder.
type Encoder struct {
	conf   Config
	name   string                  // of the subscription, as a JSON string
	tables output.Relations[table] // what is the same for all rows of a relation
	// What stands in front of payloads that are not of a table; empty without schemas.
	messageSchema, messageKeySchema, boundarySchema, boundaryKeySchema string
	content                                                            form       // of logical messages
	sources                                                            [][]string // of shards, the parts of the source block that are theirs

	buffers  output.Buffers
	payloads [2][]output.Payload // used in turn, as the buffers
	ends     []int               // where payloads end in the buffer

	// Of the running Encode, or of the series that is made.
	to       func(*output.Payload) error // where each payload goes; nil: all of them stay in the buffer
	buf      []byte
	tx       transaction
	of       *pipeline.Fragment
	moved    moves.Moved
	pass     moves.Fate // First or InOrder
	fragment int
	index    int    // of the next change in the fragment
	split    bool   // it is in two pieces
	end      string // of the fragment, as a number
	walker   pipeline.Walker
	each     func(*pipeline.Change) error
	values   [2][]pipeline.Value // scratch
	old, new []pipeline.Value    // of the row; nil: it has none
	scratch  []byte              // of keys
	escaped  []byte              // scratch of ascii
}

var _ output.Encoder = (*Encoder)(nil)

// New makes an Encoder.
func New(conf Config) (*Encoder, error) {
	for _, s := range conf.Shards {
		if !utf8.ValidString(s.Name + s.Database) {
			return nil, fmt.Errorf("shard %q: database %q: %w", s.Name, s.Database, errName)
		}
	}
	e := &Encoder{conf: conf, name: quote(conf.Subscription), content: binaryForm(conf.Debezium.Binary)}
	e.each = e.next
	e.values[0], e.values[1] = make([]pipeline.Value, 0, 16), make([]pipeline.Value, 0, 16)
	for _, s := range conf.Shards {
		e.sources = append(e.sources, []string{
			`,"db":` + quote(s.Database) + `,"sequence":"[\"`,
			`,"shard":` + quote(s.Name) + `}`,
		})
	}
	if conf.Debezium.Schema {
		e.messageSchema, e.messageKeySchema = schemaOf(messageNode(e.content.node)), schemaOf(messageKeyNode())
		e.boundarySchema, e.boundaryKeySchema = schemaOf(boundaryNode()), schemaOf(boundaryKeyNode())
	}
	return e, nil
}

// MessagesMax is how many payloads a transaction has at most.
func MessagesMax(tx *pipeline.Transaction, opts *format.DebeziumOptions) int {
	n := 2 // BEGIN and END
	for _, f := range tx.Fragments {
		each := 2 // an update of the key is a deletion and a creation
		if opts.Tombstones {
			each++
		}
		if !f.Ops.Has(pipeline.Update) {
			each--
		}
		if f.Ops.Has(pipeline.Truncate) && opts.Truncate { // each may be of every table
			each = max(each, len(f.Relations))
		}
		n += each * f.Changes
	}
	return n
}

// Encode writes the batch's transactions, each as its BEGIN, its events and its END.
func (e *Encoder) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	if len(b.Transactions) == 0 {
		return nil, nil
	}
	for _, tx := range b.Transactions {
		if !tx.Resident() {
			return e.series(b)
		}
	}
	e.buf, e.ends = e.buffers.Take(0), e.ends[:0]
	defer func() { // also after an error: the next Encode must not use what the payloads before are in
		e.buffers.Keep(e.buf)
		e.buf = nil
		e.payloads[0], e.payloads[1] = e.payloads[1], e.payloads[0]
	}()
	clear(e.payloads[0])
	e.payloads[0] = e.payloads[0][:0]
	previous := b.Previous
	for _, tx := range b.Transactions {
		if err := e.transaction(tx, previous); err != nil {
			return nil, fmt.Errorf("encode csn %s for debezium: %w", tx.CSN, err)
		}
		previous = tx.CSN
	}
	start := 0
	for i, end := range e.ends { // only now: the buffer has stopped moving
		e.payloads[0][i].Data = e.buf[start:end:end]
		start = end
	}
	return e.payloads[0], nil
}

// headersMax bounds the headers of a payload: a server of NATS takes 64 kB, with those that every message has.
const headersMax = 48 << 10

// put takes what was written since the last put as a payload; end says that it ends its transaction.
func (e *Encoder) put(tokens string, headers []output.Header, end bool) error {
	size := 0
	for _, h := range headers {
		size += len(h.Name) + len(h.Value)
	}
	if size > headersMax {
		return fmt.Errorf("%s: the key and the names of its unchanged columns take %d bytes as headers, and a message of NATS has room for %d. Try: another REPLICA IDENTITY, or --json-flavour native", tokens, size, headersMax)
	}
	p := output.Payload{CSN: e.tx.CSN, Subject: tokens, Headers: headers}
	if end {
		p.Transactions = 1
	}
	if e.to != nil {
		p.Data = e.buf
		e.buf = e.buf[:0]
		return e.to(&p)
	}
	e.payloads[0] = append(e.payloads[0], p)
	e.ends = append(e.ends, len(e.buf))
	return nil
}

// next writes the events of a change, if it is its turn. Of an update that changes the key the row may be gone first, and be there under
// the new key in order.
func (e *Encoder) next(c *pipeline.Change) error {
	fate := moves.InOrder
	if e.moved != nil {
		fate = e.moved.Of(e.fragment, e.index)
		e.index++
	}
	e.split = fate == moves.Split
	if fate != e.pass && !e.split {
		return nil
	}
	return e.change(c)
}

// change writes the events of one change. Its errors name the shard; the table and the column, too, where there is one.
func (e *Encoder) change(c *pipeline.Change) error {
	var err error
	switch c.Op {
	case pipeline.Insert, pipeline.Read, pipeline.Update, pipeline.Delete:
		err = e.row(c)
	case pipeline.Truncate:
		err = e.truncate(c)
	case pipeline.Message:
		err = e.message(c)
	default:
		err = fmt.Errorf("%s has no form", c.Op)
	}
	if err != nil {
		return fmt.Errorf("shard %q: %s: %w", e.conf.Shards[e.of.Shard].Name, c.Op, err)
	}
	return nil
}

func (e *Encoder) write(parts ...string) {
	for _, s := range parts {
		e.buf = append(e.buf, s...)
	}
}

func (e *Encoder) number(n int64) { e.buf = strconv.AppendInt(e.buf, n, 10) }

// series are the payloads of a transaction that is not in memory.
type series struct {
	e        *Encoder
	tx       *pipeline.Transaction
	previous pipeline.CSN
}

func (e *Encoder) series(b *pipeline.Batch) ([]output.Payload, error) {
	tx := b.Transactions[0]
	if len(b.Transactions) > 1 {
		return nil, fmt.Errorf("encode csn %s for debezium: %d transactions in a batch that is not in memory", b.Last(), len(b.Transactions))
	}
	return []output.Payload{{Series: &series{e: e, tx: tx, previous: b.Previous}}}, nil
}

// Each makes the payloads, one after the other.
func (s *series) Each(fn func(*output.Payload) error) error {
	s.e.to, s.e.buf = fn, nil
	defer func() { s.e.to, s.e.buf = nil, nil }()
	if err := s.e.transaction(s.tx, s.previous); err != nil {
		return fmt.Errorf("encode csn %s for debezium: %w", s.tx.CSN, err)
	}
	return nil
}
