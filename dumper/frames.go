package dumper

import (
	"encoding/binary"
	"io"

	"shardcdc/pipeline"
	"shardcdc/pipeline/garbage"
)

// frameBytesMax is the most that PostgreSQL puts into one message (MaxAllocSize), and some.
const frameBytesMax = 1<<30 + 64

// frameKeep is the largest buffer that is kept when it has become empty.
const frameKeep = 8 << 20

// frames cuts a connection's bytes into messages of the PostgreSQL protocol: a type byte, four bytes of length that
// count themselves, the body. The buffer grows only as bytes arrive: a length alone makes nothing grow. For a message larger
// than frameKeep it grows to what the message takes, no more, and is given back behind it.
type frames struct {
	buf  []byte
	r, w int // what is read and not yet taken: buf[r:w]
	size int // the normal size of buf
}

func newFrames(size int) *frames { return &frames{buf: make([]byte, size), size: size} }

// fill reads once, n bytes. Messages taken before are overwritten.
func (f *frames) fill(from io.Reader) (n int, err error) {
	switch {
	case f.r == f.w:
		f.r, f.w = 0, 0
		if len(f.buf) > max(f.size, frameKeep) {
			former := len(f.buf)
			f.buf = make([]byte, f.size)
			garbage.Left(former)
		}
	case f.r > 0:
		f.w = copy(f.buf, f.buf[f.r:f.w])
		f.r = 0
	}
	if f.w == len(f.buf) {
		grown := make([]byte, f.grown())
		copy(grown, f.buf)
		f.buf = grown
	}
	n, err = from.Read(f.buf[f.w:])
	f.w += n
	switch {
	case n > 0:
		return n, nil // an error comes again
	case err == nil:
		return 0, io.ErrNoProgress
	}
	return 0, err
}

// frameGrowth is how many times what has come the buffer may be. What it was before is garbage: little beside a large message.
const frameGrowth = 8

// grown is the next size of a buffer that is full of one message's beginning.
func (f *frames) grown() int {
	size := 2 * len(f.buf)
	if len(f.buf) < 5 {
		return size
	}
	if need := 1 + int(binary.BigEndian.Uint32(f.buf[1:])); need > frameKeep {
		size = min(need, frameGrowth*len(f.buf))
	}
	return size
}

// next takes one whole message; ok is false when there is none yet. The body is valid until the next fill.
func (f *frames) next() (kind byte, body []byte, ok bool, err error) {
	have := f.buf[f.r:f.w]
	if len(have) < 5 {
		return 0, nil, false, nil
	}
	n := binary.BigEndian.Uint32(have[1:])
	if n < 4 || n > frameBytesMax {
		return 0, nil, false, protocolf("message %q says that it is %d bytes long", have[0], n)
	}
	if uint32(len(have)-1) < n {
		return 0, nil, false, nil
	}
	f.r += 1 + int(n)
	return have[0], have[5 : 1+n], true, nil
}

// xlogData is the header of a 'w' message: the position, the server's "end" (which is not its end) and clock.
const xlogDataHeader = 1 + 8 + 8 + 8

// keepalive is a 'k' message.
type keepalive struct {
	end   pipeline.LSN // what the walsender has decoded
	reply bool         // it wants a status update at once
}

func parseKeepalive(body []byte) (keepalive, error) {
	if len(body) != 1+8+8+1 {
		return keepalive{}, protocolf("keepalive of %d bytes", len(body))
	}
	return keepalive{end: pipeline.LSN(binary.BigEndian.Uint64(body[1:])), reply: body[17] != 0}, nil
}

// statusUpdate builds a standby status update as a whole protocol message. All three positions are explicit: write is
// what has arrived, flush and apply what is confirmed.
func statusUpdate(write, confirmed pipeline.LSN, clock pipeline.Timestamp, ask bool) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'d'}, 4+34)
	b = append(b, 'r')
	for _, v := range [...]uint64{uint64(write), uint64(confirmed), uint64(confirmed), uint64(clock)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	if ask {
		return append(b, 1)
	}
	return append(b, 0)
}

// queryMessage builds a simple query.
func queryMessage(sql string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(4+len(sql)+1))
	return append(append(b, sql...), 0)
}
