package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

var (
	errShort = errors.New("cut off")
	errRange = errors.New("number out of range")
)

// reader walks encoded bytes. The first error stays; every later read gives zero values. No read gives more
// than the bytes that are there, and count promises that what it returns was paid for.
type reader struct {
	b   []byte // stays as it is: a number that moves is cheaper than a slice that the garbage collector watches
	at  int
	err error
}

// rest is how many bytes are left.
func (r *reader) rest() int { return len(r.b) - r.at }

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.at = len(r.b)
}

func (r *reader) uvarint() uint64 {
	if r.at < len(r.b) && r.b[r.at] < 0x80 { // mostly
		v := uint64(r.b[r.at])
		r.at++
		return v
	}
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 {
		r.failVarint(n)
		return 0
	}
	r.at += n
	return v
}

func (r *reader) varint() int64 {
	v := r.uvarint() // the zigzag of encoding/binary
	if v&1 != 0 {
		return int64(^(v >> 1))
	}
	return int64(v >> 1)
}

func (r *reader) failVarint(n int) {
	if n == 0 {
		r.fail(errShort)
	} else {
		r.fail(errRange)
	}
}

func (r *reader) byte() byte {
	if r.at >= len(r.b) {
		r.fail(errShort)
		return 0
	}
	v := r.b[r.at]
	r.at++
	return v
}

// atMost reads a number that must not exceed limit.
func (r *reader) atMost(limit uint64) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail(errRange)
		return 0
	}
	return v
}

func (r *reader) uint16() uint16 { return uint16(r.atMost(math.MaxUint16)) }
func (r *reader) uint32() uint32 { return uint32(r.atMost(math.MaxUint32)) }

// count reads the number of elements that follow, each of at least size bytes. It is never more than the
// bytes left can hold, so it may be allocated.
func (r *reader) count(size int) int {
	v := r.uvarint()
	if v > uint64(r.rest()/size) {
		r.fail(fmt.Errorf("%d elements announced in %d bytes: %w", v, r.rest(), errShort))
		return 0
	}
	return int(v)
}

// bytes reads a string as a view.
func (r *reader) bytes() []byte {
	n := r.count(1)
	v := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return v
}

// string reads a string; one that equals like shares its memory.
func (r *reader) string(like string) string {
	b := r.bytes()
	if string(b) == like {
		return like
	}
	return string(b)
}
