package throwaway

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MinVersion is the oldest major version that decodes two-phase transactions the way shardcdc needs.
const MinVersion = 15

// BinEnv names the environment variable that overrides where [Find] looks.
const BinEnv = "CDC_PG_BIN"

// ErrNotFound is in the error of [Find] when no usable server programs are on this machine.
var ErrNotFound = errors.New("no PostgreSQL server programs found")

// Where distributions put the programs that are not on the PATH of ordinary users: Debian, then Red Hat, then Homebrew.
var installed = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
}

// Find returns the folder with initdb and postgres, and their major version: the folder named by $CDC_PG_BIN, else the
// newest installed one that is at least [MinVersion], else the one on the PATH. When $CDC_PG_BIN is set nothing
// else is tried: a test of version 17 must not silently run on 15.
func Find() (bin string, version int, err error) {
	if bin = os.Getenv(BinEnv); bin != "" {
		if version, err = usable(bin); err != nil {
			return "", 0, fmt.Errorf("$%s: %w", BinEnv, err)
		}
		return bin, version, nil
	}
	var rejected []error
	for _, dir := range candidates() {
		v, err := usable(dir)
		switch {
		case err != nil:
			rejected = append(rejected, err)
		case v > version:
			bin, version = dir, v
		}
	}
	if bin == "" {
		return "", 0, fmt.Errorf("%w, version %d or newer (initdb and postgres; looked in $%s, %s and the PATH). "+
			"Try: apt-get install postgresql%s", ErrNotFound, MinVersion, BinEnv, strings.Join(installed, ", "), because(rejected))
	}
	return bin, version, nil
}

// candidates lists the folders to look at; of two with the same version the earlier one wins.
func candidates() []string {
	var dirs []string
	for _, pattern := range installed {
		found, _ := filepath.Glob(pattern) // The only error is a bad pattern, and a test covers each.
		dirs = append(dirs, found...)
	}
	if postgres, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(postgres); err == nil {
			postgres = real
		}
		dirs = append(dirs, filepath.Dir(postgres))
	}
	return slices.Compact(dirs)
}

// usable returns the major version of the programs in bin, or why they cannot be used.
func usable(bin string) (int, error) {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return 0, err
		}
	}
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s/postgres --version: %w: %s", bin, err, strings.TrimSpace(string(out)))
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return 0, fmt.Errorf("%s/postgres: %w", bin, err)
	}
	if version < MinVersion {
		return 0, fmt.Errorf("%s is PostgreSQL %d, older than %d", bin, version, MinVersion)
	}
	return version, nil
}

// parseVersion reads the major version out of "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "... 19devel".
func parseVersion(line string) (int, error) {
	_, rest, found := strings.Cut(line, "(PostgreSQL) ")
	if !found {
		return 0, fmt.Errorf("cannot read a version from %q", strings.TrimSpace(line))
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	version, err := strconv.Atoi(rest[:end])
	if err != nil {
		return 0, fmt.Errorf("cannot read a version from %q", strings.TrimSpace(line))
	}
	return version, nil
}

func because(rejected []error) string {
	if len(rejected) == 0 {
		return ""
	}
	return "\n(not usable: " + strings.ReplaceAll(errors.Join(rejected...).Error(), "\n", "; ") + ")"
}
