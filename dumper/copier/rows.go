package copier

import (
	"encoding/binary"
	"fmt"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
)

// rows is a body that grows by messages of kind pipeline.Read.
type rows struct {
	head  [8]byte // 'C', the relation, 'N', the number of columns: what every message begins with
	n     int     // columns
	body  []byte
	last  int // where the last message begins, behind its length
	count int
	max   int // of body; zero: no limit
}

func newRows(t *Table, sizeGuess int) *rows {
	r := &rows{n: len(t.Relation.Columns), body: make([]byte, 0, sizeGuess)}
	r.head[0], r.head[5] = byte(pipeline.Read), 'N'
	binary.BigEndian.PutUint32(r.head[1:], t.Relation.ID)
	binary.BigEndian.PutUint16(r.head[6:], uint16(r.n))
	return r
}

// add appends a row; nil values are NULL. It says whether the body is as large as it may be.
func (r *rows) add(values [][]byte) (full bool, err error) {
	if len(values) != r.n {
		return false, fmt.Errorf("a row of %d values for %d columns", len(values), r.n)
	}
	r.last = len(r.body) + 4
	b := append(append(r.body, 0, 0, 0, 0), r.head[:]...)
	for _, v := range values {
		if v == nil {
			b = append(b, pipeline.Null)
			continue
		}
		b = binary.BigEndian.AppendUint32(append(b, pipeline.Text), uint32(len(v)))
		b = append(b, v...)
	}
	if int64(len(b)-r.last) > 1<<32-1 {
		return false, fmt.Errorf("a row of %d bytes; 4 GB are the most", len(b)-r.last)
	}
	binary.BigEndian.PutUint32(b[r.last-4:], uint32(len(b)-r.last))
	r.body = b
	r.count++
	return r.max > 0 && len(b) >= r.max, nil
}

// lastKey is the key of the last row; nil: there is none.
func (r *rows) lastKey(key []keyColumn) ([]string, error) {
	if r.count == 0 {
		return nil, nil
	}
	var c pipeline.Change
	if err := pipeline.ParseChange(r.body[r.last:], &c); err != nil {
		return nil, err
	}
	values := c.New.Values(make([]pipeline.Value, 0, r.n))
	texts := make([]string, len(key))
	for i, k := range key {
		if values[k.at].Kind != pipeline.Text {
			return nil, fmt.Errorf("column %s of the key is NULL", k.name)
		}
		texts[i] = string(values[k.at].Data)
	}
	return texts, nil
}

func (r *rows) chunk(id string, t *Table, snapshot fold.Snapshot) fold.Chunk {
	return fold.Chunk{ID: id, Table: t.Table, Relation: t.Relation, Body: r.body, Rows: r.count, Snapshot: snapshot}
}
