package debezium

import (
	"errors"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/moves"
	"shardcdc/pipeline/wire"
)

// Headers of Debezium's records.
const (
	headerNewKey = "__debezium.newkey"
	headerOldKey = "__debezium.oldkey"
)

// Kinds of an event's origin (the source block's field snapshot).
const (
	streamed = "false"
	copied   = "incremental" // in chunks, while everything else flows: Debezium's incremental snapshot
)

// version is that of Debezium whose form the events have.
const version = "3.0.0.Final"

var errBinary = errors.New("the value is in binary form, which JSON cannot show. Try: cdcctl create-subscription … --format internal")

// row writes the events of a change of one row.
func (e *Encoder) row(c *pipeline.Change) error {
	t, err := e.table(c.Relation)
	if err != nil {
		return err
	}
	e.old, e.new = nil, nil
	if c.Old != nil {
		e.values[0] = c.Old.Values(e.values[0][:0])
		e.old = e.values[0]
	}
	if c.New != nil {
		e.values[1] = c.New.Values(e.values[1][:0])
		e.new = e.values[1]
	}
	for _, values := range [2][]pipeline.Value{e.old, e.new} {
		for i := range values {
			if values[i].Kind == pipeline.Binary {
				return wrapColumn(c.Relation, i, errBinary)
			}
		}
	}
	switch c.Op {
	case pipeline.Insert:
		return e.create(t, "c", streamed, nil)
	case pipeline.Read:
		return e.create(t, "r", copied, nil)
	case pipeline.Delete:
		return e.remove(t, nil)
	}
	if e.old != nil && t.keyComplete(e.old) && !t.sameKey(e.old, e.new) {
		return e.move(t)
	}
	if e.split && e.pass == moves.First {
		return nil // for the record the key is the same, or there is none
	}
	key, err := e.key(t, e.new, e.old)
	if err != nil {
		return err
	}
	return e.event(t, "u", streamed, e.old, e.new, key)
}

// create writes the event of a row that is there now.
func (e *Encoder) create(t *table, op, snapshot string, extra []output.Header) error {
	key, err := e.key(t, e.new, e.old)
	if err != nil {
		return err
	}
	return e.event(t, op, snapshot, nil, e.new, append(key, extra...))
}

// remove writes the event of a row that is gone, and behind it the tombstone.
func (e *Encoder) remove(t *table, extra []output.Header) error {
	key, err := e.key(t, e.old, nil)
	if err != nil {
		return err
	}
	if err := e.event(t, "d", streamed, e.old, nil, append(key, extra...)); err != nil {
		return err
	}
	if !e.conf.Debezium.Tombstones || len(key) == 0 {
		return nil
	}
	return e.put(t.tokens, append(key[:1:1], output.Header{Name: wire.HeaderTombstone, Value: "true"}), false)
}

// move writes the events of a row whose key changed: it is gone under the old key, and there under the new one; or one of both.
func (e *Encoder) move(t *table) error {
	before, err := e.key(t, e.old, nil)
	if err != nil {
		return err
	}
	after, err := e.key(t, e.new, e.old)
	if err != nil {
		return err
	}
	if !e.split || e.pass == moves.First {
		if err := e.remove(t, renamed(after, headerNewKey)); err != nil {
			return err
		}
	}
	if e.split && e.pass == moves.First {
		return nil
	}
	return e.create(t, "c", streamed, renamed(before, headerOldKey))
}

// renamed is a key under another name.
func renamed(key []output.Header, name string) []output.Header {
	if len(key) == 0 {
		return nil
	}
	return []output.Header{{Name: name, Value: key[0].Value}}
}

// key is the header with a row's key; none without a key. A column that is not in values is in others.
func (e *Encoder) key(t *table, values, others []pipeline.Value) ([]output.Header, error) {
	if !t.keyed {
		return nil, nil
	}
	b, opened := append(e.scratch[:0], t.keySchema...), byte('{')
	for i := range t.columns {
		col := &t.columns[i]
		if !col.key {
			continue
		}
		v := values[i]
		if v.Kind == pipeline.Unchanged && others != nil {
			v = others[i]
		}
		if v.Kind != pipeline.Text {
			return nil, nil // see keyComplete
		}
		b = append(append(b, opened), col.name[1:]...)
		opened = ','
		var err error
		if b, err = col.write(b, v.Data); err != nil {
			return nil, wrapColumn(t.relation, i, err)
		}
	}
	b = append(b, '}')
	if t.keySchema != "" {
		b = append(b, '}')
	}
	e.scratch = b
	return []output.Header{{Name: wire.HeaderKey, Value: e.ascii(b)}}, nil
}

// event writes the envelope of a row.
func (e *Encoder) event(t *table, op, snapshot string, before, after []pipeline.Value, headers []output.Header) (err error) {
	e.write(t.schema)
	e.write(`{"before":`)
	if _, err = e.object(t, before, nil); err != nil {
		return err
	}
	e.write(`,"after":`)
	unchanged, err := e.object(t, after, e.old)
	if err != nil {
		return err
	}
	e.source(snapshot, t.source, e.tx.events+1)
	e.place(t.collection)
	e.write(`,"op":"`, op, `","ts_ms":`)
	e.number(e.tx.millis)
	e.write(e.tx.times)
	e.write("}")
	e.closeSchema(t.schema)
	if unchanged != "" {
		headers = append(headers, output.Header{Name: wire.HeaderUnchanged, Value: unchanged})
	}
	return e.put(t.tokens, headers, false)
}

