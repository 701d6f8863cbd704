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
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline"
	"shardcdc/pipeline/reading"
)

// Writer writes a file. Nothing has the file's name before Finish, or after Abort.
type Writer struct {
	path string
	file *os.File // path with partSuffix, locked
	pack *zstd.Encoder

	next     pipeline.Seq // that Add takes
	end      End
	block    []byte // behind its header; messages that are not written yet
	first    pipeline.Seq
	messages uint32
	packed   []byte
}

// partSuffix is behind the name of a file that is being written, which is locked meanwhile. One that was left by a crash is
// written over.
const partSuffix = ".part"

// Create begins a file. It must not exist, and nobody else may be writing it.
func Create(path string, h Head) (w *Writer, err error) {
	w = &Writer{path: path, next: h.First, first: h.First}
	w.end.Last = h.First - 1
	if w.pack, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		return nil, err
	}
	if w.file, err = openPart(path); err != nil {
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

// openPart opens path with partSuffix, empty and locked: who holds the lock is the only one that writes it, names it or removes it.
func openPart(path string) (*os.File, error) {
	for {
		if err := vacant(path); err != nil {
			return nil, err
		}
		// Not emptied before it is locked: it may be somebody else's.
		f, err := os.OpenFile(path+partSuffix, os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		mine, err := lockPart(f)
		if mine && err == nil {
			if err = vacant(path); err == nil {
				err = f.Truncate(0)
			}
			if err == nil {
				return f, nil
			}
			err = errors.Join(err, os.Remove(f.Name()))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// lockPart locks an opened file. It is not ours if who had the lock before has named or removed it since it was opened.
func lockPart(f *os.File) (mine bool, err error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another export writes %s. Try: another name, or wait for its end", f.Name())
		}
		return false, err
	}
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}

// vacant says whether nothing has the name.
func vacant(path string) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.New("it exists already. Try: another name; files that follow each other may overlap")
	}
	return err
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
	// Other exports are kept out by the lock. A link would refuse also what comes right now, but not every file system has links.
	if err := vacant(w.path); err != nil {
		return err
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return err
	}
	file := w.file
	w.file = nil
	return errors.Join(file.Close(), syncFolder(filepath.Dir(w.path)))
}

// Abort removes what was written. After Finish it does nothing.
func (w *Writer) Abort() error {
	if w.file == nil {
		return nil
	}
	file := w.file
	w.file = nil
	return errors.Join(os.Remove(file.Name()), file.Close()) // the close unlocks it
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func sortedNames(h nats.Header) []string { return slices.Sorted(maps.Keys(h)) }
