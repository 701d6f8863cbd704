package apply

import (
	"context"
	"sync"
)

// queue carries units from the goroutine that reads the stream to the one that applies. It holds at most
// bytesMax bytes and unitsMax units; one unit alone may exceed the bytes. When it is full the reader blocks, and
// with it the stream's consumer. A unit that is larger than memory takes no room: it is not read ahead.
type queue struct {
	bytesMax, unitsMax int

	mu    sync.Mutex
	units []Unit
	bytes int
	more  bool  // the last take left something
	err   error // why there will be no more units

	filled  chan struct{} // holds a token after every put
	drained chan struct{} // holds a token after every take
}

func newQueue(bytesMax, unitsMax int) *queue {
	return &queue{
		bytesMax: bytesMax, unitsMax: unitsMax,
		filled: make(chan struct{}, 1), drained: make(chan struct{}, 1),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a token is there already; one wakes the only waiter, which looks at everything
	}
}

// put waits for room. Consecutive units without transactions become one.
func (q *queue) put(ctx context.Context, u Unit) error {
	for {
		if q.tryPut(u) {
			signal(q.filled)
			return nil
		}
		select {
		case <-q.drained:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *queue) tryPut(u Unit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.units); n > 0 {
		if last := &q.units[n-1]; last.Unit == nil && u.Unit == nil {
			u.Watermark = max(u.Watermark, last.Watermark)
			*last = u
			return true
		}
		if q.bytes+u.Bytes > q.bytesMax || n >= q.unitsMax {
			return false
		}
	}
	q.units = append(q.units, u)
	q.bytes += u.Bytes
	return true
}

// fail ends the queue: take returns err after the last unit.
func (q *queue) fail(err error) {
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	signal(q.filled)
}

// take returns what is there, up to the limits and at least one unit, or nothing. A unit that still arrives is alone. With the last unit gone it
// returns the reader's error.
func (q *queue) take(bytesMax, changesMax, unitsMax int) (units []Unit, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.units) == 0 {
		return nil, q.err
	}
	n, bytes, changes := 0, 0, 0
	for n < len(q.units) && (n == 0 || n < unitsMax) {
		u := &q.units[n]
		bytes += u.Bytes
		changes += u.changes()
		if n > 0 && (bytes > bytesMax || changes > changesMax || u.Arriving != nil) {
			break
		}
		n++
		if u.Arriving != nil {
			break
		}
	}
	q.more = n < len(q.units)
	units = append(units, q.units[:n]...)
	rest := copy(q.units, q.units[n:])
	clear(q.units[rest:])
	q.units = q.units[:rest]
	for i := range units {
		q.bytes -= units[i].Bytes
	}
	signal(q.drained)
	return units, nil
}

// size is the bytes that wait.
func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// backlog says that the last take left something: it was ended by a limit. What came since does not count.
func (q *queue) backlog() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.more
}

// full says that take would be ended by a limit, or is the last one.
func (q *queue) full(bytesMax, unitsMax int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err != nil || q.bytes >= bytesMax || len(q.units) >= unitsMax
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.units) == 0
}
