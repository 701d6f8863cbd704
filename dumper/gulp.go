package dumper

import (
	"net"
	"time"

	"shardcdc/pipeline"
)

// A walsender sends every message by itself. To a reader that waits for it each send costs a packet and a wake-up, more than
// decoding the row did; while the reader looks elsewhere the kernel puts the messages together. So while there is a backlog
// the reader lets the socket fill: the server then decodes 2.5 to 3.5 times as much, and reading costs next to nothing.
// Caught up, every message is read at once.
//
// What puts messages together is a receive window that is closed most of the time: then they lie in the server's buffer until the
// reader comes, and travel in large pieces. So a connection to a server that is near has a small window (narrow). One that is far needs
// a large one, which the kernel finds.
const (
	gulpBytes = 64 << 10              // a read of less says that the socket is empty
	gulpPause = 20 * time.Millisecond // to let it fill; with 1 to 5 ms the server at times stays in its slow way
	// gulpMax: more than this between two pauses fills the server's buffer (4 MB) before we come, and it stands still. So
	// pauses become shorter where much is sent, but not shorter than pauseMin.
	gulpMax  = 2 << 20
	pauseMin = 4 * time.Millisecond
	// backlogAge: a record that is older than this when the server sends it has others behind it. A server sends what is
	// flushed, so a commit that waits for a slow disk is some milliseconds old without any backlog.
	backlogAge = 40 * pipeline.Timestamp(time.Millisecond/time.Microsecond)
)

// backlog tells whether more than was read is waiting.
type backlog struct {
	inside int  // bytes read since the server has been in the middle of one transaction
	old    bool // the last record was, when it was sent
	gulp   int  // bytes read since the last pause
	last   time.Duration
}

// read notes a read of n bytes, where the server is behind it, and what it brought, and when the last of it was sent. Both times
// are of the server's clock, and the way is in neither: however far away the server is and whatever our clock shows, a
// backlog is one of the server.
func (b *backlog) read(n int, inside bool, records []pipeline.Record, sent pipeline.Timestamp) {
	b.gulp += n
	if !inside {
		b.inside = 0
	} else {
		b.inside += n
	}
	if k := len(records); k > 0 {
		b.old = sent-records[k-1].Time > backlogAge
	}
}

// idle notes a read that brought nothing but that the server is there: it had nothing to send. Without this a shard whose last
// record was old, from before a restart or dated by another server, would answer each probe a pause too late until its next one.
func (b *backlog) idle() { b.old = false }

// pauses says how long to let the socket fill after a read of n bytes; 0: not at all.
func (b *backlog) pauses(n int) time.Duration {
	if n >= gulpBytes || b.inside < gulpBytes && !b.old {
		return 0
	}
	switch {
	case b.last == 0:
		b.last = gulpPause
	case b.gulp > gulpMax:
		b.last = max(b.last*gulpMax/time.Duration(b.gulp), pauseMin)
	default: // a single small gulp says little: the window may have let no more through
		b.last = min(b.last*5/4, gulpPause)
	}
	b.gulp = 0
	return b.last
}

const (
	windowBytes = 128 << 10            // of a server that is near; the kernel doubles it for its own needs
	near        = 2 * time.Millisecond // so at the least some 60 MB a second pass
)

// narrow gives a connection a small receive window, if the server answers as soon as one that is near.
func narrow(conn net.Conn, roundTrip time.Duration) error {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = tls.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok && roundTrip < near {
		return tcp.SetReadBuffer(windowBytes)
	}
	return nil
}
