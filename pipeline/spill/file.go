package spill

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// bufferBytes is how much is written at a time.
const bufferBytes = 256 << 10

// buffers are shared: of thousands of bodies only few are written to at a time; the others are parked or sealed.
var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// File is the body of one fragment. One goroutine writes and seals it; afterwards any may read it. Release may be called
// at any time from any goroutine. Between two writes no descriptor is open.
type File struct {
	folder *Folder
	full   Full
	path   string

	mu       sync.Mutex // never held while the folder is waited for
	buffer   *[bufferBytes]byte
	buffered int
	onDisk   int64 // bytes in the file; the file is there as soon as it is not zero
	reserved int64 // of the folder's limit; at least onDisk
	made     bool  // the file was created
	sealed   bool
	err      error // what ended it; released is one
}

// ErrReleased is returned for whatever is done with a released File.
var ErrReleased = errors.New("spill: the body was released")

// Size counts the buffer, too.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.onDisk + int64(f.buffered)
}

// Write appends. After an error nothing but Release may be called.
func (f *File) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		took, err := f.take(p[n:])
		if err != nil {
			return n, err
		}
		n += took
		if n < len(p) {
			if err := f.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// take puts into the buffer what fits.
func (f *File) take(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable(); err != nil {
		return 0, err
	}
	if f.buffer == nil {
		f.buffer = buffers.Get().(*[bufferBytes]byte)
	}
	n := copy(f.buffer[f.buffered:], p)
	f.buffered += n
	return n, nil
}

func (f *File) writable() error {
	if f.err == nil && f.sealed {
		return errors.New("spill: the body is sealed")
	}
	return f.err
}

// flush moves the buffer to the disk. The folder's room is asked for without the lock, so that Release is never blocked
// by a writer that waits for room.
func (f *File) flush() error {
	f.mu.Lock()
	n, own := int64(f.buffered), f.onDisk
	err := f.writable()
	f.mu.Unlock()
	if err != nil || n == 0 {
		return err
	}
	if err := f.folder.reserve(n, own, f.full); err != nil {
		return f.fail(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil { // released meanwhile
		f.folder.release(n)
		return f.err
	}
	f.reserved += n
	if err := f.writeOut(); err != nil {
		f.err = f.folder.diskError("write a body", err)
		return f.err
	}
	f.onDisk += n
	f.buffered = 0
	return nil
}

// writeOut opens, writes and closes.
func (f *File) writeOut() error {
	flag := os.O_WRONLY | os.O_APPEND
	if !f.made {
		flag |= os.O_CREATE | os.O_EXCL
	}
	file, err := os.OpenFile(f.path, flag, 0o600)
	if err != nil {
		return err
	}
	f.made = true
	_, err = file.Write(f.buffer[:f.buffered])
	return errors.Join(err, file.Close())
}

// fail keeps the first error.
func (f *File) fail(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	return f.err
}

// Truncate cuts the body off at size, which is no more than Size.
func (f *File) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable(); err != nil {
		return err
	}
	if have := f.onDisk + int64(f.buffered); size < 0 || size > have {
		return fmt.Errorf("spill: truncate a body of %d bytes to %d", have, size)
	}
	if size >= f.onDisk {
		f.buffered = int(size - f.onDisk)
		return nil
	}
	if err := os.Truncate(f.path, size); err != nil {
		f.err = f.folder.diskError("truncate a body", err)
		return f.err
	}
	f.folder.release(f.onDisk - size)
	f.reserved -= f.onDisk - size
	f.onDisk, f.buffered = size, 0
	return nil
}

// Park writes out what is buffered and gives up the buffer, until the next Write.
func (f *File) Park() error {
	if err := f.flush(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropBuffer()
	return nil
}

// Seal ends writing. Only then the body can be opened.
func (f *File) Seal() error {
	if err := f.Park(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = true
	return f.err
}

// dropBuffer gives the buffer to the next writer.
func (f *File) dropBuffer() {
	if f.buffer != nil {
		buffers.Put(f.buffer)
	}
	f.buffer, f.buffered = nil, 0
}

// Open reads the body. To open one that is not sealed is a fault of the caller, and an error.
func (f *File) Open() (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		return nil, f.err
	case !f.sealed:
		return nil, errors.New("spill: the body is opened before it is sealed")
	case f.onDisk == 0:
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("spill: open a body: %w", err)
	}
	return &reader{file: file, size: f.onDisk, rest: f.onDisk}, nil
}

// reader reads exactly the body: a file that somebody cut off is an error, not a shorter body.
type reader struct {
	file *os.File
	size int64
	rest int64
}

// Seek goes to a place in the body, from its beginning: readers of a small part need not read what is before.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart || offset < 0 || offset > r.size {
		return 0, fmt.Errorf("spill: seek to %d (whence %d) in a body of %d bytes", offset, whence, r.size)
	}
	if _, err := r.file.Seek(offset, io.SeekStart); err != nil {
		return 0, fmt.Errorf("spill: %w", err)
	}
	r.rest = r.size - offset
	return offset, nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.rest == 0 {
		return 0, io.EOF
	}
	n, err := r.file.Read(p[:min(int64(len(p)), r.rest)])
	r.rest -= int64(n)
	if errors.Is(err, io.EOF) && r.rest > 0 {
		err = fmt.Errorf("spill: %s lacks %d bytes: %w", r.file.Name(), r.rest, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (r *reader) Close() error { return r.file.Close() }

// Release removes the file and gives its bytes back. A reader that is open may read on. A file that cannot be removed
// goes with the folder: by Close, or at the next Open.
func (f *File) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(f.err, ErrReleased) {
		return
	}
	f.err = ErrReleased
	f.dropBuffer()
	if f.made {
		_ = os.Remove(f.path)
	}
	f.folder.release(f.reserved)
	f.onDisk, f.reserved = 0, 0
}
