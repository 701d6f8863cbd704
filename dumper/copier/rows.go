package copier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage"
)

// File is where rows go that are too large for memory, or too many: one goroutine writes it, Seal ends that.
type File interface {
	Write(p []byte) (int, error)
	Seal() error
	pipeline.Content
}

// NewFile makes a place for rows. Nil: they stay in memory, whatever they take.
type NewFile func() (File, error)

// rowsKeep is how much of a body is kept in memory.
const rowsKeep = 8 << 20

// rows is a body that grows by messages of kind pipeline.Read. When it is larger than keep it goes to a file, and a row that is
// larger than that goes there at once: in memory it is then only where the connection has received it.
type rows struct {
	head [8]byte     // 'C', the relation, 'N', the number of columns: what every message begins with
	n    int         // columns
	key  []keyColumn // nil: nobody asks for the key of the last row
	max  int         // bytes that are enough; zero: no limit
	keep int
	make NewFile

	body    []byte   // what is not in the file
	last    int      // where the last message begins in body, behind its length
	file    File     // nil: not needed so far
	lastKey []string // of the last row, if it is in the file
	size    int64
	count   int
	given   int // bytes of the last row that went to the file at once, which the connection gives up with the next message
}

func newRows(t *Table, file NewFile) *rows {
	r := &rows{n: len(t.Relation.Columns), keep: rowsKeep, make: file}
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
	length := int64(len(r.head))
	for _, v := range values {
		if length++; v != nil {
			length += 4 + int64(len(v))
		}
	}
	if length > 1<<32-1 {
		return false, fmt.Errorf("a row of %d bytes; 4 GB are the most", length)
	}
	r.count++
	r.size += 4 + length
	if r.make != nil && length > int64(r.keep) {
		err = r.writeRow(int(length), values)
	} else {
		r.appendRow(int(length), values)
		if r.make != nil && len(r.body) >= r.keep {
			err = r.flush()
		}
	}
	return r.max > 0 && r.size >= int64(r.max), err
}

func (r *rows) appendRow(length int, values [][]byte) {
	b := slices.Grow(r.body, 4+length)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	r.last = len(b)
	b = append(b, r.head[:]...)
	for _, v := range values {
		if v == nil {
			b = append(b, pipeline.Null)
			continue
		}
		b = binary.BigEndian.AppendUint32(append(b, pipeline.Text), uint32(len(v)))
		b = append(b, v...)
	}
	r.body = b
}

// writeRow writes a row to the file, value by value.
func (r *rows) writeRow(length int, values [][]byte) (err error) {
	garbage.Left(r.given)
	r.given = length
	defer clear(values) // the connection would keep them in memory until it receives another row
	if err := r.flush(); err != nil {
		return err
	}
	if r.lastKey, err = keyTexts(r.key, func(at int) ([]byte, bool) { return values[at], values[at] != nil }); err != nil {
		return err
	}
	lead := append(binary.BigEndian.AppendUint32(nil, uint32(length)), r.head[:]...)
	if _, err := r.file.Write(lead); err != nil {
		return err
	}
	for _, v := range values {
		if lead = append(lead[:0], pipeline.Null); v != nil {
			lead[0] = pipeline.Text
			lead = binary.BigEndian.AppendUint32(lead, uint32(len(v)))
		}
		if _, err := r.file.Write(lead); err != nil {
			return err
		}
		if _, err := r.file.Write(v); err != nil {
			return err
		}
	}
	return nil
}

// flush moves what is in memory to the file.
func (r *rows) flush() (err error) {
	if r.file == nil {
		if r.file, err = r.make(); err != nil {
			return err
		}
	}
	if len(r.body) == 0 {
		return nil
	}
	if r.lastKey, err = r.keyOfLast(); err != nil {
		return err
	}
	_, err = r.file.Write(r.body)
	r.body = r.body[:0]
	return err
}

// end is the body when all rows are in it, as a chunk.
func (r *rows) end(id string, t *Table, snapshot fold.Snapshot) (*Result, error) {
	chunk := fold.Chunk{ID: id, Table: t.Table, Relation: t.Relation, Body: r.body, Rows: r.count, Snapshot: snapshot}
	last, err := r.keyOfLast()
	if err == nil && r.file != nil {
		err = errors.Join(r.flush(), r.file.Seal())
		chunk.Body, chunk.Content = nil, r.file
	}
	return &Result{Chunk: chunk, Last: last}, err
}

// keyOfLast is the key of the last row; nil: there is none.
func (r *rows) keyOfLast() ([]string, error) {
	if len(r.body) == 0 || r.key == nil {
		return r.lastKey, nil
	}
	var c pipeline.Change
	if err := pipeline.ParseChange(r.body[r.last:], &c); err != nil {
		return nil, err
	}
	values := c.New.Values(make([]pipeline.Value, 0, r.n))
	return keyTexts(r.key, func(at int) ([]byte, bool) { return values[at].Data, values[at].Kind == pipeline.Text })
}

func keyTexts(key []keyColumn, value func(at int) (text []byte, ok bool)) ([]string, error) {
	if key == nil {
		return nil, nil
	}
	texts := make([]string, len(key))
	for i, k := range key {
		text, ok := value(k.at)
		if !ok {
			return nil, fmt.Errorf("column %s of the key is NULL", k.name)
		}
		texts[i] = string(text)
	}
	return texts, nil
}
