package copier

import (
	"context"
	"fmt"
	"slices"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline/garbage"
)

// Request asks for a chunk of a table with a key.
type Request struct {
	ID    string
	Table *Table
	Range Range
	Rows  int // at most so many rows
	// BytesMax: a chunk ends behind the row with which it has as many bytes, or more.
	BytesMax int
	File     NewFile
	Taken    Taken
}

// Result is a chunk and where it ended.
type Result struct {
	fold.Chunk
	Last []string // the key of the last row; nil: there are no rows, or it was not asked for
	End  bool     // the range has no rows behind Last
}

// Chunk reads the first rows of a range.
func (s *Session) Chunk(ctx context.Context, q Request) (*Result, error) {
	if q.Rows < 1 || q.BytesMax < 1 {
		return nil, s.fail("read a chunk", q.Table, fmt.Errorf("limits of %d rows and %d bytes", q.Rows, q.BytesMax))
	}
	result, err := s.body(ctx, "read a chunk", q.ID, q.Table, q.File, q.Taken, func(t *Table, r *rows) (end bool, err error) {
		if err := checkKeys(q.Table, q.Range.After, q.Range.Through); err != nil {
			return false, err
		}
		r.key, r.max = t.key, q.BytesMax
		r.body = make([]byte, 0, min(s.size+s.size/8, q.BytesMax+q.BytesMax/8))
		sql := fmt.Sprintf("SELECT %s FROM %s%s ORDER BY %s LIMIT %d", t.columns(), t.from(), t.where(q.Range.conditions(t.key)...), order(t.key), q.Rows)
		cut, err := s.read(ctx, sql, r.add)
		if err != nil {
			return false, err
		}
		last, err := r.keyOfLast()
		return !cut && r.count < q.Rows || last != nil && slices.Equal(last, q.Range.Through), err
	})
	if err == nil {
		s.size = len(result.Body)
	}
	return result, err
}

// Keys reads the rows that have one of these keys. One that no row has is passed over.
func (s *Session) Keys(ctx context.Context, id string, table *Table, keys [][]string, file NewFile, taken Taken) (*Result, error) {
	return s.body(ctx, "read rows by their keys", id, table, file, taken, func(t *Table, r *rows) (end bool, err error) {
		if err := checkKeys(table, keys...); err != nil || len(keys) == 0 {
			return true, err
		}
		_, err = s.read(ctx, fmt.Sprintf("SELECT %s FROM %s%s", t.columns(), t.from(), t.where(oneOf(t.key, keys))), r.add)
		return true, err
	})
}

// Whole reads all rows of a table. A table with a key that is to be read so, because it has none elsewhere, is given without its
// Key.
func (s *Session) Whole(ctx context.Context, id string, table *Table, file NewFile, taken Taken) (*Result, error) {
	return s.whole(ctx, id, table, rowsKeep, file, taken)
}

func (s *Session) whole(ctx context.Context, id string, table *Table, keep int, file NewFile, taken Taken) (*Result, error) {
	result, err := s.body(ctx, "read the whole table", id, table, file, taken, func(t *Table, r *rows) (end bool, err error) {
		r.keep = keep
		_, err = s.read(ctx, fmt.Sprintf("SELECT %s FROM %s%s", t.columns(), t.from(), t.where()), r.add)
		return true, err
	})
	if err == nil {
		result.Table = table.Table
	}
	return result, err
}

// body has rows of a table read in a snapshot of its own. The file that they went to, if any, is released when that fails.
func (s *Session) body(ctx context.Context, what, id string, table *Table, file NewFile, taken Taken, read func(*Table, *rows) (end bool, err error)) (*Result, error) {
	var result *Result
	var r *rows
	err := s.open(ctx, what, table, taken, func(t *Table, snapshot fold.Snapshot) error {
		r = newRows(t, file)
		end, err := read(t, r)
		garbage.Left(r.given)
		if err != nil {
			return err
		}
		if result, err = r.end(id, t, snapshot); err == nil {
			result.End = end
		}
		return err
	})
	if err != nil {
		if r != nil && r.file != nil {
			r.file.Release()
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
