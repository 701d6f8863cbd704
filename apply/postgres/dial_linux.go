package postgres

import (
	"strings"
	"syscall"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of tcp(7), in milliseconds, which package syscall does not name.
const tcpUserTimeout = 18

// limitUnacknowledged ends a connection whose data is not acknowledged for too long. By default the kernel tries
// for a quarter of an hour.
func limitUnacknowledged(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(unacknowledgedMax.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
