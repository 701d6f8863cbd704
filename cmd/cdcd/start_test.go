package main

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
)

// A process that could not do its work, or that nobody could tell from another one, ends at once. After a kill its name is
// free.
func TestRefusesToStart(t *testing.T) {
	srv, err := embedded.Start(t.Context(), embedded.Options{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	bus, err := control.Connect(t.Context(), control.Connection{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	file, spill := filepath.Join(t.TempDir(), "file"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(role, dir string) (*exec.Cmd, *text) {
		t.Helper()
		cmd, out := command(t, role, "--nats", srv.URL(), "--node-name", "x", "--spill-dir", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	refused := func(role, dir string, want ...string) {
		t.Helper()
		cmd, out := start(role, dir)
		err := cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Contains(out.String(), " is up") {
			t.Errorf("%s: %v, want exit 1\n%s", role, err, out)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: want %q in\n%s", role, w, out)
			}
		}
	}
	up := func(role string) *exec.Cmd {
		t.Helper()
		cmd, out := start(role, spill)
		until(t, role+" takes part", func() bool {
			all, err := control.AskProcesses(t.Context(), bus.NC)
			return err == nil && slices.ContainsFunc(all, func(p control.Process) bool { return p.PID == cmd.Process.Pid })
		})
		if !strings.Contains(out.String(), role+" is up") {
			t.Errorf("%s does not say that it is up\n%s", role, out)
		}
		return cmd
	}
	for _, role := range []string{"node", "apply"} {
		refused(role, file, "--spill-dir "+file+" cannot be used: ", "Try: another folder as spill_dir")
	}
	node, apply := up("node"), up("apply")
	refused("node", spill, "a process named x (capture) runs already: process ", "Try: another --node-name")
	refused("apply", spill, "a process named x (apply) runs already: process ", "Try: another --node-name")
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait() // killed
	for _, cmd := range []*exec.Cmd{up("node"), apply} {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended by a signal: %v", err)
		}
	}
}
