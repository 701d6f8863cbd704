package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/pause/pausetest"
)

// TestMain: under the name cdcd the test binary is the program.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "cdcd" {
		main()
	}
	os.Exit(m.Run())
}

const patience = 30 * time.Second

// text is what a process wrote so far.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func command(t *testing.T, args ...string) (*exec.Cmd, *text) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cdcd")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	cmd, out := exec.CommandContext(ctx, path, args...), &text{}
	cmd.Env, cmd.Stderr = []string{"HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}, out
	return cmd, out
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	pausetest.Within(patience, t, what, ok)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Node and apply wait for a NATS server that is not up yet, and take part when it is; a signal ends them as ever.
func TestWaitsForNATS(t *testing.T) {
	address := freeAddress(t)
	programs := map[*exec.Cmd]*text{}
	for _, role := range []string{"node", "apply"} {
		cmd, out := command(t, role, "--nats", "nats://"+address, "--node-name", "late")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		programs[cmd] = out
		until(t, "it says that it waits", func() bool { return strings.Contains(out.String(), "NATS is not up; waiting for it") })
	}
	srv, err := embedded.Start(t.Context(), embedded.Options{StoreDir: t.TempDir(), Listen: address, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	bus, err := control.Connect(t.Context(), control.Connection{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	until(t, "both take part", func() bool {
		all, err := control.AskProcesses(t.Context(), bus.NC)
		return err == nil && len(all) == 2 && all[0].Name == "late"
	})
	for cmd, out := range programs {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended by a signal: %v\n%s", err, out)
		}
		if n := strings.Count(out.String(), "waiting for it"); n > 5 {
			t.Errorf("it said %d times that it waits", n)
		}
	}
}

// To be told to stop while waiting is no failure; what waiting does not mend ends the program at once.
func TestDoesNotWait(t *testing.T) {
	cmd, out := command(t, "node", "--nats", "nats://"+freeAddress(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "it says that it waits", func() bool { return strings.Contains(out.String(), "waiting for it") })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended while it waited: %v\n%s", err, out)
	}
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"apply --nats http://h:4222":                            {2, "is no URL of a NATS server. Try: --nats nats://host:4222"},
		"node --nats-ca /no/file":                               {1, "check the files given by"},
		"apply --subscription s --target postgres://u@h:port/d": {2, "--target"},
	} {
		cmd, out := command(t, strings.Fields(args)...)
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != want.code || !strings.Contains(out.String(), want.text) {
			t.Errorf("%s: %v, want exit %d and %q\n%s", args, err, want.code, want.text, out)
		}
	}
}
