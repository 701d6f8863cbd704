// Package owner marks a folder as one process's own, for as long as that process lives.
//
// The mark is a lock (flock) on a file in the folder, which the kernel lets go of when the process ends, in whatever way.
// A process id would not do: it is used again, and means nothing in another container that sees the same folder.
package owner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// LockFile is the name of the file in the folder.
const LockFile = "owner.lock"

// Lock takes the lock of a folder; closing the file gives it back. The error is syscall.EWOULDBLOCK when somebody has it,
// and os.ErrNotExist when the file is not there and is not to be created.
func Lock(folder string, create bool) (*os.File, error) {
	flags := os.O_RDWR | syscall.O_NOFOLLOW
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(folder, LockFile), flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}
