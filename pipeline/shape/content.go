package shape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// content is a body that is not in memory, as the rules make it: every reader rewrites it anew, and gets the same.
type content struct {
	of    *pipeline.Fragment
	shape *Shape
	plans []*plan
	keys  map[string][]byte
	size  int64
}

func (c *content) Size() int64 { return c.size }

func (c *content) Release() { c.of.Content.Release() }

func (c *content) Open() (io.ReadCloser, error) { return c.open() }

func (c *content) open() (*contentReader, error) {
	from, err := c.of.Content.Open()
	if err != nil {
		return nil, err
	}
	r := &contentReader{from: from, left: c.of.Content.Size()}
	r.w.masker.keys = c.keys
	r.w.begin(c.shape, c.of, c.plans)
	return r, nil
}

// measure reads it once: how large it is, and what is in it.
func (c *content) measure() (w *rewriter, size int64, err error) {
	r, err := c.open()
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		err := r.fill()
		if errors.Is(err, io.EOF) {
			return &r.w, r.w.taken, nil
		}
		if err != nil {
			return nil, 0, err
		}
		r.take(len(r.w.out))
	}
}

// readBytes is how much of a content is read at a time; a larger message makes the buffer grow, to what it takes.
const readBytes = 256 << 10

// contentReader reads what the rules make of a content.
type contentReader struct {
	w    rewriter
	from io.ReadCloser
	left int64  // to be read
	in   []byte // read, and not rewritten: less than a message
	room []byte // what in is the beginning of
	sent int    // of w.out
}

func (r *contentReader) Close() error { return r.from.Close() }

// Read implements io.Reader.
func (r *contentReader) Read(p []byte) (int, error) {
	for r.sent == len(r.w.out) {
		r.take(len(r.w.out))
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.w.out[r.sent:])
	r.sent += n
	return n, nil
}

// take lets go of what was rewritten and sent.
func (r *contentReader) take(n int) {
	r.w.taken += int64(n)
	r.w.out, r.sent = r.w.out[:0], 0
}

// fill rewrites the next messages; io.EOF: there are none.
func (r *contentReader) fill() error {
	if r.left == 0 {
		if len(r.in) > 0 {
			return errCutOff
		}
		return io.EOF
	}
	want := int64(readBytes)
	if len(r.in) >= 4 {
		want = max(want, 4+int64(binary.BigEndian.Uint32(r.in)))
	}
	if want > r.left+int64(len(r.in)) {
		want = r.left + int64(len(r.in))
	}
	if int64(cap(r.room)) < want || cap(r.room) > 4*readBytes && want == readBytes {
		r.room = make([]byte, want)
	}
	buf := r.room[:want]
	have := copy(buf, r.in)
	n, err := io.ReadFull(r.from, buf[have:])
	r.left -= int64(n)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	r.in, err = r.w.through(buf)
	return err
}

// marked says whether a fragment begins with a mark of a copy whose tables have rules. A mark is always the first message.
func (s *Shaper) marked(f *pipeline.Fragment) (marked bool, err error) {
	msg, err := first(f)
	if err != nil || len(msg) < 5 || pipeline.Op(msg[0]) != pipeline.Message {
		return false, err
	}
	var c pipeline.Change
	if err := pipeline.ParseChange(msg, &c); err != nil {
		return false, err
	}
	m, is, err := mark.CopyOf(&c)
	if err != nil || !is {
		return false, nil //nolint:nilerr // what cannot be read is no mark of ours
	}
	changed, _ := s.shape.rename(&m)
	return changed, nil
}

// first is the first message of a fragment, if it is one that may be a mark.
func first(f *pipeline.Fragment) (_ []byte, err error) {
	r, err := f.OpenBody()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if pipeline.Op(head[4]) != pipeline.Message || size < 1 || size > f.Size()-4 {
		return nil, nil
	}
	msg := make([]byte, size)
	msg[0] = head[4]
	if _, err := io.ReadFull(r, msg[1:]); err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	return msg, nil
}
