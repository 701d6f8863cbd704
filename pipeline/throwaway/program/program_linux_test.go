package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"shardcdc/pipeline/pause/pausetest"
)

// parentEnv makes this test program a parent that starts a child, writes its process id to a file, and waits to be killed.
const parentEnv = "PROGRAM_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		fmt.Fprintln(os.Stderr, beParent(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func beParent(dir string) error {
	child, err := Start(Options{Name: "child", Path: "/bin/sleep", Args: []string{"1000"}, Log: filepath.Join(dir, "child.log")})
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, "new")
	if err := os.WriteFile(temporary, []byte(strconv.Itoa(child.PID())), 0o600); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, "pid")); err != nil {
		return err
	}
	<-child.Done()
	return errors.New("the child has ended")
}

func start(t *testing.T, script string) *Program {
	t.Helper()
	p, err := Start(Options{Name: "script", Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"WORD=hello"}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// until polls: the kernel has nothing to wait on.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	pausetest.Within(20*time.Second, t, what, met)
}

// state is a process's letter in /proc; 0 when it is gone.
func state(pid int) byte {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	return text[strings.LastIndexByte(string(text), ')')+2]
}

func gone(pid int) bool { return state(pid) == 0 || state(pid) == 'Z' }

func TestEnd(t *testing.T) {
	good := start(t, "echo one; echo two >&2; echo $WORD")
	<-good.Done()
	if !good.Succeeded() || good.Running() || good.Tail(2) != "two\nhello" {
		t.Errorf("succeeded %v, running %v, tail %q", good.Succeeded(), good.Running(), good.Tail(2))
	}
	bad := start(t, "echo reason; exit 3")
	<-bad.Done()
	if err := bad.Err().Error(); bad.Succeeded() || !strings.Contains(err, "exit status 3") || !strings.Contains(err, "reason") {
		t.Errorf("succeeded %v: %s", bad.Succeeded(), err)
	}
	if err := errors.Join(bad.Kill(), bad.Pause(), bad.Resume(), bad.Stop(t.Context())); err != nil {
		t.Errorf("after its end: %v", err)
	}
	if _, err := Start(Options{Name: "none", Path: "/does/not/exist", Log: filepath.Join(t.TempDir(), "log")}); err == nil || !strings.Contains(err.Error(), "start none") {
		t.Error(err)
	}
}

// The whole group is stopped, continued and killed.
func TestSignals(t *testing.T) {
	p := start(t, "sleep 1000 & echo $!; wait")
	until(t, "the script has said its child's number", func() bool { return p.Tail(1) != "" })
	child, err := strconv.Atoi(p.Tail(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	until(t, "both stand still", func() bool { return state(p.PID()) == 'T' && state(child) == 'T' })
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	until(t, "both go on", func() bool { return state(p.PID()) == 'S' && state(child) == 'S' })
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "the child is gone", func() bool { return gone(child) })
}

func TestStop(t *testing.T) {
	p := start(t, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
	until(t, "the script listens", func() bool { return p.Tail(1) == "ready" })
	if err := p.Pause(); err != nil { // one that stands still hears too
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil || !p.Succeeded() || p.Tail(1) != "bye" {
		t.Errorf("%v, %q", err, p.Tail(2))
	}
	deaf := start(t, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	until(t, "the script is deaf", func() bool { return deaf.Tail(1) == "ready" })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := deaf.Stop(ctx); err == nil || !strings.Contains(err.Error(), "does not stop") || deaf.Running() {
		t.Errorf("%v, running %v", err, deaf.Running())
	}
}

// A parent that is killed takes its child along.
func TestParentDies(t *testing.T) {
	dir := t.TempDir()
	parent, err := Start(Options{Name: "parent", Path: os.Args[0], Env: []string{parentEnv + "=" + dir}, Log: filepath.Join(dir, "parent.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = parent.Kill() })
	var child int
	t.Cleanup(func() {
		if child > 1 && t.Failed() && !gone(child) { // by its number, which it still has: nobody else's
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	})
	until(t, "the child runs", func() bool {
		if !parent.Running() {
			t.Fatal(parent.Err())
		}
		text, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return false
		}
		child, err = strconv.Atoi(string(text))
		return err == nil
	})
	if err := syscall.Kill(parent.PID(), syscall.SIGKILL); err != nil { // not its group
		t.Fatal(err)
	}
	<-parent.Done()
	until(t, "the child is gone", func() bool { return gone(child) })
}
