package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"shardcdc/pipeline"
)

// headBytesMax bounds what an Assembly keeps in memory. A head is some 60 bytes per fragment and the description of
// every table, so a transaction's never comes near it; it guards against a damaged length.
const headBytesMax = 64 << 20

// Assembly reads one frame of several parts as they come, without keeping the bodies: for payloads that may be
// larger than memory. It gives the heads as soon as they are complete, under a checksum of their own, and then the
// bodies' bytes in order.
//
//	k, n = ParsePart(header)
//	if k == 1: assembly = decoder.Begin(n)             // whatever was unfinished before is discarded
//	assembly.Expect(k, n)
//	pieces = assembly.Add(data)
//	if the first time that unit = assembly.Head() is not nil: set the Content of its fragments
//	for each piece: append it to the Content of unit.Transactions[piece.Transaction].Fragments[piece.Fragment]
//	if k == n: assembly.End()                          // only now is anything of it proved
//
// As with a Collector, a first part, a payload in one message and an epoch discard an unfinished payload: the reader
// forgets the Assembly. Nothing that came out of an Assembly counts before End returned nil.
//
// Memory: the head (at most 64 MB encoded), and nothing of the parts; pieces are views into the data of Add.
// After an error it stays in error. Not for concurrent use.
type Assembly struct {
	d     *Decoder
	of    int // parts
	parts int // that have come
	err   error

	head   []byte // what has come of it
	at     int64  // bytes that have come
	length int64  // of the frame; 0: not known yet
	crc    uint32 // of what has come
	unit   *Unit

	places []place
	next   int   // the place that is filled
	left   int64 // of it
	gate   gate
	end    []byte // of the trailing checksum, what has come
}

// place is one fragment of the unit, in the order of the bodies.
type place struct {
	transaction, fragment int
	f                     *pipeline.Fragment
	size                  int64
}

// Piece is a run of bytes of one fragment's body, in order and without a gap. A message may be cut between two.
type Piece struct {
	Transaction, Fragment int // indexes into the unit's
	Data                  []byte
}

// Announced is the Content of a fragment in the Head of an Assembly: its size is known, its bytes are still to
// come. The reader replaces it by where it keeps them.
type Announced int64

func (a Announced) Size() int64 { return int64(a) }

// Open is an error: nobody has kept the bytes.
func (a Announced) Open() (io.ReadCloser, error) {
	return nil, fmt.Errorf("body of %d bytes has not arrived", int64(a))
}

func (a Announced) Release() {}

var _ pipeline.Content = Announced(0)

// Begin starts a payload of n parts. The relations that it reads are remembered in d.
func (d *Decoder) Begin(n int) *Assembly { return &Assembly{d: d, of: n} }

// Expect checks that part k of n is the next one. Of a nil Assembly, which stands for no first part, it is none.
func (a *Assembly) Expect(k, n int) error {
	switch {
	case a == nil:
		return fmt.Errorf("part %s of a payload follows no first part", PartHeader(k, n))
	case k == a.parts+1 && n == a.of:
		return nil
	case a.parts == 0:
		return fmt.Errorf("part %s of a payload of %d parts comes first", PartHeader(k, n), a.of)
	}
	return fmt.Errorf("part %s of a payload follows part %s", PartHeader(k, n), PartHeader(a.parts, a.of))
}

// Head is the unit, nil until its head is complete. Its fragments have no Body; those with a body have an
// Announced as Content. All of it is the reader's to change, but for Changes and Ops.
func (a *Assembly) Head() *Unit { return a.unit }

// Size is the size of a fragment's body, whatever its Content is by now.
func (a *Assembly) Size(transaction, fragment int) int64 {
	i, found := slices.BinarySearchFunc(a.places, place{transaction: transaction, fragment: fragment}, func(p, q place) int {
		return cmp.Or(cmp.Compare(p.transaction, q.transaction), cmp.Compare(p.fragment, q.fragment))
	})
	if !found {
		return 0
	}
	return a.places[i].size
}

// Add takes the data of the next part and returns the pieces of bodies in it, views into data. An error means that
// the payload is damaged, or was not written by this product.
func (a *Assembly) Add(data []byte) ([]Piece, error) {
	if a.err != nil {
		return nil, a.err
	}
	pieces, err := a.add(data)
	if err != nil {
		a.err = fmt.Errorf("decode unit: part %s: %w", PartHeader(a.parts, a.of), err)
		return nil, a.err
	}
	return pieces, nil
}

