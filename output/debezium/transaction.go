package debezium

import (
	"fmt"
	"strconv"

	"shardcdc/output"
	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
	"shardcdc/pipeline/wire"
)

// transaction is what the events of one transaction share.
type transaction struct {
	*pipeline.Transaction
	csn    string
	id     string // as a JSON string
	millis int64  // of the commit, since 1970
	times  string // ts_us and ts_ns
	events int64  // so far
	// counts of events by data collection; order has those that the transaction has, by their first event.
	counts map[string]*collection
	order  []*collection
}

type collection struct {
	name   string
	events int64
}

func (t *transaction) begin(tx *pipeline.Transaction) {
	micros := tx.CommitTime.Time().UnixMicro()
	t.Transaction = tx
	t.millis = tx.CommitTime.Time().UnixMilli()
	t.times = `,"ts_us":` + strconv.FormatInt(micros, 10) + `,"ts_ns":` + strconv.FormatInt(micros*1000, 10)
	t.csn = tx.CSN.String()
	t.id = `"` + t.csn + ":" + strconv.FormatUint(uint64(tx.Fragments[0].End), 10) + `"`
	t.events = 0
	for _, c := range t.order {
		c.events = 0
	}
	t.order = t.order[:0]
	if t.counts == nil || len(t.counts) >= output.RelationsMax {
		t.counts = make(map[string]*collection)
	}
}

// count takes an event of a collection, and returns its places: in the transaction, and in the collection.
func (t *transaction) count(name string) (total, ofCollection int64) {
	c := t.counts[name]
	if c == nil {
		c = &collection{name: name}
		t.counts[name] = c
	}
	if c.events == 0 {
		t.order = append(t.order, c)
	}
	c.events++
	t.events++
	return t.events, c.events
}

// transaction writes a transaction's payloads.
func (e *Encoder) transaction(tx *pipeline.Transaction, previous pipeline.CSN) error {
	if tx.CSN <= previous {
		return fmt.Errorf("it follows csn %s: CSNs must rise", previous)
	}
	for _, f := range tx.Fragments {
		if int(f.Shard) >= len(e.conf.Shards) {
			return fmt.Errorf("fragment %s: the subscription has %d shards only", f, len(e.conf.Shards))
		}
	}
	var err error
	if e.moved = nil; len(tx.Fragments) > 1 {
		if e.moved, err = moves.Order(tx, moves.Apart); err != nil {
			return err
		}
	}
	e.tx.begin(tx)
	defer e.release()
	if err := e.boundary("BEGIN", previous); err != nil {
		return err
	}
	if e.moved != nil {
		if err := e.changes(tx, moves.First); err != nil {
			return err
		}
	}
	if err := e.changes(tx, moves.InOrder); err != nil {
		return err
	}
	return e.boundary("END", previous)
}

// changes writes the events whose turn it is. What is about rows that go goes first, so that the deletion of a row that moved to another
// shard does not remove it there: package moves.
func (e *Encoder) changes(tx *pipeline.Transaction, pass moves.Fate) error {
	for i, f := range tx.Fragments {
		if e.moved.None(i, pass) {
			continue
		}
		e.pass, e.fragment, e.index = pass, i, 0
		e.of, e.end = f, strconv.FormatUint(uint64(f.End), 10)
		if err := e.walker.Walk(f, e.each); err != nil {
			return err
		}
	}
	return nil
}

// release lets go of the transaction.
func (e *Encoder) release() {
	e.tx.Transaction, e.of, e.moved, e.old, e.new = nil, nil, nil, nil, nil
	for _, values := range e.values {
		clear(values[:cap(values)])
	}
}

// boundary writes BEGIN or END. Behind Debezium's fields is what shows a gap in the stream.
func (e *Encoder) boundary(status string, previous pipeline.CSN) error {
	end := status == "END"
	e.write(e.boundarySchema)
	e.write(`{"status":"`, status, `","id":`, e.tx.id, `,"event_count":`)
	if end {
		e.number(e.tx.events)
		e.write(`,"data_collections":[`)
		for i, c := range e.tx.order {
			if i > 0 {
				e.write(",")
			}
			e.write(`{"data_collection":`, quote(c.name), `,"event_count":`)
			e.number(c.events)
			e.write("}")
		}
		e.write("]")
	} else {
		e.write(`null,"data_collections":null`)
	}
	e.write(`,"ts_ms":`)
	e.number(e.tx.millis)
	e.write(`,"csn":"`, e.tx.csn, `","previous":"`, previous.String(), `","gid":`)
	if err := e.gid(); err != nil {
		return err
	}
	e.write("}")
	e.closeSchema(e.boundarySchema)
	key := e.boundaryKeySchema + `{"id":` + e.tx.id + `}`
	if e.boundaryKeySchema != "" {
		key += "}"
	}
	return e.put("", []output.Header{{Name: wire.HeaderKey, Value: key}}, end)
}

func (e *Encoder) gid() (err error) {
	if e.tx.GID == "" {
		e.write("null")
		return nil
	}
	if e.buf, err = appendString(e.buf, []byte(e.tx.GID)); err != nil {
		return fmt.Errorf("gid %q: %w", e.tx.GID, err)
	}
	return nil
}

// closeSchema ends what schemaOf began.
func (e *Encoder) closeSchema(schema string) {
	if schema != "" {
		e.write("}")
	}
}
