// Package garbagetest counts what is allocated, for tests that a large message is not copied once more.
package garbagetest

import (
	"runtime"
	"testing"
)

// Row is the size of a large value in such tests.
const Row = 64 << 20

// AtMost fails if fn allocates more than so many bytes, whatever becomes of them, or if a large part of them is still in use
// behind it. Nothing else may be at work meanwhile.
func AtMost(t testing.TB, bytes int, what string, fn func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	fn()
	runtime.GC()
	runtime.ReadMemStats(&after)
	n := int(after.TotalAlloc - before.TotalAlloc)
	t.Logf("%s: %d MB are allocated for a value of %d MB", what, n>>20, Row>>20)
	if n > bytes {
		t.Errorf("%s: at most %d MB were expected", what, bytes>>20)
	}
	if kept := int(after.HeapAlloc) - int(before.HeapAlloc); kept > Row/4 {
		t.Errorf("%s: %d MB of them are still in use", what, kept>>20)
	}
}
