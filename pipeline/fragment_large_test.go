package pipeline

import (
	"encoding/binary"
	"io"
	"runtime"
	"testing"

	"shardcdc/pipeline/garbage/garbagetest"
)

// A large message of a content takes a buffer of its size; the small ones behind it do not keep that.
func TestWalkLargeMessage(t *testing.T) {
	f := &Fragment{}
	large := append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 0, 'p', 0}, binary.BigEndian.AppendUint32(nil, garbagetest.Row)...)
	f.Append(append(large, make([]byte, garbagetest.Row)...))
	for range 100_000 {
		f.Append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 0, 'p', 0, 0, 0, 0, 0})
	}
	whole := &Fragment{Changes: f.Changes, Content: held{f.Body, int64(len(f.Body)), func(r io.Reader) io.Reader { return r }}}
	n := 0
	garbagetest.AtMost(t, garbagetest.Row+4<<20, "walk", func() {
		var before, last runtime.MemStats
		runtime.ReadMemStats(&before)
		err := whole.Walk(func(*Change) error {
			if n++; n == whole.Changes {
				runtime.GC()
				runtime.ReadMemStats(&last)
			}
			return nil
		})
		if kept := int(last.HeapAlloc) - int(before.HeapAlloc); err != nil || kept > garbagetest.Row/4 {
			t.Errorf("%d MB are in use behind the large message, %v", kept>>20, err)
		}
	})
	if n != 100_001 {
		t.Errorf("%d changes", n)
	}
}
