package files

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// version of the index's form.
const version = 1

// position is a progress in JSON.
type position struct {
	Stream string       `json:"stream"`
	CSN    pipeline.CSN `json:"csn"`
	Seq    pipeline.Seq `json:"seq"`
	Stamp  int64        `json:"stamp"`
}

func positionOf(p apply.Progress) position { return position{p.StreamID, p.CSN, p.Seq, p.Stamp} }

func (p position) progress() apply.Progress {
	return apply.Progress{StreamID: p.Stream, CSN: p.CSN, Seq: p.Seq, Stamp: p.Stamp}
}

// head is the first line of an index.
type head struct {
	Version      int      `json:"version"`
	Subscription string   `json:"subscription"`
	Format       string   `json:"format"`
	Choices      string   `json:"choices,omitempty"`
	Begin        int64    `json:"begin"` // offset of the first transaction: what is before it every file begins with
	After        position `json:"after"` // where the target was when the file began
	Copies       *copies  `json:"copies,omitempty"`
}

// entry is a further line: one commit.
type entry struct {
	Offset       int64        `json:"offset"`
	Length       int64        `json:"length"`
	CRC          checksum     `json:"crc32c"` // of these bytes
	Previous     pipeline.CSN `json:"previous"`
	First        pipeline.CSN `json:"first"`
	Last         pipeline.CSN `json:"last"`
	Transactions int          `json:"transactions"`
	Written      time.Time    `json:"written"`
	Skipped      []skipped    `json:"skipped,omitempty"`
	Position     position     `json:"position"`         // of the target, from here on
	Copies       *copies      `json:"copies,omitempty"` // where they changed
}

// heartbeat is the content of progress.json. It counts while the index is the newest and as long as it says.
type heartbeat struct {
	Index    string   `json:"index"`
	Bytes    int64    `json:"bytes"`
	Position position `json:"position"`
}

// checksum is CRC-32C, in JSON eight hexadecimal digits.
type checksum uint32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c checksum) add(b []byte) checksum { return checksum(crc32.Update(uint32(c), castagnoli, b)) }

func (c checksum) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%08x", uint32(c)), nil }

func (c *checksum) UnmarshalText(b []byte) error {
	if _, err := fmt.Sscanf(string(b), "%08x", (*uint32)(c)); err != nil || len(b) != 8 {
		return fmt.Errorf("checksum %q: want eight hexadecimal digits", b)
	}
	return nil
}

// A line begins with the checksum of the rest of it, so that one that a crash tore is known: {"line":"1a2b3c4d",…}.
const lineFormat = `{"line":"%08x",`

var lineHead = len(fmt.Sprintf(lineFormat, 0))

// line writes v, a struct with at least one field.
func line(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out := fmt.Appendf(nil, lineFormat, uint32(checksum(0).add(b[1:])))
	return append(append(out, b[1:]...), '\n'), nil
}

var errTorn = errors.New("the line is torn")

// parseLine reads what line wrote.
func parseLine(b []byte, v any) error {
	if len(b) < lineHead+2 || b[len(b)-1] != '\n' {
		return errTorn
	}
	rest := b[lineHead : len(b)-1]
	if !bytes.Equal(b[:lineHead], fmt.Appendf(nil, lineFormat, uint32(checksum(0).add(rest)))) {
		return errTorn
	}
	d := json.NewDecoder(io.MultiReader(bytes.NewReader([]byte{'{'}), bytes.NewReader(rest)))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// read is what an index says.
type read struct {
	head    head
	state   state
	written int64     // bytes of whole lines
	last    []byte    // the last of them
	entry   entry     // the same; zero: it is the head
	opened  time.Time // when the first entry was written
}

// state is where the target is.
type state struct {
	progress apply.Progress
	end      int64 // of the file: where the next commit begins
	copies   copies
}

// readIndex reads an index from r. A last line that is torn is left out.
func readIndex(r io.Reader) (x read, err error) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		b, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return x, err
		}
		if len(b) == 0 && n == 1 {
			return x, damaged("the index is empty")
		}
		if len(b) == 0 {
			return x, nil
		}
		switch taken := x.take(n, b); {
		case taken == nil:
			x.written += int64(len(b))
			x.last = b
		case errors.Is(taken, errTorn) && n > 1:
			if _, err := lines.ReadByte(); errors.Is(err, io.EOF) {
				return x, nil
			}
			return x, damaged("line %d: %w, and others follow", n, taken)
		default:
			return x, damaged("line %d: %w", n, taken)
		}
	}
}

func (x *read) take(n int, b []byte) error {
	if n == 1 {
		if err := parseLine(b, &x.head); err != nil {
			return err
		}
		if x.head.Version != version {
			return fmt.Errorf("version %d of the index, this build knows %d", x.head.Version, version)
		}
		x.state.progress, x.state.end = x.head.After.progress(), x.head.Begin
		x.state.copies.take(x.head.Copies)
		return nil
	}
	var e entry
	if err := parseLine(b, &e); err != nil {
		return err
	}
	if err := x.state.follows(&e); err != nil {
		return err
	}
	x.entry = e
	if n == 2 {
		x.opened = e.Written
	}
	x.state.take(&e)
	return nil
}

// follows checks that nothing is missing between the state and an entry, and nothing twice.
func (s *state) follows(e *entry) error {
	p := e.Position
	switch {
	case e.Offset != s.end || e.Length < 0:
		return fmt.Errorf("%d bytes at offset %d, want it at %d", e.Length, e.Offset, s.end)
	case e.Previous != s.progress.CSN || e.First <= e.Previous || e.Last < e.First || p.CSN != e.Last:
		return fmt.Errorf("transactions %s to %s follow %s, want those behind %s", e.First, e.Last, e.Previous, s.progress.CSN)
	case p.Seq <= s.progress.Seq || s.progress.StreamID != "" && p.Stream != s.progress.StreamID:
		return fmt.Errorf("sequence %d of stream %s follows %d of %s", p.Seq, p.Stream, s.progress.Seq, s.progress.StreamID)
	}
	return nil
}

func (s *state) take(e *entry) {
	s.progress, s.end = e.Position.progress(), e.Offset+e.Length
	s.copies.take(e.Copies)
}

// damaged says that the folder is not as this package left it.
func damaged(format string, args ...any) error {
	return &apply.Fatal{
		Problem: "the folder is damaged", Err: fmt.Errorf(format, args...),
		Try: "put back what was there; or drop the subscription and create it again with an empty folder",
	}
}
