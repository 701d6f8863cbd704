package pipeline

import (
	"encoding/binary"
	"io"
	"runtime"
	"testing"
)

// A large message of a content takes a buffer of its size; the small ones behind it do not keep that.
func TestWalkLargeMessage(t *testing.T) {
	const size = 64 << 20
	f := &Fragment{}
	large := append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 0, 'p', 0}, binary.BigEndian.AppendUint32(nil, size)...)
	f.Append(append(large, make([]byte, size)...))
	for range 100_000 {
		f.Append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 0, 'p', 0, 0, 0, 0, 0})
	}
	whole := &Fragment{Changes: f.Changes, Content: held{f.Body, int64(len(f.Body)), func(r io.Reader) io.Reader { return r }}}
	var before, last runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	if err := whole.Walk(func(*Change) error {
		if n++; n == whole.Changes {
			runtime.GC()
			runtime.ReadMemStats(&last)
		}
		return nil
	}); err != nil || n != whole.Changes {
		t.Fatalf("%d changes of %d, %v", n, whole.Changes, err)
	}
	if total := last.TotalAlloc - before.TotalAlloc; total > size+4<<20 {
		t.Errorf("%d MB are allocated for a message of %d MB", total>>20, size>>20)
	}
	if kept := int64(last.HeapAlloc) - int64(before.HeapAlloc); kept > size/4 {
		t.Errorf("%d MB are in use behind the large message", kept>>20)
	}
	runtime.KeepAlive(f)
}
