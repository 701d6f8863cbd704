package throwaway

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// processTable reads /proc. A process may end while it is read; it is left out then.
func processTable() ([]taskState, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var table []taskState
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		t, err := parseStat(pid, stat)
		if err != nil {
			return nil, err
		}
		table = append(table, t)
	}
	return table, nil
}

// parseStat reads "pid (name) state parent ..."; the name may hold spaces and parentheses, so the last one counts.
func parseStat(pid int, stat []byte) (taskState, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return taskState{}, fmt.Errorf("/proc/%d/stat: cannot read %q", pid, stat)
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return taskState{}, fmt.Errorf("/proc/%d/stat: parent: %w", pid, err)
	}
	return taskState{pid: pid, parent: parent, state: fields[0][0]}, nil
}

// worksIn reports whether the process runs in dir, which for a postmaster is its data folder.
func worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && cwd == dir
}
