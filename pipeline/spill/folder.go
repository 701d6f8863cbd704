// Package spill keeps bodies of fragments that are too large for memory in files.
//
//	folder, err := spill.Open(parent, name, bytesMax)
//	file := folder.Create(full) // full waits for room, or gives up
//	file.Write(…); file.Truncate(n); file.Seal()
//	file.Open() … file.Release()
//	folder.Close()
//
// A folder serves one run of one process, and nothing in it outlives that run: after a crash the content comes again
// from the shard's slot. That is why nothing is synced, and why a folder whose process is dead is rubbish. Whether the
// process lives is known from the folder's lock (package owner).
//
// A folder appears under its name with the lock taken: it is made and locked under another name and then renamed.
// So a folder with the right name whose lock is free has no owner, and Open removes it.
//
// Folders are for their owner only (0700), and so are the files (0600): they hold row data.
package spill

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"shardcdc/pipeline/owner"
)

const (
	folderPrefix = "spill-"
	makingPrefix = "making-spill-"
	// makingMax is how long a folder may take to be made; one that is older was left by a process that died over it.
	makingMax = time.Minute
)

// Full is called by a write that would take the folder beyond its limit, again and again until there is room. It
// returns nil once released is closed, which happens at the next release of bytes, or the error that the write is
// to end with: if waiting cannot help, since nobody will release anything. Nil: such a write ends with a *FullError
// at once.
type Full func(released <-chan struct{}) error

// Folder holds the spilled bodies of one run. Its methods may be called from any goroutine.
type Folder struct {
	path     string
	lock     *os.File
	bytesMax int64

	mu       sync.Mutex
	used     int64
	files    uint64
	released chan struct{} // closed at the next release
	closed   bool
}

// Open makes the folder parent, if it is not there, and in it a folder of this run, whose name holds the given one.
// Folders in parent that dead processes left behind are removed. Files of more than bytesMax bytes in total are not
// kept; see Full.
func Open(parent, name string, bytesMax int64) (*Folder, error) {
	if bytesMax <= 0 {
		return nil, fmt.Errorf("spill: a limit of %d bytes. Try: spill_bytes_max above zero", bytesMax)
	}
	if strings.ContainsAny(name, "/\\*\x00") {
		return nil, fmt.Errorf("spill: the name %q cannot be part of a folder's", name)
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("spill: %w. Try: another folder as spill_dir, or the right to make this one", err)
	}
	if err := checkParent(parent); err != nil {
		return nil, fmt.Errorf("spill: %w", err)
	}
	if err := removeStale(parent); err != nil {
		return nil, fmt.Errorf("spill: remove what dead processes left in %s: %w. Try: a spill_dir that this user may read and write", parent, err)
	}
	d := &Folder{bytesMax: bytesMax, released: make(chan struct{})}
	if err := d.claim(parent, name); err != nil {
		return nil, fmt.Errorf("spill: make a folder in %s: %w. Try: a spill_dir with room that this user may write to", parent, err)
	}
	return d, nil
}

// checkParent refuses a folder in which somebody else could put another folder in the place of ours: one that others may
// write to, unless it is sticky, and one of another user, unless that is root.
func checkParent(parent string) error {
	info, err := os.Stat(parent)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return fmt.Errorf("the folder %s belongs to another user. Try: another folder as spill_dir", parent)
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&os.ModeSticky == 0:
		return fmt.Errorf("others may write to the folder %s. Try: chmod go-w, or another folder as spill_dir", parent)
	}
	return nil
}

// claim makes the folder and takes its lock before it has the name that others look for.
func (d *Folder) claim(parent, name string) error {
	making, err := os.MkdirTemp(parent, makingPrefix+name+"-") // with mode 0700
	if err != nil {
		return err
	}
	if d.lock, err = owner.Lock(making, true); err != nil {
		return errors.Join(err, os.RemoveAll(making))
	}
	d.path = filepath.Join(parent, folderPrefix+strings.TrimPrefix(filepath.Base(making), makingPrefix))
	if err := os.Rename(making, d.path); err != nil {
		return errors.Join(err, os.RemoveAll(making), d.lock.Close())
	}
	return nil
}

