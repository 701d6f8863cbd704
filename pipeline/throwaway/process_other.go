//go:build !linux

package throwaway

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

func processTable() ([]taskState, error) {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=,state=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var table []taskState
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 3 {
			continue
		}
		pid, errPID := strconv.Atoi(f[0])
		parent, errParent := strconv.Atoi(f[1])
		if errPID != nil || errParent != nil {
			return nil, fmt.Errorf("ps: cannot read %q", lines.Text())
		}
		table = append(table, taskState{pid: pid, parent: parent, state: f[2][0]})
	}
	return table, nil
}

// worksIn reports whether the process was started with dir on its command line.
func worksIn(pid int, dir string) bool {
	out, err := exec.Command("ps", "-p", strconv.Itoa(pid), "-o", "command=").Output()
	return err == nil && bytes.Contains(out, []byte(dir))
}
