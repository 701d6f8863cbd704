package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Usage is what a process took since it began. Of several processes it is the sum.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakBytes  int64   `json:"peak_bytes"` // resident
	// Of Go processes.
	AllocBytes uint64 `json:"alloc_bytes,omitempty"`
	Allocs     uint64 `json:"allocs,omitempty"`
}

func (u *Usage) add(v Usage) {
	u.CPUSeconds += v.CPUSeconds
	u.PeakBytes += v.PeakBytes
	u.AllocBytes += v.AllocBytes
	u.Allocs += v.Allocs
}

// since is what was taken since an earlier look; the peak is of the whole life.
func (u Usage) since(v Usage) Usage {
	u.CPUSeconds -= v.CPUSeconds
	u.AllocBytes -= v.AllocBytes
	u.Allocs -= v.Allocs
	return u
}

// ownUsage is this process'.
func ownUsage() (u Usage, err error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return u, fmt.Errorf("getrusage: %w", err)
	}
	u.CPUSeconds = seconds(r.Utime) + seconds(r.Stime)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.AllocBytes, u.Allocs = m.TotalAlloc, m.Mallocs
	u.PeakBytes, err = peak(os.Getpid())
	return u, err
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// errGone says that there is no such process any more.
var errGone = errors.New("the process has ended")

// ticks per second of /proc/PID/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const ticks = 100

// backends is what the server's processes took that a query lists.
func backends(ctx context.Context, dsn, sql string, args ...any) (total Usage, err error) {
	pids, err := query[[]int](ctx, dsn, sql, args...)
	if err != nil {
		return total, err
	}
	for _, pid := range pids {
		u, err := usageOf(pid)
		if err != nil {
			return total, err
		}
		total.add(u)
	}
	return total, nil
}

// usageOf looks at another process. Its CPU time is counted in ticks of 10 ms.
func usageOf(pid int) (u Usage, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return u, fmt.Errorf("process %d: %w", pid, gone(err))
	}
	// The second field is the program's name in parentheses, which may hold blanks.
	_, rest, found := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 13 {
		return u, fmt.Errorf("process %d: /proc says %q", pid, text)
	}
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, fmt.Errorf("process %d: CPU time: %w", pid, err)
		}
		u.CPUSeconds += float64(n) / ticks
	}
	u.PeakBytes, err = peak(pid)
	return u, err
}

// gone tells the end of a process from what else may go wrong.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return errGone
	}
	return err
}

// peak is the most that ever was resident; 0 for a process that is just ending.
func peak(pid int) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, gone(err))
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, nil
}