// object writes a row with all of its columns. An unchanged TOAST value is the old row's if that has it (REPLICA IDENTITY FULL),
// else the placeholder, and its column is in unchanged.
func (e *Encoder) object(t *table, values, old []pipeline.Value) (unchanged string, err error) {
	if values == nil {
		e.write("null")
		return "", nil
	}
	e.write("{")
	for i := range t.columns {
		col, v := &t.columns[i], values[i]
		if v.Kind == pipeline.Unchanged && old != nil && old[i].Kind == pipeline.Text {
			v = old[i]
		}
		name := col.name
		if i == 0 {
			name = name[1:]
		}
		e.write(name)
		switch v.Kind {
		case pipeline.Text:
			if e.buf, err = col.write(e.buf, v.Data); err != nil {
				return "", wrapColumn(t.relation, i, err)
			}
		case pipeline.Null:
			e.write("null")
		default:
			e.write(col.absent)
			unchanged += "," + t.names[i]
		}
	}
	e.write("}")
	if unchanged != "" {
		unchanged = e.ascii([]byte("[" + unchanged[1:] + "]"))
	}
	return unchanged, nil
}

// source writes the source block. sequence is the event's place in the stream's order: that of its transaction, and its place
// there.
func (e *Encoder) source(snapshot, table string, order int64) {
	csn, parts := e.tx.csn, e.sources[e.of.Shard]
	e.write(`,"source":{"version":"`, version, `","connector":"postgresql","name":`, e.name, `,"ts_ms":`)
	e.number(e.tx.millis)
	e.write(`,"snapshot":"`, snapshot, `"`, parts[0], csn, `\",\"`)
	e.number(order)
	e.write(`\"]"`, e.tx.times, table, `,"txId":`)
	if snapshot == streamed {
		e.number(int64(e.of.XID))
	} else {
		e.write("null")
	}
	e.write(`,"lsn":`, e.end, `,"xmin":null,"csn":"`, csn, `"`, parts[1])
}

// place writes the transaction block of an event.
func (e *Encoder) place(collection string) {
	total, inCollection := e.tx.count(collection)
	e.write(`,"transaction":{"id":`, e.tx.id, `,"total_order":`)
	e.number(total)
	e.write(`,"data_collection_order":`)
	e.number(inCollection)
	e.write("}")
}

// truncate writes an event for each table, if they are wanted.
func (e *Encoder) truncate(c *pipeline.Change) error {
	if !e.conf.Debezium.Truncate {
		return nil
	}
	e.old = nil
	for _, r := range c.Truncated {
		t, err := e.table(r)
		if err != nil {
			return err
		}
		if err := e.event(t, "t", streamed, nil, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// messageCollection is Debezium's name of logical messages where events are counted.
const messageCollection = "LOGICAL_DECODING_MESSAGE"

// message writes a logical message. What shardcdc itself says (package mark) is no event, and is written as in the native flavour.
func (e *Encoder) message(c *pipeline.Change) error {
	if d, ok, err := mark.DDLOf(c); ok && err == nil {
		d.Token = ""
		return e.mark(wire.DDLTokens, "ddl", d.Content())
	}
	if m, ok, err := mark.CopyOf(c); ok && err == nil {
		m.Token = ""
		return e.mark(wire.CopyTokens, "copy", m.Content())
	}
	prefix, err := appendString(nil, []byte(c.Prefix))
	if err != nil {
		return err
	}
	e.write(e.messageSchema, `{"op":"m","ts_ms":`)
	e.number(e.tx.millis)
	e.source(streamed, `,"schema":"","table":""`, e.tx.events+1)
	e.place(messageCollection)
	e.write(`,"message":{"prefix":`, string(prefix), `,"content":`)
	if e.buf, err = e.content.write(e.buf, []byte(`\x`+hexOf(c.Content))); err != nil {
		return err
	}
	e.write("}}")
	e.closeSchema(e.messageSchema)
	key := append([]byte(e.messageKeySchema+`{"prefix":`), prefix...)
	key = append(key, '}')
	if e.messageKeySchema != "" {
		key = append(key, '}')
	}
	return e.put(wire.MessageTokens, []output.Header{{Name: wire.HeaderKey, Value: e.ascii(key)}}, false)
}

// mark writes a mark.
func (e *Encoder) mark(tokens, op string, content []byte) error {
	e.write(`{"csn":"`, e.tx.csn, `","gid":`)
	if err := e.gid(); err != nil {
		return err
	}
	e.write(`,"commit_time":"`, e.tx.CommitTime.String(), `","shard":`, quote(e.conf.Shards[e.of.Shard].Name), `,"xid":`)
	e.number(int64(e.of.XID))
	e.write(`,"lsn":"`, e.of.End.String(), `","op":"`, op, `",`)
	e.buf = append(e.buf, content[1:]...)
	return e.put(tokens, nil, false)
}