func (a *Assembly) add(data []byte) (pieces []Piece, err error) {
	a.parts++
	switch {
	case a.parts > a.of:
		return nil, errors.New("one too many")
	case len(data) == 0:
		return nil, errors.New("empty")
	}
	if a.unit == nil {
		if data, err = a.addHead(data); err != nil || a.unit == nil {
			return nil, err
		}
	}
	if int64(len(data)) > a.length-a.at {
		return nil, fmt.Errorf("%d bytes more than the %d that the header says", int64(len(data))-(a.length-a.at), a.length)
	}
	a.at += int64(len(data))
	body := len(data)
	if inEnd := checksumSize - int(a.length-a.at) - len(a.end); inEnd > 0 {
		body -= inEnd
	}
	a.crc = crc32.Update(a.crc, castagnoli, data[:body])
	a.end = append(a.end, data[body:]...)
	return a.cut(data[:body])
}

// addHead collects the head, and returns what is behind it.
func (a *Assembly) addHead(data []byte) ([]byte, error) {
	for {
		need, err := headNeed(a.head)
		if err != nil {
			return nil, err
		}
		if missing := need - len(a.head); missing > 0 {
			n := min(missing, len(data))
			a.head = append(a.head, data[:n]...)
			if data = data[n:]; n < missing {
				return nil, nil
			}
			continue
		}
		return data, a.decodeHead()
	}
}

// headNeed is how many bytes are needed to know more: the fixed header first, then the whole head.
func headNeed(head []byte) (int, error) {
	if len(head) < headerSize {
		return headerSize, nil
	}
	if err := checkHeader(head); err != nil {
		return 0, err
	}
	length, size := lengths(head)
	if size > headBytesMax {
		return 0, fmt.Errorf("its head of %d bytes exceeds %d", size, headBytesMax)
	}
	if length > 1<<62 {
		return 0, fmt.Errorf("length %d: %w", length, errRange)
	}
	return int(size), nil
}

func (a *Assembly) decodeHead() error {
	length, _ := lengths(a.head)
	a.length, a.at = int64(length), int64(len(a.head))
	crc, err := checkHead(a.head)
	if err != nil {
		return err
	}
	a.crc = crc
	u, err := a.d.head(a.head, nil)
	if err != nil {
		return err
	}
	if err := u.check(false); err != nil {
		return err
	}
	for t, tx := range u.Transactions {
		for i, f := range tx.Fragments {
			if f.Content != nil {
				a.places = append(a.places, place{transaction: t, fragment: i, f: f, size: f.Size()})
			}
		}
	}
	a.head = nil
	a.unit = u
	a.open()
	return nil
}

// open begins the next place.
func (a *Assembly) open() {
	if a.next < len(a.places) {
		p := a.places[a.next]
		a.left = p.size
		a.gate = gate{f: p.f, left: p.size}
	}
}

// cut deals bytes of bodies out to their places. There are never more than the places have left: the head was checked.
func (a *Assembly) cut(data []byte) (pieces []Piece, err error) {
	for len(data) > 0 {
		p := a.places[a.next]
		n := int(min(a.left, int64(len(data))))
		if err := a.gate.feed(data[:n]); err != nil {
			return nil, a.in(p, err)
		}
		pieces = append(pieces, Piece{Transaction: p.transaction, Fragment: p.fragment, Data: data[:n:n]})
		data = data[n:]
		if a.left -= int64(n); a.left > 0 {
			continue
		}
		if err := a.gate.end(); err != nil {
			return nil, a.in(p, err)
		}
		a.next++
		a.open()
	}
	return pieces, nil
}

func (a *Assembly) in(p place, err error) error {
	return inFragment(a.unit.Transactions[p.transaction], p.f, err)
}

// End checks, after the last part, that everything has come and that it is what was sent.
func (a *Assembly) End() error {
	if a.err != nil {
		return a.err
	}
	if err := a.complete(); err != nil {
		a.err = fmt.Errorf("decode unit: %w", err)
	}
	return a.err
}

func (a *Assembly) complete() error {
	switch {
	case a.parts != a.of:
		return fmt.Errorf("%d parts of %d", a.parts, a.of)
	case a.unit == nil:
		return fmt.Errorf("%w in the head, after %d bytes", errShort, len(a.head))
	case a.at != a.length:
		return fmt.Errorf("%d bytes, its header says %d", a.at, a.length)
	}
	if want := binary.BigEndian.Uint32(a.end); a.crc != want {
		return fmt.Errorf("damaged: checksum %08x, want %08x", a.crc, want)
	}
	return nil
}
