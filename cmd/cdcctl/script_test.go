package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestMain: under the name cdcctl the test binary is the program, so tests run it as people do, with its exit codes.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "cdcctl" {
		main()
	}
	code := m.Run()
	closeServers()
	os.Exit(code)
}

// program is the folder of cdcctl, for PATH.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "cdcctl")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// environment has no settings but the given ones.
func environment(t *testing.T, set ...string) []string {
	t.Helper()
	env := []string{"PATH=" + program(t) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return append(env, set...)
}

// TestScripts runs what needs no server: usage, bad input, settings. Scripts are written anew with -rewrite.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/script", func(t *testing.T, path string) {
		// Nobody listens there: a script that gets as far as connecting is told so.
		env := environment(t, "CDC_NATS=nats://127.0.0.1:1")
		folder := t.TempDir()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "file":
				if err := os.WriteFile(filepath.Join(folder, d.CmdArgs[0].Key), []byte(d.Input), 0o600); err != nil {
					t.Fatal(err)
				}
				return ""
			case "run":
				cmd := exec.Command("sh", "-c", d.Input)
				cmd.Dir, cmd.Env = folder, env
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				return strings.TrimSpace(string(out)) + "\nexit " + strings.TrimPrefix(cmd.ProcessState.String(), "exit status ") + "\n"
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}
