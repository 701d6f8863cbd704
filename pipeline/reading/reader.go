package reading

import (
	"fmt"
	"strconv"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// BytesMax is the usual limit of a transaction that is shown whole.
const BytesMax = 64 << 20

// Transaction is one transaction of a stream.
type Transaction struct {
	Head
	Place

	// What the stream holds of it, when it is not too large: one of these, by the stream's format.
	Rows  *pipeline.Transaction // internal
	JSON  []byte                // json, in the layout transaction; of the layout row put together to that
	SQL   []byte                // sql
	Parts *Debezium             // json in the flavour debezium
}

// Place is where a transaction stands in the stream.
type Place struct {
	First, Last pipeline.Seq // of its messages; transactions of the format internal may share one
	Messages    int          // from First to Last, those of it
	Stored      time.Time    // when its unit was complete in the stream, by the NATS server's clock
	Taken       time.Time    // when the node took its unit from the joiner, by the node's clock; zero: not known
	UnitEnd     pipeline.Seq // of the message that ends its unit
}

// Reader makes transactions of a stream's messages. It has one owner.
type Reader struct {
	format, layout, flavour string
	shards                  []string
	limit                   int // of bytes in a transaction; of a larger one the head is shown

	transactions, epochs, controls string // subjects
	collector                      *wire.Collector
	large                          largePayload // instead of the collector: the unfinished payload, when it is too large
	decoder                        wire.Decoder
	began                          pipeline.Seq // of the first message, or of the first one behind a gap
	next                           pipeline.Seq // of the message that has to follow; 0: any may
	whole                          bool         // the reading has the unit's beginning
	ended                          bool         // and a unit to its end: from there on nothing may be missing
	parts                          int          // messages of the payload so far
	row                            rows         // of the layout row
	unit                           []*Transaction
}

// NewReader makes the reader of a subscription's stream. Of a transaction with more bytes than the limit only the head is read.
func NewReader(sub *control.Subscription, limit int) *Reader {
	names := make([]string, len(sub.Shards))
	for i, s := range sub.Shards {
		names[i] = s.Name
	}
	f := sub.Output().WithDefaults()
	r := &Reader{
		format: f.Name, layout: f.JSON.Layout, flavour: f.JSON.Flavour, shards: names, limit: limit,
		transactions: wire.Subject(sub.Name), epochs: wire.EpochSubject(sub.Name), controls: wire.SubjectOf(sub.Name, "_ctl."),
		collector: wire.NewCollector(limit),
	}
	r.row.limit = limit
	return r
}

// NewHeadReader makes a reader of the heads alone, as far as that saves work: rows that were published one by one are counted and not
// kept.
func NewHeadReader(sub *control.Subscription) *Reader {
	r := NewReader(sub, BytesMax)
	r.row.limit = -1
	return r
}

// Add takes the next message and returns the transactions that are complete with it. Messages come in order, from one that
// First found.
func (r *Reader) Add(m *Message) ([]*Transaction, error) {
	done, err := r.add(m)
	if err != nil {
		return nil, fmt.Errorf("stream sequence %d: %w", m.Seq, err)
	}
	return done, nil
}

func (r *Reader) add(m *Message) ([]*Transaction, error) {
	if err := r.follows(m); err != nil {
		return nil, err
	}
	if m.Subject == r.epochs {
		r.forget() // a new writer: whatever the one before left unfinished stays so
		r.whole = true
		return nil, nil
	}
	before, inUnit, err := m.UnitBefore()
	if err != nil {
		return nil, err
	}
	r.whole = r.whole || !inUnit || before+1 >= r.began
	if !r.whole { // the reading began in the middle of a unit
		return nil, nil
	}
	r.ended = r.ended || m.Ends()
	if !r.carries(m) {
		return nil, nil
	}
	if f := m.Header.Get(wire.HeaderFormat); f != "" && f != r.format {
		return nil, fmt.Errorf("its format is %q, and the subscription's is %q", f, r.format)
	}
	r.parts++
	txs, complete, err := r.payload(m)
	if err != nil || !complete {
		return nil, err
	}
	for _, t := range txs {
		if t.Messages == 0 { // else it was put together from several payloads
			t.First, t.Messages = m.Seq-pipeline.Seq(r.parts-1), r.parts
		}
		t.Last = m.Seq
	}
	r.parts = 0
	r.unit = append(r.unit, txs...)
	if !m.Ends() {
		return nil, nil
	}
	return r.end(m)
}

// follows says that no message is missing in front of this one. What was removed from a stream's beginning leaves epochs behind with
// nothing between them (jetstream.Publisher, of a full stream), and perhaps the rest of a unit: the reading begins behind them. Once it
// had a whole unit, what is missing was removed from under it.
func (r *Reader) follows(m *Message) error {
	gap := m.Seq != r.next
	if gap && r.ended {
		return fmt.Errorf("it follows sequence %d: what is between was removed from the stream while it was read. Try: cdcctl tail --from-seq %d, to read what is left", r.next-1, m.Seq)
	}
	if gap {
		r.forget()
		r.began, r.whole = m.Seq, false
	}
	r.next = m.Seq + 1
	return nil
}

// carries says whether a message is about a transaction: rows, or the transaction itself.
func (r *Reader) carries(m *Message) bool {
	if m.Subject == r.transactions {
		return true
	}
	return r.layout == format.ByRow && (len(m.Subject) < len(r.controls) || m.Subject[:len(r.controls)] != r.controls)
}

func (r *Reader) forget() {
	r.collector.Reset()
	r.unit, r.large, r.parts = nil, nil, 0
	r.row.reset()
}

// end gives the unit's transactions out.
func (r *Reader) end(m *Message) ([]*Transaction, error) {
	taken, err := takenOf(m)
	if err != nil {
		return nil, err
	}
	done := r.unit
	r.unit = nil
	for _, t := range done {
		t.Stored, t.Taken, t.UnitEnd = m.Time, taken, m.Seq
	}
	return done, nil
}

func takenOf(m *Message) (time.Time, error) {
	text := m.Header.Get(wire.HeaderTaken)
	if text == "" {
		return time.Time{}, nil
	}
	us, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("header %s %q: want microseconds since 1970", wire.HeaderTaken, text)
	}
	return time.UnixMicro(us).UTC(), nil
}

