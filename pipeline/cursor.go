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
//
// It moves an index, not a slice: to write a pointer costs more than to read a message while garbage is collected.
type Cursor struct {
	b     []byte
	at    int
	short bool
}

// CursorOf begins at the first byte of msg.
func CursorOf(msg []byte) Cursor { return Cursor{b: msg} }

// End is nil if the message had exactly what was read.
func (c *Cursor) End() error {
	switch {
	case c.short:
		return errShort
	case c.left() != 0:
		return fmt.Errorf("%d bytes too many", c.left())
	}
	return nil
}

// left is the number of bytes that are not read.
func (c *Cursor) left() int { return len(c.b) - c.at }

// cutShort notes a read past the end.
func (c *Cursor) cutShort() { c.at, c.short = len(c.b), true }

// Take reads n bytes, as a view into the message.
func (c *Cursor) Take(n int) []byte {
	if n < 0 || c.left() < n {
		c.cutShort()
		return nil
	}
	from := c.at
	c.at += n
	return c.b[from:c.at:c.at]
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
func (c *Cursor) CString() string { return string(c.CBytes()) }

// CBytes reads a String without its zero byte, as a view into the message.
func (c *Cursor) CBytes() []byte {
	n := bytes.IndexByte(c.b[c.at:], 0)
	if n < 0 {
		c.cutShort()
		return nil
	}
	from := c.at
	c.at += n + 1
	return c.b[from : from+n : from+n]
}
