// Package garbage has large buffers collected soon after they were given up.
//
// Go's collector lets garbage grow to what is in use: right for many small things, but a process that holds one row of 1 GB, and
// has just given up the buffer of the one before, would take 2 GB more than it needs. A row of that size takes seconds; one
// collection for every BytesMax given up costs milliseconds beside it. Who never gives up anything large pays nothing: the pace of
// the collector stays as it is.
//
//	buf = nil
//	garbage.Left(n)
package garbage

import (
	"runtime/debug"
	"sync"
)

// BytesMax of large buffers that were given up are left to lie.
const BytesMax = 32 << 20

// Large is the size from which on a buffer is worth a note.
const Large = 8 << 20

var (
	mu   sync.Mutex // held while garbage is collected: others who leave some wait, as they would for memory
	left int
)

// Left says that a buffer of so many bytes is not used any more. It may take as long as a collection. Less than Large is
// passed over.
func Left(bytes int) {
	if bytes < Large {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	if left += bytes; left < BytesMax {
		return
	}
	left = 0
	debug.FreeOSMemory()
}
