// Package garbage sets the pace at which garbage is collected: seldom while there is little in memory (Pace), and soon after
// large buffers were given up (Left).
//
// # Little in memory
//
// Go's collector lets garbage grow to what is in use, and no further: a process that has 3 MB in use and passes 500 MB a second on
// would collect more than a hundred times a second, and be marking most of the time, when every pointer written costs more. So
// a main calls Pace, and PaceBytes of garbage, more than would be, are left to lie. That is a sum and no factor: the more is
// in use the less it matters.
//
// # Large buffers
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

// PaceBytes of garbage lie more than Go leaves to lie.
const PaceBytes = 32 << 20

// unused counts as in use for the collector.
//
//lint:ignore U1000 it is there to be kept
var unused []byte

// Pace lets PaceBytes of garbage lie, in this process from now on. It is the first call of a main: what is set aside for that
// takes no memory as long as the process has never used its place, for then nobody has to clear it.
func Pace() { unused = make([]byte, PaceBytes) }

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
