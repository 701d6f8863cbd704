package throwaway

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for line, want := range map[string]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 15,
		"postgres (PostgreSQL) 18.4\n":                           18,
		"postgres (PostgreSQL) 19devel\n":                        19,
		"postgres (PostgreSQL) 17":                               17,
		"postgres (PostgreSQL) beta":                             0,
		"psql 15":                                                0,
		"":                                                       0,
	} {
		if got, err := parseVersion(line); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q is %d, %v; want %d", line, got, err, want)
		}
	}
}

// fakePrograms makes a folder with an initdb and a postgres that only says its version.
func fakePrograms(t *testing.T, version string) string {
	dir := t.TempDir()
	script := []byte("#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n")
	for _, program := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, program), script, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func findIn(t *testing.T, env, path string, globs ...string) (string, int, error) {
	before := installed
	t.Cleanup(func() { installed = before })
	installed = globs
	t.Setenv(BinEnv, env)
	t.Setenv("PATH", path+":/usr/bin:/bin")
	return Find()
}

func TestFind(t *testing.T) {
	old, mid, newest := fakePrograms(t, "14.9"), fakePrograms(t, "15.1"), fakePrograms(t, "17.2")
	empty := t.TempDir()
	for _, test := range []struct {
		name, env, path string
		globs           []string
		bin             string
		version         int
	}{
		{name: "newest installed", globs: []string{old, mid, newest}, bin: newest, version: 17},
		{name: "environment first", env: mid, globs: []string{newest}, bin: mid, version: 15},
		{name: "path", path: mid, globs: []string{empty}, bin: mid, version: 15},
		{name: "newer on the path", path: newest, globs: []string{mid}, bin: newest, version: 17},
	} {
		t.Run(test.name, func(t *testing.T) {
			bin, version, err := findIn(t, test.env, test.path, test.globs...)
			if bin != test.bin || version != test.version || err != nil {
				t.Errorf("found %s %d %v, want %s %d", bin, version, err, test.bin, test.version)
			}
		})
	}
}

func TestFindFails(t *testing.T) {
	old := fakePrograms(t, "14.9")
	if _, _, err := findIn(t, "", "", old); !errors.Is(err, ErrNotFound) ||
		!strings.Contains(err.Error(), "Try: apt-get install postgresql") ||
		!strings.Contains(err.Error(), "is PostgreSQL 14, older than 15") {
		t.Errorf("old programs only: %v", err)
	}
	// The environment names one that cannot be used: no other is taken instead.
	good := fakePrograms(t, "16.1")
	if bin, _, err := findIn(t, old, good, good); err == nil || !strings.Contains(err.Error(), "$CDC_PG_BIN: ") {
		t.Errorf("found %s, %v", bin, err)
	}
}
