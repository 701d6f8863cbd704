package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
)

// Request asks for a chunk of a table with a key.
type Request struct {
	ID    string
	Table *Table
	Range Range
	Rows  int // at most so many rows
	// BytesMax: a chunk ends behind the row with which it has as many bytes, or more.
	BytesMax int
	Taken    Taken
}

// Result is a chunk and where it ended.
type Result struct {
	fold.Chunk
	Last []string // the key of the last row; nil: there are no rows
	End  bool     // the range has no rows behind Last
}

// Chunk reads the first rows of a range.
func (s *Session) Chunk(ctx context.Context, q Request) (*Result, error) {
	if q.Rows < 1 || q.BytesMax < 1 {
		return nil, s.fail("read a chunk", q.Table, fmt.Errorf("limits of %d rows and %d bytes", q.Rows, q.BytesMax))
	}
	var result *Result
	err := s.open(ctx, "read a chunk", q.Table, q.Taken, func(t *Table, snapshot fold.Snapshot) error {
		if err := checkKeys(q.Table, q.Range.After, q.Range.Through); err != nil {
			return err
		}
		sql := fmt.Sprintf("SELECT %s FROM %s%s ORDER BY %s LIMIT %d", t.columns(), t.from(), t.where(q.Range.conditions(t.key)...), order(t.key), q.Rows)
		rows := newRows(t, min(s.size+s.size/8, q.BytesMax+q.BytesMax/8))
		rows.max = q.BytesMax
		cut, err := s.read(ctx, sql, rows.add)
		if err != nil {
			return err
		}
		s.size = len(rows.body)
		result = &Result{Chunk: rows.chunk(q.ID, t, snapshot)}
		if result.Last, err = rows.lastKey(t.key); err != nil {
			return err
		}
		result.End = !cut && rows.count < q.Rows || result.Last != nil && slices.Equal(result.Last, q.Range.Through)
		return nil
	})
	return result, err
}

// Keys reads the rows that have one of these keys. One that no row has is passed over.
func (s *Session) Keys(ctx context.Context, id string, table *Table, keys [][]string, taken Taken) (*Result, error) {
	var result *Result
	err := s.open(ctx, "read rows by their keys", table, taken, func(t *Table, snapshot fold.Snapshot) error {
		if err := checkKeys(table, keys...); err != nil {
			return err
		}
		rows := newRows(t, 0)
		if len(keys) > 0 {
			if _, err := s.read(ctx, fmt.Sprintf("SELECT %s FROM %s%s", t.columns(), t.from(), t.where(oneOf(t.key, keys))), rows.add); err != nil {
				return err
			}
		}
		result = &Result{Chunk: rows.chunk(id, t, snapshot), End: true}
		return nil
	})
	return result, err
}

// File is where rows go that are too many for memory: one goroutine writes it, Seal ends that.
type File interface {
	Write(p []byte) (int, error)
	Seal() error
	pipeline.Content
}

// wholeBytesMax is how much of a table without a key is kept in memory.
const wholeBytesMax = 8 << 20

// Whole reads all rows of a table. If they are more than fit into memory they go to a file; it is released if reading fails. A
// table with a key that is to be read so, because it has none elsewhere, is given without its Key.
func (s *Session) Whole(ctx context.Context, id string, table *Table, file func() (File, error), taken Taken) (*Result, error) {
	return s.whole(ctx, id, table, wholeBytesMax, file, taken)
}

func (s *Session) whole(ctx context.Context, id string, table *Table, bytesMax int, file func() (File, error), taken Taken) (*Result, error) {
	var result *Result
	var out File
	err := s.open(ctx, "read the whole table", table, taken, func(t *Table, snapshot fold.Snapshot) error {
		rows := newRows(t, 0)
		flush := func() (err error) {
			if out == nil {
				if out, err = file(); err != nil {
					return err
				}
			}
			_, err = out.Write(rows.body)
			rows.body = rows.body[:0]
			return err
		}
		_, err := s.read(ctx, fmt.Sprintf("SELECT %s FROM %s%s", t.columns(), t.from(), t.where()), func(values [][]byte) (bool, error) {
			if _, err := rows.add(values); err != nil || len(rows.body) < bytesMax {
				return false, err
			}
			return false, flush()
		})
		if err != nil {
			return err
		}
		if out != nil {
			if err := errors.Join(flush(), out.Seal()); err != nil {
				return err
			}
		}
		result = &Result{Chunk: rows.chunk(id, t, snapshot), End: true}
		result.Table = table.Table
		if out != nil {
			result.Body, result.Content = nil, out
		}
		return nil
	})
	if err != nil {
		if out != nil {
			out.Release()
		}
		return nil, err
	}
	return result, nil
}

// read gives every row of a query to add, until that has enough: then the rest is cancelled. The values are valid until add
// returns.
func (s *Session) read(ctx context.Context, sql string, add func(values [][]byte) (enough bool, err error)) (cut bool, err error) {
	r := s.conn.ExecParams(ctx, sql, nil, nil, nil, nil)
	for !cut && err == nil && r.NextRow() {
		cut, err = add(r.Values())
	}
	if cut || err != nil {
		// What comes back does not matter: a server that could not be told sends the rest, and that is passed over.
		_ = s.conn.CancelRequest(ctx)
	}
	_, closed := r.Close()
	switch {
	case err != nil:
		return cut, err
	case cut && code(closed) == queryCanceled:
		return true, nil
	}
	return cut, closed
}
