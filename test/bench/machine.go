package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
)

// Machine is where it was measured, and with what.
type Machine struct {
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`
	MemoryBytes int64             `json:"memory_bytes"`
	System      string            `json:"system"`
	Load        string            `json:"load"`  // before it began
	Files       string            `json:"files"` // file system of the servers' folders
	FsyncMillis float64           `json:"fsync_ms"`
	PostgreSQL  string            `json:"postgresql"`
	Settings    map[string]string `json:"settings"` // of the source, and of the target as well
	Go          string            `json:"go"`
	NATS        string            `json:"nats"`
	Revision    string            `json:"revision"`
}

func lookAtMachine(ctx context.Context, l *lab) (m Machine, err error) {
	m = Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), NATS: server.VERSION, Revision: revision}
	if m.CPU, err = lineOf("/proc/cpuinfo", "model name"); err != nil {
		return m, err
	}
	memory, err := lineOf("/proc/meminfo", "MemTotal")
	if err != nil {
		return m, err
	}
	kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(memory, "kB")), 10, 64)
	if err != nil {
		return m, fmt.Errorf("/proc/meminfo: %w", err)
	}
	m.MemoryBytes = kb << 10
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, err
	}
	m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	if m.System, err = system(); err != nil {
		return m, err
	}
	if m.Files, err = fileSystem(l.dir); err != nil {
		return m, err
	}
	if m.FsyncMillis, err = measureFsync(l.dir); err != nil {
		return m, err
	}
	return m, m.lookAtServer(ctx, l.shard(0).DSN())
}

func (m *Machine) lookAtServer(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(ctx, "SELECT version()").Scan(&m.PostgreSQL); err != nil {
		return err
	}
	m.Settings = map[string]string{}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes", "wal_level"} {
		m.Settings[name] = ""
	}
	for name := range settings {
		m.Settings[name] = ""
	}
	for name := range m.Settings {
		var value string
		if err := conn.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return err
		}
		m.Settings[name] = value
	}
	return nil
}

// lineOf is the value behind a word and a colon in a file of the kernel.
func lineOf(file, word string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == word {
			return strings.TrimSpace(value), nil
		}
	}
	return "unknown", nil // Not every processor has a name.
}

func system() (string, error) {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return "", err
	}
	text := func(field []int8) string {
		var b []byte
		for _, c := range field {
			if c == 0 {
				break
			}
			b = append(b, byte(c))
		}
		return string(b)
	}
	return text(u.Sysname[:]) + " " + text(u.Release[:]) + " " + text(u.Machine[:]), nil
}

// fileSystem is the type of the one that a folder is on.
func fileSystem(dir string) (string, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "", fmt.Errorf("statfs %s: %w", dir, err)
	}
	if name := map[int64]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlay", 0x2fc12fc1: "zfs"}[int64(s.Type)]; name != "" {
		return name, nil
	}
	return fmt.Sprintf("file system %#x", s.Type), nil
}

const fsyncs = 100

// measureFsync is the median time of writing 8 kB and syncing it, in a file that has its size already.
func measureFsync(dir string) (millis float64, err error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 8<<10)
	var times []float64
	for range fsyncs {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began).Seconds()*1000)
	}
	slices.Sort(times)
	return quantile(times, 0.5), nil
}

// revision is what the program was built from; make sets it.
var revision = "unknown"
