package json

import (
	"fmt"
	"io"
	"strconv"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// Encoder writes one payload per transaction; it is an output.Encoder. In the long run it allocates nothing per row, and nothing per
// transaction.
type Encoder struct {
	opts   format.JSONOptions
	shards []string
	names  [][]byte // of the shards, as JSON strings
	tables tables
	told   told

	buffers  output.Buffers
	payloads [2][]output.Payload // used in turn, as the buffers
	ends     []int               // scratch: where payloads end in the buffer

	// Of the running Encode, or of the large payload that is written.
	out      io.Writer // where the buffer goes when it is full; nil: it grows
	buf      []byte
	index    int // of the next change in the transaction
	of       *pipeline.Fragment
	pending  []*pipeline.Relation // descriptions that of has to come with, and that are to come
	walker   pipeline.Walker
	each     func(*pipeline.Change) error // next
	old, new []pipeline.Value
}

var _ output.Encoder = (*Encoder)(nil)

// New makes an Encoder. shards are the shards' names, by ShardID.
func New(shards []string, opts format.JSONOptions) *Encoder {
	e := &Encoder{opts: opts, shards: shards}
	e.each = e.next
	for _, name := range shards {
		e.names = append(e.names, appendText(nil, []byte(name)))
	}
	return e
}

// Encode writes the batch's transactions, each as one payload.
func (e *Encoder) Encode(b *pipeline.Batch) ([]output.Payload, error) {
	if len(b.Transactions) == 0 {
		return nil, nil
	}
	for _, tx := range b.Transactions {
		if !tx.Resident() {
			return e.large(b)
		}
	}
	e.buf = e.buffers.Take(0)
	defer func() { // also after an error: the next Encode must not use what the payloads before are in
		e.buffers.Keep(e.buf)
		e.buf = nil
		e.payloads[0], e.payloads[1] = e.payloads[1], e.payloads[0]
	}()
	clear(e.payloads[0])
	e.ends = e.ends[:0]
	previous := b.Previous
	for _, tx := range b.Transactions {
		if err := e.transaction(tx, previous, e.told.news(tx)); err != nil {
			return nil, fmt.Errorf("encode csn %s as json: %w", tx.CSN, err)
		}
		previous, e.ends = tx.CSN, append(e.ends, len(e.buf))
	}
	payloads, start := e.payloads[0][:0], 0
	for i, end := range e.ends { // only now: the buffer has stopped moving
		payloads = append(payloads, output.Payload{Data: e.buf[start:end:end], CSN: b.Transactions[i].CSN, Transactions: 1})
		start = end
	}
	e.payloads[0] = payloads
	return payloads, nil
}

// transaction writes a payload; describes are the tables that it describes.
func (e *Encoder) transaction(tx *pipeline.Transaction, previous pipeline.CSN, describes news) error {
	if tx.CSN <= previous {
		return fmt.Errorf("it follows csn %s: CSNs must rise", previous)
	}
	e.buf = append(e.buf, `{"csn":"`...)
	e.buf = strconv.AppendUint(e.buf, uint64(tx.CSN), 10)
	e.buf = append(e.buf, `","previous":"`...)
	e.buf = strconv.AppendUint(e.buf, uint64(previous), 10)
	e.buf = append(e.buf, `","gid":`...)
	if tx.GID == "" {
		e.buf = append(e.buf, `null`...)
	} else {
		e.buf = appendText(e.buf, []byte(tx.GID))
	}
	e.buf = append(e.buf, `,"commit_time":"`...)
	e.buf = appendTime(e.buf, tx.CommitTime)
	e.buf = append(e.buf, `","fragments":[`...)
	for i, f := range tx.Fragments {
		if int(f.Shard) >= len(e.names) {
			return fmt.Errorf("fragment %s: the subscription has %d shards only", f, len(e.names))
		}
		e.comma(i)
		e.fragment(f, f.Changes+describes.of(i))
	}
	total := tx.Changes() + describes.total()
	e.buf = append(e.buf, `],"total":`...)
	e.buf = strconv.AppendInt(e.buf, int64(total), 10)
	e.buf = append(e.buf, `,"changes":[`...)
	e.index = 0
	for i, f := range tx.Fragments {
		e.of, e.pending = f, nil
		if describes != nil {
			e.pending = describes[i]
		}
		if err := e.walker.Walk(f, e.each); err != nil {
			return err
		}
		for _, r := range e.pending { // of a chunk without rows
			if err := e.relation(f, r); err != nil {
				return err
			}
		}
	}
	if e.index != total {
		return fmt.Errorf("%d changes in the bodies, %d announced", e.index, total)
	}
	e.buf = append(e.buf, `]}`...)
	return nil
}

// next writes a change, and the descriptions that stand in front of it.
func (e *Encoder) next(c *pipeline.Change) (err error) {
	if len(e.pending) > 0 {
		if e.pending, err = e.describe(e.of, e.pending, c); err != nil {
			return err
		}
	}
	return e.change(e.of, c)
}

func (e *Encoder) fragment(f *pipeline.Fragment, changes int) {
	e.buf = append(e.buf, `{"shard":`...)
	e.buf = append(e.buf, e.names[f.Shard]...)
	e.buf = append(e.buf, `,"xid":`...)
	e.buf = strconv.AppendUint(e.buf, uint64(f.XID), 10)
	e.buf = append(e.buf, `,"lsn":"`...)
	e.buf = appendHex(e.buf, uint32(f.End>>32))
	e.buf = append(e.buf, '/')
	e.buf = appendHex(e.buf, uint32(f.End))
	e.buf = append(e.buf, `","changes":`...)
	e.buf = strconv.AppendInt(e.buf, int64(changes), 10)
	if f.Origin != "" {
		e.buf = append(e.buf, `,"origin":`...)
		e.buf = appendText(e.buf, []byte(f.Origin))
	}
	e.buf = append(e.buf, '}')
}

// begin writes what every element of changes begins with.
func (e *Encoder) begin(f *pipeline.Fragment) {
	e.comma(e.index)
	e.buf = append(e.buf, `{"index":`...)
	e.buf = strconv.AppendInt(e.buf, int64(e.index), 10)
	e.index++
	e.buf = append(e.buf, `,"shard":`...)
	e.buf = append(e.buf, e.names[f.Shard]...)
}

// change writes one change. Its errors name the shard; the column, too, where there is one.
func (e *Encoder) change(f *pipeline.Fragment, c *pipeline.Change) error {
	e.begin(f)
	var err error
	switch c.Op {
	case pipeline.Insert:
		err = e.row(`,"op":"insert",`, c)
	case pipeline.Read:
		err = e.row(`,"op":"read",`, c)
	case pipeline.Update:
		err = e.row(`,"op":"update",`, c)
	case pipeline.Delete:
		err = e.row(`,"op":"delete",`, c)
	case pipeline.Truncate:
		err = e.truncate(c)
	case pipeline.Message:
		e.message(c)
	default:
		err = fmt.Errorf("%s has no form", c.Op)
	}
	if err != nil {
		return fmt.Errorf("shard %q: %s: %w", e.shards[f.Shard], c.Op, err)
	}
	e.buf = append(e.buf, '}')
	if e.out != nil && len(e.buf) >= flushBytes {
		return e.flush()
	}
	return nil
}

func (e *Encoder) truncate(c *pipeline.Change) error {
	e.buf = append(e.buf, `,"op":"truncate","tables":[`...)
	for i, r := range c.Truncated {
		t, err := e.tables.of(r)
		if err != nil {
			return err
		}
		e.comma(i)
		e.buf = append(e.buf, '{')
		e.buf = append(e.buf, t.head...)
		e.buf = append(e.buf, '}')
	}
	e.buf = append(e.buf, `],"cascade":`...)
	e.buf = strconv.AppendBool(e.buf, c.TruncateFlags&pipeline.TruncateCascade != 0)
	e.buf = append(e.buf, `,"restart_identity":`...)
	e.buf = strconv.AppendBool(e.buf, c.TruncateFlags&pipeline.TruncateRestartIdentity != 0)
	return nil
}

// comma stands before every element but the first.
func (e *Encoder) comma(i int) {
	if i > 0 {
		e.buf = append(e.buf, ',')
	}
}

// appendTime writes RFC 3339 in UTC with six digits: what Time.AppendFormat does, without reading a layout each time.
func appendTime(dst []byte, t pipeline.Timestamp) []byte {
	at := t.Time()
	year, month, day := at.Date()
	if year < 0 || year > 9999 {
		return at.AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
	}
	hour, minute, second := at.Clock()
	dst = appendDigits(dst, year, 4)
	dst = appendDigits(append(dst, '-'), int(month), 2)
	dst = appendDigits(append(dst, '-'), day, 2)
	dst = appendDigits(append(dst, 'T'), hour, 2)
	dst = appendDigits(append(dst, ':'), minute, 2)
	dst = appendDigits(append(dst, ':'), second, 2)
	dst = appendDigits(append(dst, '.'), at.Nanosecond()/1000, 6)
	return append(dst, 'Z')
}

// appendDigits writes so many digits of v.
func appendDigits(dst []byte, v, digits int) []byte {
	const zeros = "000000"
	dst = append(dst, zeros[:digits]...)
	for i := len(dst) - 1; v > 0; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
	return dst
}

func appendHex(dst []byte, v uint32) []byte {
	for shift := 28; shift > 0; shift -= 4 {
		if v>>shift != 0 {
			dst = append(dst, upperHex[v>>shift&15])
		}
	}
	return append(dst, upperHex[v&15])
}

const upperHex = "0123456789ABCDEF"
