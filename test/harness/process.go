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
func hasConnection(pid, port int) (bool, error) {
	inode, err := inodeOf(pid, port)
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

// inodeOf is the socket with the local port, by the table that the process sees; empty: there is none.
func inodeOf(pid, port int) (string, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "net", "tcp"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	local := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) > 9 && strings.HasSuffix(words[1], local) && words[9] != "0" {
			return words[9], nil
		}
	}
	return "", lines.Err()
}
