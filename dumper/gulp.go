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
	// backlogAge: a record that is older than this when the server sends it has others behind it. A server sends what is
	// flushed, so a commit that waits for a slow disk is some milliseconds old without any backlog.
	backlogAge = 40 * pipeline.Timestamp(time.Millisecond/time.Microsecond)
)

// backlog tells whether more than was read is waiting.
type backlog struct {
	inside int  // bytes read since the server has been in the middle of one transaction
	old    bool // the last record was, when it was sent
}

// read notes a read of n bytes, where the server is behind it, what it brought, and when the last of it was sent. Both times
// are of the server's clock, and the way is in neither: however far away the server is and whatever our clock shows, a
// backlog is one of the server.
func (b *backlog) read(n int, inside bool, records []pipeline.Record, sent pipeline.Timestamp) {
	if !inside {
		b.inside = 0
	} else {
		b.inside += n
	}
	if k := len(records); k > 0 {
		b.old = sent-records[k-1].Time > backlogAge
	}
}

// pauses says whether to let the socket fill after a read of n bytes.
func (b *backlog) pauses(n int) bool { return n < gulpBytes && (b.inside >= gulpBytes || b.old) }
