package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"shardcdc/pipeline"
)

// copyBytes is how much of a body is in memory at a time while a Frame is written.
const copyBytes = 256 << 10

// Frame is the frame of a batch whose bodies are not all in memory. Its head is, so its size is known; the bodies are
// read when it is written. It may be written more than once as long as the batch is not released.
type Frame struct {
	head []byte
	crc  uint32 // of the head
	size int64
	txs  []*pipeline.Transaction
}

// Frame prepares the frame of a batch, wherever its bodies are: the bytes are those of AppendUnit. It refuses a batch
// whose heads break a rule which readers check; the bodies are checked when they are read.
func (e *Encoder) Frame(b *pipeline.Batch) (*Frame, error) {
	if err := checkTransactions(b.Previous, b.Transactions, false); err != nil {
		return nil, fmt.Errorf("encode unit: %w", err)
	}
	head, crc, err := e.appendHead(nil, b)
	if err != nil {
		return nil, fmt.Errorf("encode unit: %w", err)
	}
	if len(head) > headBytesMax {
		return nil, fmt.Errorf("encode unit: csn %s to %s: a head of %d bytes exceeds %d, which readers refuse", b.Previous, b.Last(), len(head), headBytesMax)
	}
	length, _ := lengths(head)
	return &Frame{head: head, crc: crc, size: int64(length), txs: b.Transactions}, nil
}

// Size is the frame's length.
func (f *Frame) Size() int64 { return f.size }

// WriteTo writes the frame. An error means that what was written must not be taken for a unit: w refused, or a
// body could not be read, is not as long as was announced, or breaks a rule which readers check.
func (f *Frame) WriteTo(w io.Writer) (int64, error) {
	c := frameWriter{w: w, crc: f.crc, buf: make([]byte, copyBytes)}
	err := c.all(f)
	if err == nil && c.n != f.size {
		err = fmt.Errorf("%d bytes written, %d announced", c.n, f.size)
	}
	if err != nil {
		err = fmt.Errorf("encode unit: %w", err)
	}
	return c.n, err
}

// frameWriter is one pass over a frame.
type frameWriter struct {
	w   io.Writer
	n   int64
	crc uint32 // of the head and the bodies so far
	buf []byte
}

func (c *frameWriter) all(f *Frame) error {
	if err := c.write(f.head); err != nil {
		return err
	}
	for _, tx := range f.txs {
		for _, fragment := range tx.Fragments {
			if err := c.body(fragment); err != nil {
				return inFragment(tx, fragment, err)
			}
		}
	}
	return c.write(binary.BigEndian.AppendUint32(nil, c.crc))
}

func (c *frameWriter) write(b []byte) error {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return err
}

// body copies one body through the gate, which sees it before it is written.
func (c *frameWriter) body(f *pipeline.Fragment) (err error) {
	r, err := f.OpenBody()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	g := gate{f: f, left: f.Size()}
	for left := f.Size(); ; {
		n, readErr := r.Read(c.buf)
		if left -= int64(n); left < 0 {
			return fmt.Errorf("body is longer than the %d bytes announced", f.Size())
		}
		if err := g.feed(c.buf[:n]); err != nil {
			return err
		}
		c.crc = crc32.Update(c.crc, castagnoli, c.buf[:n])
		if n > 0 {
			if err := c.write(c.buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(readErr, io.EOF) && left > 0:
			return fmt.Errorf("body ends %d bytes before its %d", left, f.Size())
		case errors.Is(readErr, io.EOF):
			return g.end()
		case readErr != nil:
			return fmt.Errorf("read the body: %w", readErr)
		}
	}
}
