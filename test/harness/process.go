package harness

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// hasConnection says whether a process has a TCP connection from the local port.
func hasConnection(pid int, ends Ends) (bool, error) {
	inode, err := inodeOf(pid, ends)
	if err != nil || inode == "" {
		return false, err
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return false, err
		}
		if to == "socket:["+inode+"]" {
			return true, nil
		}
	}
	return false, nil
}

// inodeOf is the socket of the connection, by the table that the process sees; empty: there is none. Another connection, to
// another place, may have the same local port.
func inodeOf(pid int, ends Ends) (string, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "net", "tcp"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	local, remote := fmt.Sprintf(":%04X", ends.Client), fmt.Sprintf(":%04X", ends.Server)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) > 9 && strings.HasSuffix(words[1], local) && strings.HasSuffix(words[2], remote) && words[9] != "0" {
			return words[9], nil
		}
	}
	return "", lines.Err()
}

// Usage is what a process takes of the system.
type Usage struct {
	ResidentBytes, ResidentMost int64 // now, and the most it ever was
	Files, Threads              int64
}

// UsageOf looks at a process.
func UsageOf(pid int) (u Usage, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		into := map[string]*int64{"VmRSS:": &u.ResidentBytes, "VmHWM:": &u.ResidentMost, "Threads:": &u.Threads}[words[0]]
		if into == nil {
			continue
		}
		if *into, err = strconv.ParseInt(words[1], 10, 64); err != nil {
			return u, fmt.Errorf("%s/status: %w", dir, err)
		}
		if len(words) > 2 { // kB
			*into <<= 10
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	u.Files = int64(len(files))
	return u, err
}
