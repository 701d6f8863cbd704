package dumper

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"shardcdc/pipeline/garbage/garbagetest"
)

// A large message takes a buffer of its size, and what was before on the way to it; then the buffer is small again.
func TestLargeFrame(t *testing.T) {
	body := make([]byte, garbagetest.Row)
	from := io.MultiReader(
		bytes.NewReader(binary.BigEndian.AppendUint32([]byte{'d'}, uint32(4+len(body)))), bytes.NewReader(body),
		bytes.NewReader(append(binary.BigEndian.AppendUint32([]byte{'d'}, 4+100), body[:100]...)))
	f := newFrames(256 << 10)
	garbagetest.AtMost(t, garbagetest.Row*4/3+1<<20, "frames", func() {
		for n := 0; n < 2; {
			if _, err := f.fill(from); err != nil {
				t.Fatal(err)
			}
			_, b, ok, err := f.next()
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				if want := []int{len(body), 100}[n]; len(b) != want {
					t.Fatalf("%d bytes, want %d", len(b), want)
				}
				n++
			}
		}
	})
	if len(f.buf) != f.size {
		t.Errorf("the buffer is %d bytes behind the large message", len(f.buf))
	}
}
