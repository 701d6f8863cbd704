package movestest

import (
	"fmt"
	"maps"
)

// Event is what a reader is told of a row: that it is there, or gone, or both, if its key changed.
type Event struct {
	Shard   int
	Gone    *int // the key under which there is no row any more
	ID      *int // the key under which there is one
	V, Big  string
	Same    bool // the column big is what it was
	Emptied bool
}

// Reader takes events one by one, and stores the last state of each key.
type Reader struct {
	Rows map[int]Row
	// ByShard: it keeps the shard of each row, and passes over what another shard says is gone.
	ByShard bool
}

// Reader is one who has the rows of before.
func (w *World) Reader(byShard bool) *Reader { return &Reader{maps.Clone(w.Before), byShard} }

// Take takes an event.
func (r *Reader) Take(e Event) {
	mine := func(x Row) bool { return !r.ByShard || x.Shard == e.Shard }
	if e.Emptied {
		maps.DeleteFunc(r.Rows, func(_ int, x Row) bool { return mine(x) })
	}
	if e.Gone != nil && mine(r.Rows[*e.Gone]) {
		delete(r.Rows, *e.Gone)
	}
	if e.ID != nil {
		if e.Same {
			e.Big = r.Rows[*e.ID].Big
		}
		r.Rows[*e.ID] = Row{e.Shard, e.V, e.Big}
	}
}

// Check compares what the reader has with what the shards have.
func (w *World) Check(rows map[int]Row) error {
	if maps.Equal(rows, w.After) {
		return nil
	}
	text := fmt.Sprintf("before %v\n", w.Before)
	for _, line := range w.Script {
		text += line + "\n"
	}
	return fmt.Errorf("%safter %v, the reader has\n      %v", text, w.After, rows)
}
