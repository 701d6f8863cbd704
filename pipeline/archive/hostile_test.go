package archive

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// A file that claims more than it can hold costs no memory, and its sequences do not wrap.
func TestHostile(t *testing.T) {
	start := append(make([]byte, 8), 0) // a time and no subject
	many := append(binary.AppendUvarint(start, headerValuesMax+1), make([]byte, 2*headerValuesMax+3)...)
	_, _, err := takeMessage(many)
	if err == nil || err.Error() != "1025 header values, and 1024 at most" {
		t.Errorf("too many header values: %v", err)
	}
	if _, rest, err := takeMessage(append(binary.AppendUvarint(start, headerValuesMax), make([]byte, 2*headerValuesMax+1)...)); err != nil || len(rest) > 0 {
		t.Errorf("%d header values: %v, %d bytes left", headerValuesMax, err, len(rest))
	}

	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(1)
	f := open(t, o.export(Range{}))
	sample, err := f.Get(t.Context(), f.Head.First)
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range []pipeline.Seq{firstMax + 1, math.MaxUint64} {
		head := f.Head
		head.First = first
		path := filepath.Join(t.TempDir(), "hostile.cdc")
		w, err := Create(path, head)
		if err != nil {
			t.Fatal(err)
		}
		for i := range pipeline.Seq(3) {
			m := *sample
			m.Seq = first + i
			if err := w.Add(&m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Finish(0, 0); err != nil {
			t.Fatal(err)
		}
		_, err = Open(path)
		wants(t, err, "damaged")
	}

	block := make([]byte, blockSize)
	binary.BigEndian.PutUint64(block, 1)
	binary.BigEndian.PutUint32(block[8:], 2)
	binary.BigEndian.PutUint32(block[12:], 2*messageBytesMin-1)
	_, err = new(File).addBlock(block, blockSize, 1)
	wants(t, err, "a block of 2 messages and 21 bytes")
}
