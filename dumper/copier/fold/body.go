package fold

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"shardcdc/pipeline"
)

// readHeader is what stands before the tuple in a Read message: kind, relation, 'N'.
const readHeader = 6

// size of the chunk's rows in bytes.
func (c *Chunk) size() int64 {
	if c.Content != nil {
		return c.Content.Size()
	}
	return int64(len(c.Body))
}

// scan calls fn with every row and where its message stands, the length before it included. The tuple is valid until fn
// returns.
func (c *Chunk) scan(fn func(at span, t pipeline.Tuple) error) error {
	s := scanner{c: c, fn: fn}
	var err error
	if c.Content == nil {
		err = s.memory(c.Body)
	} else {
		err = s.content()
	}
	if err == nil && s.rows != c.Rows {
		err = s.bad(fmt.Sprintf("it has %d rows, not %d", s.rows, c.Rows))
	}
	return err
}

type scanner struct {
	c      *Chunk
	fn     func(at span, t pipeline.Tuple) error
	at     int64
	rows   int
	change pipeline.Change
}

func (s *scanner) bad(what string) error {
	return fmt.Errorf("chunk %s of %s: byte %d: %s", s.c.ID, s.c.Table, s.at, what)
}

func (s *scanner) memory(b []byte) error {
	for len(b) > 0 {
		if len(b) < 4 || int64(len(b)) < 4+int64(binary.BigEndian.Uint32(b)) {
			return s.bad("the body is cut off")
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		if err := s.message(b[4:n:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (s *scanner) content() (err error) {
	from, err := s.c.Content.Open()
	if err != nil {
		return s.bad(err.Error())
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	r := bufio.NewReaderSize(from, 256<<10)
	size := s.c.size()
	var msg []byte
	for s.at < size {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return fmt.Errorf("chunk %s of %s: byte %d: %w", s.c.ID, s.c.Table, s.at, err)
		}
		n := int64(binary.BigEndian.Uint32(length[:]))
		if n > size-s.at-4 {
			return s.bad("the body is cut off")
		}
		if int64(cap(msg)) < n {
			msg = make([]byte, n)
		}
		msg = msg[:n]
		if _, err := io.ReadFull(r, msg); err != nil {
			return fmt.Errorf("chunk %s of %s: byte %d: %w", s.c.ID, s.c.Table, s.at, err)
		}
		if err := s.message(msg); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) message(msg []byte) error {
	if err := pipeline.ParseChange(msg, &s.change); err != nil {
		return s.bad(err.Error())
	}
	r := s.c.Relation
	if s.change.Op != pipeline.Read || s.change.RelationID != r.ID || s.change.New.Columns() != len(r.Columns) {
		return s.bad(fmt.Sprintf("%s of relation %d with %d columns is no row of relation %d with %d",
			s.change.Op, s.change.RelationID, s.change.New.Columns(), r.ID, len(r.Columns)))
	}
	at := span{s.at, s.at + 4 + int64(len(msg))}
	s.at = at.to
	s.rows++
	return s.fn(at, s.change.New)
}

// finish puts the edited chunk behind what the fragment holds.
func (e *edit) finish(into *pipeline.Fragment) error {
	if into.Content != nil {
		return fmt.Errorf("chunk %s of %s: the fragment that takes it is not in memory", e.c.ID, e.c.Table)
	}
	if len(e.c.Relation.Raw) > 0 || e.rows > 0 { // readers make a table of it, also without rows; one that is not there has no description
		into.Relations = append(into.Relations, pipeline.RelationUse{Offset: int64(len(into.Body)), Relation: e.c.Relation})
	}
	if e.rows > 0 {
		into.Changes += e.rows
		into.Ops |= pipeline.OpsOf(pipeline.Read)
	}
	switch {
	case e.c.Content != nil && e.emptied:
		e.c.Content.Release()
		into.Body = append(into.Body, e.tail...)
		return nil
	case e.c.Content != nil:
		into.Content = &edited{head: into.Body, base: e.c.Content, cuts: e.cuts, tail: e.tail}
		into.Body = nil
		return nil
	}
	into.Body = slices.Grow(into.Body, len(e.c.Body)+len(e.tail))
	at := int64(0)
	for _, cut := range e.cuts {
		into.Body = append(into.Body, e.c.Body[at:cut.from]...)
		at = cut.to
	}
	into.Body = append(into.Body, e.c.Body[at:]...)
	into.Body = append(into.Body, e.tail...)
	return nil
}

// edited is a content with a head before it, without some of its parts, and with a tail behind it.
type edited struct {
	head []byte
	base pipeline.Content
	cuts []span
	tail []byte
}

func (c *edited) Size() int64 {
	n := int64(len(c.head)+len(c.tail)) + c.base.Size()
	for _, cut := range c.cuts {
		n -= cut.to - cut.from
	}
	return n
}

func (c *edited) Release() { c.base.Release() }

func (c *edited) Open() (io.ReadCloser, error) {
	base, err := c.base.Open()
	if err != nil {
		return nil, err
	}
	return &editedReader{head: c.head, base: base, size: c.base.Size(), cuts: c.cuts, tail: c.tail}, nil
}

type editedReader struct {
	head []byte
	base io.ReadCloser
	at   int64 // in the base
	size int64 // of the base
	cuts []span
	tail []byte
}

func (r *editedReader) Close() error { return r.base.Close() }

func (r *editedReader) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	for r.at < r.size {
		end := r.size
		if len(r.cuts) > 0 {
			if end = r.cuts[0].from; end == r.at {
				if err := r.skip(); err != nil {
					return 0, err
				}
				continue
			}
		}
		n, err := r.base.Read(p[:min(int64(len(p)), end-r.at)])
		r.at += int64(n)
		if errors.Is(err, io.EOF) {
			if err = nil; r.at < r.size && n == 0 {
				err = io.ErrUnexpectedEOF
			}
		}
		return n, err
	}
	if len(r.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.tail)
	r.tail = r.tail[n:]
	return n, nil
}

// skip passes over the next cut.
func (r *editedReader) skip() error {
	cut := r.cuts[0]
	r.cuts = r.cuts[1:]
	r.at = cut.to
	if cut.to == r.size { // nothing of the base is wanted any more
		return nil
	}
	if _, err := io.CopyN(io.Discard, r.base, cut.to-cut.from); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}
