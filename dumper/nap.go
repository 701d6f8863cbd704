package dumper

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"shardcdc/pipeline/pause"
)

// deafBytes may be in the socket before the kernel says so. The kernel makes room for them, and a larger window costs the server's
// CPU with wide rows (of 2 kB: a quarter more); with 256 kB it does not, but most of what deafness saves is lost.
const deafBytes = 1 << 20

// nap lets the connection's socket fill for a while. Not to read it is not enough: Go's runtime would be woken for every packet
// (a thread of it waits for all sockets), which took more than reading did on a busy machine. So meanwhile the socket is deaf: its low-water mark for receiving is high.
func nap(ctx context.Context, conn net.Conn, d time.Duration) error {
	s := socketOf(conn)
	if s == nil || setLowWater(s, deafBytes) != nil {
		return pause.For(ctx, d) // as long, only dearer
	}
	err := pause.For(ctx, d)
	if hears := setLowWater(s, 1); hears != nil && err == nil {
		err = fmt.Errorf("have the socket tell of every byte again: %w", hears)
	}
	return err
}

// socketOf is the socket below a connection, nil if there is none.
func socketOf(conn net.Conn) syscall.RawConn {
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = c.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	s, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return s
}

// setLowWater sets how many bytes make the socket readable.
func setLowWater(s syscall.RawConn, bytes int) (err error) {
	if closed := s.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
	}); closed != nil {
		return closed
	}
	return err
}
