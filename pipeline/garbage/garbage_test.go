package garbage

import (
	"runtime"
	"testing"
)

var held []byte

// Large buffers do not pile up, and small ones cost nothing.
func TestLeft(t *testing.T) {
	var m runtime.MemStats
	collections := func() uint32 {
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	before := collections()
	for range 1000 {
		Left(Large - 1)
	}
	if n := collections() - before; n != 0 {
		t.Errorf("%d collections for small buffers", n)
	}
	keep := make([]byte, 4*BytesMax) // without Left as much garbage again would be left to lie
	for i := range 20 {
		held = make([]byte, BytesMax)
		held = nil
		Left(BytesMax)
		if runtime.ReadMemStats(&m); m.HeapAlloc > 5*BytesMax {
			t.Fatalf("round %d: %d MB in the heap, %d are in use", i, m.HeapAlloc>>20, len(keep)>>20)
		}
	}
	if n := collections() - before; n != 20 {
		t.Errorf("%d collections, want 20", n)
	}
	runtime.KeepAlive(keep)
}

// Garbage of less than PaceBytes is not collected.
func TestPace(t *testing.T) {
	Pace()
	defer func() { unused = nil }()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	collections := m.NumGC
	for range PaceBytes / 4096 * 3 / 4 {
		held = make([]byte, 4096)
	}
	if runtime.ReadMemStats(&m); m.NumGC != collections {
		t.Errorf("%d collections", m.NumGC-collections)
	}
}
