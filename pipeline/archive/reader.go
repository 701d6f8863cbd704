package archive

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sort"

	"github.com/klauspost/compress/zstd"

	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
)

// File is an exported file that is whole and undamaged. It has one owner.
type File struct {
	Head Head
	End  End

	path   string
	file   *os.File
	unpack *zstd.Decoder
	blocks []block
	loaded int // the block whose messages are in messages; -1: none

	messages []*reading.Message
}

var _ reading.Source = (*File)(nil)

// block is where a block is.
type block struct {
	first    pipeline.Seq
	messages uint32
	raw      uint32
	at       int64 // of the packed messages in the file
	packed   uint32
}

// Open opens a file and reads it to its end: what comes out of it afterwards is what was exported.
func Open(path string) (*File, error) {
	f := &File{path: path, loaded: -1}
	var err error
	if f.file, err = os.Open(path); err != nil {
		return nil, fmt.Errorf("exported file: %w", err)
	}
	if f.unpack, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(blockBytesMax)); err == nil {
		err = f.scan()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() {
	if f.unpack != nil {
		f.unpack.Close()
	}
	_ = f.file.Close() // it was only read
}

const damagedTry = "Try: copy the file again; cdcctl export writes a name only when the file is whole"

func damaged(format string, args ...any) error {
	return fmt.Errorf("it is damaged or was cut off: %s. "+damagedTry, fmt.Sprintf(format, args...))
}

// scan reads the head, the end and where the blocks are, and every checksum.
func (f *File) scan() error {
	r := &counter{r: bufio.NewReaderSize(f.file, 1<<20)}
	start := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(r, start); err != nil || string(start[:len(magic)]) != magic {
		return errors.New("it was not written by cdcctl export")
	}
	if v := start[len(magic)]; v != version {
		return fmt.Errorf("version %d is unknown; this build reads version %d. Try: upgrade cdcctl to the release that exported it", v, version)
	}
	next, ended := pipeline.Seq(0), false
	for n := 0; ; n++ {
		kind, payload, err := r.section()
		switch {
		case errors.Is(err, io.EOF) && ended:
			return f.check(next)
		case err != nil:
			return damaged("section %d at byte %d: %v", n, r.n, err)
		case ended, (n == 0) != (kind == sectionHead):
			return damaged("section %d is of kind %q", n, kind)
		}
		switch kind {
		case sectionHead:
			if err := decodeJSON(payload, &f.Head); err != nil || f.Head.Subscription == nil || f.Head.First == 0 || f.Head.First > firstMax {
				return damaged("head, of sequence %d on: %v", f.Head.First, err)
			}
			if err := f.Head.Subscription.Validate(); err != nil {
				return err
			}
			next = f.Head.First
		case sectionBlock:
			if next, err = f.addBlock(payload, r.n, next); err != nil {
				return err
			}
		case sectionEnd:
			if err := decodeJSON(payload, &f.End); err != nil {
				return damaged("end: %v", err)
			}
			ended = true
		default:
			return damaged("section %d is of kind %q", n, kind)
		}
	}
}

func (f *File) addBlock(payload []byte, end int64, next pipeline.Seq) (pipeline.Seq, error) {
	if len(payload) < blockSize {
		return 0, damaged("a block of %d bytes", len(payload))
	}
	b := block{
		first: pipeline.Seq(binary.BigEndian.Uint64(payload)), messages: binary.BigEndian.Uint32(payload[8:]), raw: binary.BigEndian.Uint32(payload[12:]),
		at: end - int64(len(payload)-blockSize), packed: uint32(len(payload) - blockSize),
	}
	if b.first != next || b.messages == 0 || b.messages > b.raw/messageBytesMin || b.raw > blockBytesMax {
		return 0, damaged("a block of %d messages and %d bytes from sequence %d where %d is next", b.messages, b.raw, b.first, next)
	}
	f.blocks = append(f.blocks, b)
	return next + pipeline.Seq(b.messages), nil
}

func (f *File) check(next pipeline.Seq) error {
	if f.End.Last+1 != next || f.End.Messages != int64(next-f.Head.First) {
		return damaged("it ends before sequence %d, and says %d", next, f.End.Last)
	}
	return nil
}

// counter reads sections and counts bytes.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) section() (kind byte, payload []byte, err error) {
	var h [sectionSize]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(h[1:])
	if size > blockBytesMax+blockSize {
		return 0, nil, fmt.Errorf("a section of %d bytes", size)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(c, payload); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	crc := crc32.Update(crc32.Checksum(h[:5], castagnoli), castagnoli, payload)
	if want := binary.BigEndian.Uint32(h[5:]); crc != want {
		return 0, nil, fmt.Errorf("checksum %08x, want %08x", crc, want)
	}
	return h[0], payload, nil
}

// Borders is the source's.
func (f *File) Borders() (first, last pipeline.Seq) { return f.Head.First, f.End.Last }

// Get is the source's. Messages of a block are unpacked together, and those of the last one are kept.
func (f *File) Get(_ context.Context, seq pipeline.Seq) (*reading.Message, error) {
	i := sort.Search(len(f.blocks), func(i int) bool { return f.blocks[i].first > seq }) - 1
	if i < 0 || seq > f.End.Last {
		return nil, fmt.Errorf("stream sequence %d: %w", seq, reading.ErrGone)
	}
	if err := f.load(i); err != nil {
		return nil, fmt.Errorf("file %s: %w", f.path, err)
	}
	return f.messages[seq-f.blocks[i].first], nil
}

func (f *File) load(i int) error {
	if f.loaded == i {
		return nil
	}
	b := &f.blocks[i]
	packed := make([]byte, b.packed)
	if _, err := f.file.ReadAt(packed, b.at); err != nil {
		return err
	}
	raw, err := f.unpack.DecodeAll(packed, make([]byte, 0, b.raw))
	if err != nil || len(raw) != int(b.raw) {
		return damaged("block from sequence %d: %d bytes of %d: %v", b.first, len(raw), b.raw, err)
	}
	f.loaded, f.messages = -1, make([]*reading.Message, 0, min(int(b.messages), len(raw)/8))
	for n := range b.messages {
		var m *reading.Message
		if m, raw, err = takeMessage(raw); err != nil {
			return damaged("message %d of the block from sequence %d: %v", n, b.first, err)
		}
		m.Seq = b.first + pipeline.Seq(n)
		f.messages = append(f.messages, m)
	}
	if len(raw) > 0 {
		return damaged("block from sequence %d: %d bytes too many", b.first, len(raw))
	}
	f.loaded = i
	return nil
}

// Read is the source's. A file does not grow: follow has no effect.
func (f *File) Read(ctx context.Context, from pipeline.Seq, _ bool, fn func(*reading.Message) error) error {
	for seq := max(from, f.Head.First); seq <= f.End.Last; seq++ {
		m, err := f.Get(ctx, seq)
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(m); errors.Is(err, reading.ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
