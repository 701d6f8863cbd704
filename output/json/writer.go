package json

import (
	"fmt"
	"strconv"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// writer writes what both layouts have in common: what a transaction was, and what a change says. It appends to buf.
type writer struct {
	opts   format.JSONOptions
	shards []string
	names  [][]byte // of the shards, as JSON strings
	tables tables
	told   told

	passes
	buf      []byte
	walker   pipeline.Walker
	old, new []pipeline.Value
}

func newWriter(shards []string, opts format.JSONOptions) writer {
	w := writer{opts: opts, shards: shards}
	for _, name := range shards {
		w.names = append(w.names, appendText(nil, []byte(name)))
	}
	return w
}

// check refuses what must not be encoded.
func (w *writer) check(tx *pipeline.Transaction, previous pipeline.CSN) error {
	if tx.CSN <= previous {
		return fmt.Errorf("it follows csn %s: CSNs must rise", previous)
	}
	for _, f := range tx.Fragments {
		if int(f.Shard) >= len(w.names) {
			return fmt.Errorf("fragment %s: the subscription has %d shards only", f, len(w.names))
		}
	}
	return nil
}

// transaction writes what a transaction was, up to the number of its changes.
func (w *writer) transaction(tx *pipeline.Transaction, previous pipeline.CSN, describes news) {
	w.buf = append(w.buf, `{"csn":"`...)
	w.buf = strconv.AppendUint(w.buf, uint64(tx.CSN), 10)
	w.buf = append(w.buf, `","previous":"`...)
	w.buf = strconv.AppendUint(w.buf, uint64(previous), 10)
	w.buf = append(w.buf, '"')
	w.about(tx)
	w.buf = append(w.buf, `,"fragments":[`...)
	for i, f := range tx.Fragments {
		w.comma(i)
		w.fragment(f, f.Changes+describes.of(i))
	}
	w.buf = append(w.buf, `],"total":`...)
	w.buf = strconv.AppendInt(w.buf, int64(tx.Changes()+describes.total()), 10)
}

// about writes the name and the time of a transaction.
func (w *writer) about(tx *pipeline.Transaction) {
	w.buf = append(w.buf, `,"gid":`...)
	if tx.GID == "" {
		w.buf = append(w.buf, `null`...)
	} else {
		w.buf = appendText(w.buf, []byte(tx.GID))
	}
	w.buf = append(w.buf, `,"commit_time":"`...)
	w.buf = appendTime(w.buf, tx.CommitTime)
	w.buf = append(w.buf, '"')
}

func (w *writer) fragment(f *pipeline.Fragment, changes int) {
	w.buf = append(w.buf, '{')
	w.where(f)
	w.buf = append(w.buf, `,"changes":`...)
	w.buf = strconv.AppendInt(w.buf, int64(changes), 10)
	if f.Origin != "" {
		w.buf = append(w.buf, `,"origin":`...)
		w.buf = appendText(w.buf, []byte(f.Origin))
	}
	w.buf = append(w.buf, '}')
}

// where writes where a fragment comes from.
func (w *writer) where(f *pipeline.Fragment) {
	w.buf = append(w.buf, `"shard":`...)
	w.buf = append(w.buf, w.names[f.Shard]...)
	w.buf = append(w.buf, `,"xid":`...)
	w.buf = strconv.AppendUint(w.buf, uint64(f.XID), 10)
	w.buf = append(w.buf, `,"lsn":"`...)
	w.buf = appendHex(w.buf, uint32(f.End>>32))
	w.buf = append(w.buf, '/')
	w.buf = appendHex(w.buf, uint32(f.End))
	w.buf = append(w.buf, '"')
}

// failed adds to an error which change it is about.
func (w *writer) failed(f *pipeline.Fragment, what string, err error) error {
	return fmt.Errorf("shard %q: %s: %w", w.shards[f.Shard], what, err)
}

// opText begins the change of a row.
func opText(op pipeline.Op) string {
	switch op {
	case pipeline.Insert:
		return `,"op":"insert",`
	case pipeline.Read:
		return `,"op":"read",`
	case pipeline.Update:
		return `,"op":"update",`
	case pipeline.Delete:
		return `,"op":"delete",`
	}
	return ""
}

// truncate writes the tables of a truncation, and what it was, behind its op.
func (w *writer) truncate(c *pipeline.Change) error {
	w.buf = append(w.buf, `"tables":[`...)
	for i, r := range c.Truncated {
		t, err := w.tables.of(r)
		if err != nil {
			return err
		}
		w.comma(i)
		w.buf = append(w.buf, '{')
		w.buf = append(w.buf, t.head...)
		w.buf = append(w.buf, '}')
	}
	w.buf = append(w.buf, `],`...)
	w.truncation(c)
	return nil
}

// truncation writes the options of a truncation.
func (w *writer) truncation(c *pipeline.Change) {
	w.buf = append(w.buf, `"cascade":`...)
	w.buf = strconv.AppendBool(w.buf, c.TruncateFlags&pipeline.TruncateCascade != 0)
	w.buf = append(w.buf, `,"restart_identity":`...)
	w.buf = strconv.AppendBool(w.buf, c.TruncateFlags&pipeline.TruncateRestartIdentity != 0)
}

// comma stands before every element but the first.
func (w *writer) comma(i int) {
	if i > 0 {
		w.buf = append(w.buf, ',')
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
