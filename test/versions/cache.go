package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// cacheDir returns the folder of the cache, made: in the repository, or in the temporary folder when this process is
// root and the repository is closed to the user that will run PostgreSQL.
func cacheDir() (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "postgresql")
	if err := makeFolders(root, filepath.Join(".cache", "postgresql")); err != nil {
		return "", err
	}
	if os.Geteuid() != 0 || open(dir) {
		return dir, nil
	}
	return temporaryCache(os.TempDir())
}

// temporaryCache is a folder with a known name in a place where everybody may write, so it must be ours.
func temporaryCache(temp string) (string, error) {
	dir := filepath.Join(temp, fmt.Sprintf("shardcdc-postgresql-%d", os.Geteuid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s is not a folder that only we may write to. Try: remove it", dir)
	}
	return dir, nil
}

// open reports whether every user may go into the folder.
func open(dir string) bool {
	for p := dir; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
	}
}

// repository returns the folder with go.mod, at or above the working folder.
func repository() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod at or above %s. Try: call it inside of the repository", start)
		}
	}
}
