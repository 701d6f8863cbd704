package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// startDemo runs cdcd demo with a temporary folder of its own, which must be empty at the end.
func startDemo(t *testing.T, args ...string) (demo *program.Program, temporary string) {
	t.Helper()
	temporary, err := os.MkdirTemp("", "cdc-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(temporary); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(temporary, 0o755); err != nil { // the servers may run as another user
		t.Fatal(err)
	}
	demo, err = program.Start(program.Options{
		Name: "demo", Path: harness.Cdcd(), Args: append([]string{"demo"}, args...),
		Env: []string{"TMPDIR=" + temporary, "CDC_CONFIG="}, Log: filepath.Join(t.TempDir(), "demo.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := demo.Kill(); err != nil {
			t.Error(err)
		}
	})
	return demo, temporary
}

func waitEnded(t *testing.T, demo *program.Program, temporary string) (said string) {
	t.Helper()
	ctx := harness.Context(t, 2*time.Minute)
	select {
	case <-demo.Done():
	case <-ctx.Done():
		t.Fatalf("the demo does not end:\n%s", demo.Tail(100))
	}
	left, err := os.ReadDir(temporary)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left behind: %s", e.Name())
	}
	return demo.Tail(200)
}

func TestDemo(t *testing.T) {
	demo, temporary := startDemo(t, "--duration", "10s")
	said := waitEnded(t, demo, temporary)
	if !demo.Succeeded() {
		t.Fatal(demo.Err())
	}
	for _, want := range []string{"kill -9", "PROOF", "p99", "0 differences: source and target are equal"} {
		if !strings.Contains(said, want) {
			t.Errorf("the demo does not say %q:\n%s", want, said)
		}
	}
}

// Ctrl-C in the middle: no proof, no success, nothing left.
func TestDemoInterrupted(t *testing.T) {
	demo, temporary := startDemo(t, "--duration", "10m")
	harness.Until(harness.Context(t, time.Minute), t, "the traffic runs", func() (bool, string) {
		if !demo.Running() {
			t.Fatal(demo.Err())
		}
		said := demo.Tail(100)
		return strings.Contains(said, "tx/s"), said
	})
	if err := syscall.Kill(demo.PID(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	said := waitEnded(t, demo, temporary)
	if demo.Succeeded() || !strings.Contains(said, "interrupted before the proof") {
		t.Errorf("success %v:\n%s", demo.Succeeded(), said)
	}
}
