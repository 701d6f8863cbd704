package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"shardcdc/apply"
	"shardcdc/pipeline/owner"
)

// disk is what the target needs of an operating system. It is an interface so that tests can fail at, and cut the power behind, each
// of its calls.
type disk interface {
	// lock makes the folder if it is missing, and takes it.
	lock(folder string) (io.Closer, error)
	// list gives the names of a folder's files, sorted.
	list(folder string) ([]string, error)
	open(path string) (file, error)
	// create opens a file that is empty, whatever was there.
	create(path string) (file, error)
	rename(from, to string) error
	// still says that a path leads to the file, or lock, that was opened under it.
	still(path string, f io.Closer) (bool, error)
	// syncFolder makes durable which files there are.
	syncFolder(folder string) error
}

// file is one that is written at known places.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	size() (int64, error)
}

// Modes of what is made. The files hold the rows of the source.
const (
	folderMode = 0o750
	fileMode   = 0o640
)

// system is the real one.
type system struct{}

func (system) lock(folder string) (io.Closer, error) {
	err := os.Mkdir(folder, folderMode)
	if err == nil {
		err = system{}.syncFolder(filepath.Dir(folder))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := owner.Lock(folder, true)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: another process holds the lock of %s, and lives. Try: stop it, and the worker goes on by itself", errTaken, folder)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

var errTaken = errors.New("the folder is taken")

func (system) list(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (system) open(path string) (file, error) { return openFile(path, 0) }

func (system) create(path string) (file, error) { return openFile(path, os.O_CREATE|os.O_TRUNC) }

func openFile(path string, flags int) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|flags|syscall.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, err
	}
	return realFile{f}, nil
}

func (system) rename(from, to string) error { return os.Rename(from, to) }

func (system) still(path string, f io.Closer) (bool, error) {
	opened, err := f.(interface{ Stat() (fs.FileInfo, error) }).Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, there), err
}

func (system) syncFolder(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type realFile struct{ *os.File }

func (f realFile) size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// refused says what a person can do about an error of the disk, where that is known. It is for errors before the commit point only.
func refused(err error) error {
	var fatal *apply.Fatal
	var blocked *apply.Blocked
	if err == nil || errors.As(err, &fatal) || errors.As(err, &blocked) {
		return err
	}
	for _, c := range []struct {
		is  error
		try string
	}{
		{syscall.ENOSPC, "make room on its disk; it goes on by itself"},
		{syscall.EDQUOT, "raise the quota of the worker's user, or make room; it goes on by itself"},
		{syscall.EROFS, "mount it for writing; it goes on by itself"},
		{fs.ErrPermission, "give the worker's user the right to write the folder and its files; it goes on by itself"},
		{fs.ErrNotExist, "make the folder above it, or mount its disk; it goes on by itself"},
		{syscall.ENOTDIR, "name a folder as the target"},
	} {
		if errors.Is(err, c.is) {
			return &apply.Blocked{Problem: "the folder cannot be written", Err: err, Try: c.try}
		}
	}
	return err
}
