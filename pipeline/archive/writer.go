package archive

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
)

// Writer writes a file. Nothing has the file's name before Finish, or after Abort.
type Writer struct {
	path string
	file *os.File // path with partSuffix
	pack *zstd.Encoder

	next     pipeline.Seq // that Add takes
	end      End
	block    []byte // behind its header; messages that are not written yet
	first    pipeline.Seq
	messages uint32
	packed   []byte
}

// partSuffix is behind the name of a file that is being written. One that was left by a crash is written over.
const partSuffix = ".part"

// Create begins a file. It must not exist.
func Create(path string, h Head) (w *Writer, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = errors.New("it exists already. Try: another name; files that follow each other may overlap")
		}
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	w = &Writer{path: path, next: h.First, first: h.First}
	w.end.Last = h.First - 1
	if w.pack, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		return nil, err
	}
	if w.file, err = os.OpenFile(path+partSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	head, err := json.Marshal(h)
	if err == nil {
		_, err = w.file.Write(append([]byte(magic), version))
	}
	if err == nil {
		err = w.section(sectionHead, head)
	}
	if err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

// Add adds the next message: sequences have no gap.
func (w *Writer) Add(m *reading.Message) error {
	if m.Seq != w.next {
		return fmt.Errorf("stream sequence %d follows %d: messages between were deleted. Try: --from-csn with one behind the gap; targets need the data copied anew", m.Seq, w.next-1)
	}
	before := len(w.block)
	w.block = appendMessage(w.block, m)
	w.end.Bytes += int64(len(w.block) - before)
	w.messages++
	w.end.Messages++
	w.end.Last = m.Seq
	w.next++
	if len(w.block) >= blockBytes {
		return w.flush()
	}
	return nil
}

func (w *Writer) flush() error {
	if w.messages == 0 {
		return nil
	}
	b := binary.BigEndian.AppendUint64(w.packed[:0], uint64(w.first))
	b = binary.BigEndian.AppendUint32(b, w.messages)
	b = binary.BigEndian.AppendUint32(b, uint32(len(w.block)))
	w.packed = w.pack.EncodeAll(w.block, b)
	w.block, w.first, w.messages = w.block[:0], w.next, 0
	return w.section(sectionBlock, w.packed)
}

func (w *Writer) section(kind byte, payload []byte) error {
	h := sectionOf(kind, payload)
	if _, err := w.file.Write(h[:]); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := w.file.Write(payload); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Finish writes the end and gives the file its name: the commit point of an export. What is in it is durable.
func (w *Writer) Finish(csn, watermark pipeline.CSN) (End, error) {
	w.end.CSN, w.end.Watermark = csn, watermark
	if err := w.finish(); err != nil {
		return End{}, errors.Join(fmt.Errorf("file %s: %w", w.path, err), w.Abort())
	}
	return w.end, nil
}

func (w *Writer) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	end, err := json.Marshal(w.end)
	if err != nil {
		return err
	}
	if err := w.section(sectionEnd, end); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	file := w.file
	w.file = nil
	if err := file.Close(); err != nil {
		return err
	}
	// A link fails where a file of the name has come meanwhile, which a rename would replace.
	if err := os.Link(w.path+partSuffix, w.path); err != nil {
		return err
	}
	if err := os.Remove(w.path + partSuffix); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(w.path))
}

// Abort removes what was written. After Finish it does nothing.
func (w *Writer) Abort() error {
	if w.file == nil {
		return nil
	}
	file := w.file
	w.file = nil
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func sortedNames(h nats.Header) []string { return slices.Sorted(maps.Keys(h)) }