// removeStale removes the folders of dead processes of this user.
func removeStale(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		switch {
		case !e.IsDir():
		case strings.HasPrefix(e.Name(), folderPrefix):
			errs = append(errs, removeIfStale(path, 0))
		case strings.HasPrefix(e.Name(), makingPrefix):
			errs = append(errs, removeIfStale(path, makingMax))
		}
	}
	return errors.Join(errs...)
}

// removeIfStale removes a folder of this user whose lock nobody holds and which is at least as old as given.
func removeIfStale(path string, age time.Duration) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || time.Since(info.ModTime()) < age {
		return nil
	}
	lock, err := owner.Lock(path, false)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case errors.Is(err, os.ErrNotExist): // its removal was interrupted
		return os.RemoveAll(path)
	case err != nil:
		return err
	}
	return errors.Join(os.RemoveAll(path), lock.Close())
}

// Path is where the files are.
func (d *Folder) Path() string { return d.path }

// Used is the number of bytes in files.
func (d *Folder) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used
}

// Create begins a body. It takes nothing on the disk until 256 kB are written or it is parked.
func (d *Folder) Create(full Full) (*File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, d.closedError()
	}
	d.files++
	return &File{folder: d, full: full, path: filepath.Join(d.path, fmt.Sprintf("body-%d", d.files))}, nil
}

func (d *Folder) closedError() error { return fmt.Errorf("spill: the folder %s is closed", d.path) }

// Close removes the folder with all files in it. Readers that are open may read on.
func (d *Folder) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.wake()
	if err := errors.Join(os.RemoveAll(d.path), d.lock.Close()); err != nil {
		return fmt.Errorf("spill: remove %s: %w", d.path, err)
	}
	return nil
}

// reserve makes room for n more bytes of a file that has own bytes on the disk.
func (d *Folder) reserve(n, own int64, full Full) error {
	for {
		released, err := d.tryReserve(n, own, full != nil)
		if err != nil || released == nil {
			return err
		}
		if err := full(released); err != nil {
			return err
		}
	}
}

// tryReserve returns the channel to wait for when there is no room at present. It is taken in the same moment as there
// was found to be no room, so no release is missed.
func (d *Folder) tryReserve(n, own int64, wait bool) (released <-chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, d.closedError()
	case d.used+n <= d.bytesMax:
		d.used += n
		return nil, nil
	case !wait, own+n > d.bytesMax: // alone it is too large: no release helps
		return nil, &FullError{Path: d.path, BytesMax: d.bytesMax, Used: d.used, One: own + n}
	}
	return d.released, nil
}

// release gives bytes back.
func (d *Folder) release(n int64) {
	if n == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used -= n
	d.wake()
}

func (d *Folder) wake() {
	close(d.released)
	d.released = make(chan struct{})
}

// FullError says that the limit of a folder is reached.
type FullError struct {
	Path     string
	BytesMax int64
	Used     int64 // by all bodies
	One      int64 // bytes that the body needs which does not fit
}

func (e *FullError) Error() string {
	size := func(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
	if e.One > e.BytesMax {
		return fmt.Sprintf("spill: one transaction has more changes on a shard than may be on the disk: spill_bytes_max is %s, the folder %s. Try: cdcctl alter-subscription NAME --spill-bytes-max … above the size of the transaction, with room for it in the folder",
			size(e.BytesMax), e.Path)
	}
	return fmt.Sprintf("spill: %s of spill_bytes_max, %s, are in use in the folder %s. Try: cdcctl alter-subscription NAME --spill-bytes-max … with room for it in the folder",
		size(e.Used), size(e.BytesMax), e.Path)
}

// diskError finds words for an error of the disk.
func (d *Folder) diskError(verb string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("spill: the disk with the folder %s is full: %w. Try: free space there, or a spill_dir on a larger disk", d.path, err)
	}
	return fmt.Errorf("spill: %s: %w", verb, err)
}
