package pipeline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

var errShort = errors.New("the message is too short")

// Cursor reads a message of pgoutput from its beginning. The first read past the end makes it short, and every later read
// gives zero values, so a caller reads everything and asks End once. The zero Cursor is at the end of an empty message.
type Cursor struct {
	b     []byte
	short bool
}

// CursorOf begins at the first byte of msg.
func CursorOf(msg []byte) Cursor { return Cursor{b: msg} }

// End is nil if the message had exactly what was read.
func (c *Cursor) End() error {
	switch {
	case c.short:
		return errShort
	case len(c.b) != 0:
		return fmt.Errorf("%d bytes too many", len(c.b))
	}
	return nil
}

// Take reads n bytes, as a view into the message.
func (c *Cursor) Take(n int) []byte {
	if n < 0 || len(c.b) < n {
		c.short, c.b = true, nil
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// Byte reads an Int8.
func (c *Cursor) Byte() byte {
	if v := c.Take(1); v != nil {
		return v[0]
	}
	return 0
}

// Uint16 reads an Int16.
func (c *Cursor) Uint16() uint16 {
	if v := c.Take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

// Uint32 reads an Int32.
func (c *Cursor) Uint32() uint32 {
	if v := c.Take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// Uint64 reads an Int64.
func (c *Cursor) Uint64() uint64 {
	if v := c.Take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// CString reads a String, which ends with a zero byte.
func (c *Cursor) CString() string {
	i := bytes.IndexByte(c.b, 0)
	if i < 0 {
		c.short, c.b = true, nil
		return ""
	}
	s := string(c.b[:i])
	c.b = c.b[i+1:]
	return s
}
