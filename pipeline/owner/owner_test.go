package owner

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	wants := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	_, err := Lock(dir, false)
	wants("nobody made the file", err, os.ErrNotExist)
	first, err := Lock(dir, true)
	wants("free", err, nil)
	for _, create := range []bool{false, true} {
		_, err = Lock(dir, create)
		wants("taken", err, syscall.EWOULDBLOCK)
	}
	wants("close", first.Close(), nil)
	again, err := Lock(dir, false)
	wants("given back", err, nil)
	wants("close", again.Close(), nil)

	other := t.TempDir()
	wants("link", os.Symlink(filepath.Join(dir, LockFile), filepath.Join(other, LockFile)), nil)
	_, err = Lock(other, true)
	wants("somebody put a link there", err, syscall.ELOOP)
}
