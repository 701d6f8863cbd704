package throwaway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// defaults are the settings of every server; Options.Settings come after them. What is not named here, fsync and
// synchronous_commit above all, is as PostgreSQL has it.
var defaults = map[string]string{
	"wal_level":                 "logical",
	"max_prepared_transactions": "200",
	"max_wal_senders":           "20",
	"max_replication_slots":     "20",
	"max_connections":           "200",
	"shared_buffers":            "64MB",
	"autovacuum":                "on",
	"timezone":                  "UTC",
	"log_timezone":              "UTC",
	"log_line_prefix":           "%m [%p] %q%u@%d/%a ",
	"log_destination":           "stderr",
	"logging_collector":         "off",
	// In the data folder rather than in /dev/shm, where a killed server would leave it for ever.
	"dynamic_shared_memory_type": "mmap",
}

// The package decides these itself.
var reserved = []string{"port", "listen_addresses", "unix_socket_directories", "data_directory"}

var (
	goodName    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
	goodSetting = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.$]*$`)
)

func (o Options) name() string {
	if o.Name == "" {
		return "pg"
	}
	return o.Name
}

// validate lists every fault at once.
func (o Options) validate() error {
	var faults []error
	if !goodName.MatchString(o.name()) {
		faults = append(faults, fmt.Errorf("name %q: want 1 to 32 letters, digits, '_' or '-'", o.Name))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		switch {
		case slices.Contains(reserved, strings.ToLower(name)):
			faults = append(faults, fmt.Errorf("setting %s: it is chosen by the package", name))
		case !goodSetting.MatchString(name):
			faults = append(faults, fmt.Errorf("setting %q: not a setting's name", name))
		case strings.ContainsAny(o.Settings[name], "\n\r\x00"):
			faults = append(faults, fmt.Errorf("setting %s: %q: more than one line", name, o.Settings[name]))
		}
	}
	return errors.Join(faults...)
}

// initdb makes the cluster and writes its settings.
func (s *Server) initdb(ctx context.Context, settings map[string]string) error {
	data := s.folder.data()
	cmd := s.command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Path, err, strings.TrimSpace(said.String()))
	}
	f, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.configuration(settings))
	return errors.Join(err, f.Close())
}

// configuration is what stands at the end of postgresql.conf. Later lines win.
func (s *Server) configuration(settings map[string]string) string {
	sockets := s.folder.path
	if len(sockets) > socketDirMax {
		sockets = "" // No Unix socket then; TCP is there.
	}
	own := map[string]string{"listen_addresses": "127.0.0.1", "unix_socket_directories": sockets}
	var b strings.Builder
	b.WriteString("\n# throw-away server\n")
	for _, group := range []map[string]string{defaults, settings, own} {
		for _, name := range slices.Sorted(maps.Keys(group)) {
			value := strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(group[name])
			fmt.Fprintf(&b, "%s = '%s'\n", name, value)
		}
	}
	return b.String()
}

// socketDirMax: a socket's whole path has at most 103 bytes on every system, and PostgreSQL appends /.s.PGSQL.31999.
const socketDirMax = 85

// A lockFile is what a postmaster tells about itself in postmaster.pid.
type lockFile struct {
	pid    int
	shm    string // Key and id of its System V shared memory, "key id", in decimal.
	status string // starting, ready, stopping, standby; empty when not yet written.
}

// readLockFile reads postmaster.pid. A postmaster writes it line by line, so lines may be missing.
func readLockFile(data string) (lockFile, error) {
	path := filepath.Join(data, "postmaster.pid")
	text, err := os.ReadFile(path)
	if err != nil {
		return lockFile{}, err
	}
	lines := strings.Split(string(text), "\n")
	for len(lines) < 8 {
		lines = append(lines, "")
	}
	var l lockFile
	if first := strings.TrimSpace(lines[0]); first != "" {
		if l.pid, err = strconv.Atoi(first); err != nil {
			return lockFile{}, fmt.Errorf("%s: process id: %w", path, err)
		}
	}
	l.shm = strings.Join(strings.Fields(lines[6]), " ")
	l.status = strings.TrimSpace(lines[7])
	return l, nil
}
