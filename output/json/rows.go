package json

import (
	"fmt"
	"strconv"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// Rows writes one payload per change of a row, on its table's subject, and behind the last one of each transaction a payload on the
// subject of transactions that says what it consisted of. It is an output.Encoder. In the long run it allocates nothing per row,
// but for headers of CloudEvents that belong to one row alone.
type Rows struct {
	writer
	// Route is the subject (behind the subscription's part) of tables that have another one than their name; nil: none has.
	Route  func(schema, table string) (tokens string, ok bool)
	source string   // of CloudEvents
	tokens []string // the shards' names in ids of CloudEvents

	buffers output.Buffers
	made    [2]made // used in turn, as the buffers
	one     made    // of a series
	ends    []end   // what is in the buffer
	ids     []byte  // of CloudEvents, one behind the other

	// Of the running Encode, or of the series that is made.
	to      func(*output.Payload) error // where each payload goes; nil: all of them stay in the buffer
	tx      *pipeline.Transaction
	time    string   // of tx, for CloudEvents
	index   int      // of the next change in the transaction
	lead    []byte   // what the fragment's payloads begin with, up to the index
	total   []byte   // and what is behind it
	touched []*place // with messages of tx, in the order of the first one
}

var _ output.Encoder = (*Rows)(nil)

// made is what an Encode returns.
type made struct {
	payloads []output.Payload
	headers  []output.Header
}

// end is where a payload ends in the buffer, and what else there is to say of it.
type end struct {
	at, id  int // in buf; in ids
	tokens  string
	op      string
	subject string // of CloudEvents; empty: it is about no table
	csn     pipeline.CSN
	time    string
	last    bool // of its transaction
}

// NewRows makes an encoder. shards are the shards' names, by ShardID.
func NewRows(subscription string, shards []string, opts format.JSONOptions) *Rows {
	e := &Rows{writer: newWriter(shards, opts), source: "/shardcdc/" + wire.EncodeToken(subscription)}
	e.passes = passes{enter: e.enter, describe: e.describe, each: e.next}
	for _, name := range shards {
		e.tokens = append(e.tokens, wire.EncodeToken(name))
	}
	return e
}

// subject is where the rows of a table go, behind the subscription's part.
func (e *Rows) subject(p *place) string {
	if !p.routed && e.Route != nil {
		if tokens, ok := e.Route(p.name.schema, p.name.table); ok {
			p.tokens = tokens
		}
	}
	p.routed = true
	return p.tokens
}

// RowMessages is how many payloads a transaction has at most.
func RowMessages(tx *pipeline.Transaction) int {
	n := 1 // its end
	for _, f := range tx.Fragments {
		changes := f.Changes
		if f.Ops.Has(pipeline.Truncate) { // each may be of every table
			changes *= max(1, len(f.Relations))
		}
		n += changes + len(f.Relations)
	}
	return n
}

// Encode writes the batch's transactions, each as its rows and its end.
func (e *Rows) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	if len(b.Transactions) == 0 {
		return nil, nil
	}
	for _, tx := range b.Transactions {
		if !tx.Resident() {
			return e.series(b)
		}
	}
	e.buf = e.buffers.Take(0)
	e.ends, e.ids = e.ends[:0], e.ids[:0]
	defer func() { // also after an error: the next Encode must not use what the payloads before are in
		e.buffers.Keep(e.buf)
		e.buf = nil
		e.made[0], e.made[1] = e.made[1], e.made[0]
	}()
	previous := b.Previous
	for _, tx := range b.Transactions {
		k, err := e.know(tx)
		if err == nil {
			err = e.rows(tx, previous, k)
		}
		if err != nil {
			return nil, failed(tx, err)
		}
		previous = tx.CSN
	}
	return e.payloads(&e.made[0]), nil // only now: the buffer has stopped moving
}

// rows writes a transaction.
func (e *Rows) rows(tx *pipeline.Transaction, previous pipeline.CSN, k known) error {
	if err := e.check(tx, previous); err != nil {
		return err
	}
	total := tx.Changes() + k.news.total()
	e.begin(tx, total)
	if err := e.changes(tx, k); err != nil {
		return err
	}
	if e.index != total {
		return fmt.Errorf("%d changes in the bodies, %d announced", e.index, total)
	}
	return e.end(previous, k.news)
}

// begin begins a transaction.
func (e *Rows) begin(tx *pipeline.Transaction, total int) {
	e.tx, e.index = tx, 0
	e.total = strconv.AppendInt(append(e.total[:0], `,"total":`...), int64(total), 10)
	if e.opts.CloudEvents {
		e.time = tx.CommitTime.String()
	}
	for _, p := range e.touched { // also of one that could not be written
		p.messages = 0
	}
	e.touched = e.touched[:0]
	e.tables.bound()
}

// enter begins a fragment.
func (e *Rows) enter(f *pipeline.Fragment) {
	whole := e.buf // where a payload may stand already
	e.buf = append(e.lead[:0], `{"csn":"`...)
	e.buf = strconv.AppendUint(e.buf, uint64(e.tx.CSN), 10)
	e.buf = append(e.buf, '"')
	e.about(e.tx)
	e.buf = append(e.buf, ',')
	e.where(f)
	e.buf = append(e.buf, `,"index":`...)
	e.lead, e.buf = e.buf, whole
}