// payload takes the next message of a payload, and with the last one returns its transactions.
func (r *Reader) payload(m *Message) (txs []*Transaction, complete bool, err error) {
	part := m.Header.Get(wire.HeaderPart)
	k, n := 1, 1
	if part != "" {
		if k, n, err = wire.ParsePart(part); err != nil {
			return nil, false, err
		}
	}
	if k == 1 {
		r.large, r.parts = nil, 1
		if n > 1 && int64(n)*int64(len(m.Data)) > int64(r.limit) { // all parts but the last are of one size
			r.collector.Reset()
			if r.large, err = r.newLarge(m, n); err != nil {
				return nil, false, err
			}
		}
	}
	if r.large != nil {
		heads, err := r.large.add(k, n, m.Data)
		if err != nil || k < n {
			return nil, false, err
		}
		r.large = nil
		for _, h := range heads {
			txs = append(txs, &Transaction{Head: h})
		}
		if r.layout == format.ByRow {
			return nil, true, r.row.largeRow(m, n, heads[0].Bytes)
		}
		return txs, true, nil
	}
	payload, complete, err := r.collector.Add(part, m.Data)
	if err != nil || !complete {
		return nil, false, err
	}
	txs, err = r.read(m, payload)
	return txs, true, err
}

func (r *Reader) read(m *Message, payload []byte) ([]*Transaction, error) {
	switch {
	case r.format == format.Internal:
		return r.decode(payload)
	case r.format == format.SQL:
		t, err := sqlTransaction(m, payload)
		return []*Transaction{t}, err
	case r.format == format.JSON && r.layout == format.ByTransaction:
		h, err := headOf(payload)
		return []*Transaction{{Head: h, JSON: payload}}, err
	case r.format == format.JSON && m.Subject != r.transactions:
		return nil, r.row.add(m, r.parts, payload)
	case r.format == format.JSON && r.flavour == format.Debezium:
		return r.row.debezium(m, payload)
	case r.format == format.JSON:
		return r.row.transaction(m, payload)
	}
	return nil, r.unknownFormat()
}

func (r *Reader) unknownFormat() error {
	return fmt.Errorf("format %q is unknown to this build. Try: upgrade cdcctl", r.format)
}

func (r *Reader) decode(frame []byte) ([]*Transaction, error) {
	u, err := r.decoder.DecodeUnit(frame)
	if err != nil {
		return nil, err
	}
	heads, err := headsOf(u, r.shards)
	if err != nil {
		return nil, err
	}
	txs := make([]*Transaction, len(heads))
	for i, h := range heads {
		txs[i] = &Transaction{Head: h, Rows: u.Transactions[i]}
	}
	return txs, nil
}
