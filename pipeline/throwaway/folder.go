package throwaway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"shardcdc/pipeline/owner"
)

// A folder is a server's home, named cdc-throwaway-<owner's process id>-<name>-<random>, and the lock that shows
// that its owner lives (package owner).
type folder struct {
	path string
	lock *os.File
}

var folderName = regexp.MustCompile(`^cdc-throwaway-([0-9]+)-`)

func newFolder(parent, name string, a account) (*folder, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	if parent, err = filepath.EvalSymlinks(parent); err != nil {
		return nil, err
	}
	if err := a.letIn(parent); err != nil {
		return nil, err
	}
	if err := removeStale(parent, a); err != nil {
		return nil, fmt.Errorf("remove what dead processes left in %s: %w", parent, err)
	}
	path, err := os.MkdirTemp(parent, fmt.Sprintf("cdc-throwaway-%d-%s-", os.Getpid(), name))
	if err != nil {
		return nil, err
	}
	f := &folder{path: path}
	if err := f.claim(a); err != nil {
		return nil, errors.Join(err, f.remove())
	}
	return f, nil
}

// claim takes the lock and gives the folder to the account.
func (f *folder) claim(a account) (err error) {
	if f.lock, err = owner.Lock(f.path, true); err != nil {
		return err
	}
	return a.own(f.path)
}

func (f *folder) data() string { return filepath.Join(f.path, "data") }

// remove deletes the folder of a server that does not run.
func (f *folder) remove() error {
	return errors.Join(removeSharedMemory(f.data()), os.RemoveAll(f.path), f.unlock())
}

func (f *folder) unlock() error {
	if f.lock == nil {
		return nil
	}
	err := f.lock.Close()
	f.lock = nil
	return err
}

// removeStale removes the folders below parent that belong to this account and whose owner is dead.
func removeStale(parent string, a account) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if match := folderName.FindStringSubmatch(e.Name()); match != nil && e.IsDir() {
			pid, err := strconv.Atoi(match[1])
			if err != nil || alive(pid) {
				continue
			}
			errs = append(errs, removeIfStale(filepath.Join(parent, e.Name()), a))
		}
	}
	return errors.Join(errs...)
}

// removeIfStale removes a folder whose owner does not live here, unless it lives elsewhere and holds the lock.
func removeIfStale(path string, a account) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // Somebody else was faster.
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != a.uid {
		return nil // Not ours.
	}
	lock, err := owner.Lock(path, false)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case errors.Is(err, os.ErrNotExist):
		// Being made, or being removed, by another process; or its owner died in the middle of either.
		if time.Since(info.ModTime()) < time.Minute {
			return nil
		}
	case err != nil:
		return err
	}
	f := &folder{path: path, lock: lock}
	if err := f.killLeftover(); err != nil {
		return errors.Join(err, f.unlock())
	}
	return f.remove()
}

// killLeftover ends a postmaster that outlived its owner. The process id in its lock file may be somebody else's by
// now, so the process must run in this very folder.
func (f *folder) killLeftover() error {
	lock, err := readLockFile(f.data())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if lock.pid <= 1 || !worksIn(lock.pid, f.data()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return killTree(ctx, lock.pid)
}

// removeSharedMemory removes the few bytes of System V shared memory that a killed postmaster leaves behind. Its lock
// file, which a postmaster that ends in order removes too, names them. They are removed only when the kernel's table
// agrees on key and id, and when nobody is attached.
func removeSharedMemory(data string) error {
	lock, err := readLockFile(data)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return nil // Not Linux: no way to be sure, and 56 bytes are not worth a wrong guess.
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line) // key id perms size cpid lpid nattch uid …
		if len(f) < 7 || f[0]+" "+f[1] != lock.shm || f[6] != "0" {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "ipcrm", "-m", f[1]).CombinedOutput(); err != nil {
			return fmt.Errorf("remove shared memory %s: %w: %s", f[1], err, out)
		}
	}
	return nil
}
