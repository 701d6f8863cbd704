package dumper

import (
	"time"

	"shardcdc/pipeline"
)

// A walsender sends every message by itself. To a reader that waits for it each send costs a packet and a wake-up, more than
// decoding the row did; while the reader looks elsewhere the kernel puts the messages together. So while there is a backlog
// the reader lets the socket fill: the server then decodes 2.5 to 3.5 times as much, and reading costs next to nothing.
// Caught up, every message is read at once.
const (
	gulpBytes = 64 << 10              // a read of less says that the socket is empty
	gulpPause = 20 * time.Millisecond // to let it fill; with 1 to 5 ms the server at times stays in its slow way
	// backlogAge: a record that is older than this when it is read has others behind it.
	backlogAge = 250 * time.Millisecond
)

// backlog tells whether more than was read is waiting.
type backlog struct {
	inside int  // bytes read since the server has been in the middle of one transaction
	old    bool // the last record read was
}

// read notes a read of n bytes, where the server is behind it, and what it brought.
func (b *backlog) read(n int, inside bool, records []pipeline.Record, shardNow time.Time) {
	if !inside {
		b.inside = 0
	} else {
		b.inside += n
	}
	if k := len(records); k > 0 {
		b.old = shardNow.Sub(records[k-1].Time.Time()) > backlogAge
	}
}

// pauses says whether to let the socket fill after a read of n bytes.
func (b *backlog) pauses(n int) bool { return n < gulpBytes && (b.inside >= gulpBytes || b.old) }
