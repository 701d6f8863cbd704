package pgoutput_test

import (
	"encoding/binary"
	"testing"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage/garbagetest"
)

// counting is a Spill that keeps nothing.
type counting struct {
	pipeline.Content
	n int64
}

func (c *counting) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
func (c *counting) Truncate(size int64) error   { c.n = size; return nil }
func (c *counting) Park() error                 { return nil }
func (c *counting) Seal() error                 { return nil }
func (c *counting) Size() int64                 { return c.n }
func (c *counting) Release()                    {}

// A message that is too large for memory goes to its place outside of it without a copy.
func TestLargeMessage(t *testing.T) {
	msg := append(binary.BigEndian.AppendUint32([]byte{'I'}, 1), 'N', 0, 1, 't')
	msg = append(binary.BigEndian.AppendUint32(msg, garbagetest.Row), make([]byte, garbagetest.Row)...)
	spill := &counting{}
	a := pgoutput.New(0, pgoutput.Limits{Spill: func() (pgoutput.Spill, error) { return spill, nil }})
	garbagetest.AtMost(t, 1<<20, "assembler", func() {
		for _, m := range [][]byte{relation(1, "public.t", "v"), begin(0x1000), msg, commit(0x1000)} {
			if _, _, err := a.Feed(0, m); err != nil {
				t.Fatal(err)
			}
		}
	})
	if spill.n != int64(4+len(msg)) {
		t.Errorf("%d bytes outside of memory, want %d", spill.n, 4+len(msg))
	}
}