// open writes what every payload but an end begins with.
func (e *Rows) open() {
	e.buf = append(e.buf, e.lead...)
	e.buf = strconv.AppendInt(e.buf, int64(e.index), 10)
	e.buf = append(e.buf, e.total...)
}

func (e *Rows) describe(r *pipeline.Relation) error {
	e.open()
	if err := e.relation(r); err != nil {
		return e.failed(e.of, "relation", err)
	}
	err := e.closeTable(r, "relation", r.ID)
	e.index++
	return err
}

// next writes a change, if it is its turn.
func (e *Rows) next(c *pipeline.Change) error {
	if !e.plain() {
		if turn, err := e.turn(c); err != nil || !turn {
			return err
		}
	}
	if err := e.change(c); err != nil {
		return err
	}
	e.index++
	return nil
}

// change writes one change. Its errors name the shard; the column, too, where there is one.
func (e *Rows) change(c *pipeline.Change) error {
	switch c.Op {
	case pipeline.Insert, pipeline.Read, pipeline.Update, pipeline.Delete:
		e.open()
		if err := e.row(c); err != nil {
			return e.failed(e.of, c.Op.String(), err)
		}
		return e.closeTable(c.Relation, c.Op.String(), 0)
	case pipeline.Truncate:
		for _, r := range c.Truncated {
			if err := e.truncated(c, r); err != nil {
				return err
			}
		}
		return nil
	case pipeline.Message:
		e.open()
		op := e.message(c)
		return e.close(end{tokens: tokensOf(op), op: op}, 0)
	}
	return e.failed(e.of, c.Op.String(), fmt.Errorf("%s has no form", c.Op))
}

// truncated writes a truncation for those who read one of its tables. It does not name the others: a statement about a thousand
// tables would become a million names.
func (e *Rows) truncated(c *pipeline.Change, r *pipeline.Relation) error {
	e.open()
	e.buf = append(e.buf, `,"op":"truncate",`...)
	t, err := e.tables.of(r)
	if err != nil {
		return e.failed(e.of, c.Op.String(), err)
	}
	e.buf = append(append(e.buf, t.head...), ',')
	e.truncation(c)
	return e.closeTable(r, "truncate", r.ID)
}

// tokensOf is the subject of a logical message.
func tokensOf(op string) string {
	switch op {
	case opDDL:
		return wire.DDLTokens
	case opCopy:
		return wire.CopyTokens
	}
	return wire.MessageTokens
}

// closeTable ends a payload on a table's subject. id tells apart what stands at the same place of a fragment; see appendID.
func (e *Rows) closeTable(r *pipeline.Relation, op string, id uint32) error {
	t, err := e.tables.of(r)
	if err != nil {
		return err
	}
	p := t.place
	if p.messages == 0 {
		e.touched = append(e.touched, p)
	}
	p.messages++
	tokens := e.subject(p)
	return e.close(end{tokens: tokens, op: op, subject: tokens}, id)
}

// close ends a payload.
func (e *Rows) close(x end, id uint32) error {
	e.buf = append(e.buf, '}')
	if e.opts.CloudEvents {
		e.ids = appendID(e.ids, e.tokens[e.of.Shard], e.of.End, e.nth, x.op, id)
	}
	return e.put(x)
}

// put notes the payload that the buffer ends with, or passes it on.
func (e *Rows) put(x end) error {
	x.at, x.id, x.csn, x.time = len(e.buf), len(e.ids), e.tx.CSN, e.time
	e.ends = append(e.ends, x)
	if e.to == nil {
		return nil
	}
	return e.pass()
}

// end writes what a transaction consisted of.
func (e *Rows) end(previous pipeline.CSN, describes news) error {
	e.transaction(e.tx, previous, describes)
	e.buf = append(e.buf, `,"tables":[`...)
	for i, p := range e.touched {
		e.comma(i)
		e.buf = append(append(e.buf, '{'), p.head...)
		e.buf = append(e.buf, `,"changes":`...)
		e.buf = strconv.AppendInt(e.buf, int64(p.messages), 10)
		e.buf = append(e.buf, '}')
	}
	e.buf = append(e.buf, `]}`...)
	if e.opts.CloudEvents {
		f := e.tx.Fragments[0]
		e.ids = appendID(e.ids, e.tokens[f.Shard], f.End, 0, opTransaction, 0)
	}
	return e.put(end{op: opTransaction, last: true})
}

const opTransaction = "transaction"

// payloads cuts the buffer.
func (e *Rows) payloads(m *made) []output.Payload {
	clear(m.payloads)
	m.payloads, m.headers = m.payloads[:0], m.headers[:0]
	ids, start, id := "", 0, 0
	if e.opts.CloudEvents {
		ids = string(e.ids)
	}
	for i := range e.ends {
		x := &e.ends[i]
		p := output.Payload{Data: e.buf[start:x.at:x.at], CSN: x.csn, Subject: x.tokens}
		if x.last {
			p.Transactions = 1
		}
		if e.opts.CloudEvents {
			first := len(m.headers)
			m.headers = appendCloudEvent(m.headers, e.source, ids[id:x.id], x)
			p.Headers = m.headers[first:len(m.headers):len(m.headers)]
		}
		m.payloads = append(m.payloads, p)
		start, id = x.at, x.id
	}
	return m.payloads
}
