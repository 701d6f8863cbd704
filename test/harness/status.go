package harness

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"shardcdc/pipeline/control"
)

// buildCdcctl builds cdcctl, once, when somebody needs it.
var buildCdcctl = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(shared.dir, "cdcctl")
	if out, err := exec.Command("go", "build", "-o", path, "shardcdc/cmd/cdcctl").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cdcctl: %w\n%s", err, out)
	}
	return path, nil
})

// Cdcctl runs cdcctl and returns what it prints; exit code 1 is not an error: status has it when something is wrong.
func (c *Cluster) Cdcctl(args ...string) string {
	c.t.Helper()
	out, err := c.cdcctl(args...)
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		c.t.Fatalf("cdcctl %v: %v\n%s", args, err, out)
	}
	return out
}

// cdcctl runs it and returns all that it prints.
func (c *Cluster) cdcctl(args ...string) (string, error) {
	path, err := buildCdcctl()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(c.Ctx, path, append(args, "--nats", c.url)...)
	cmd.Env = append(cmd.Environ(), "CDC_CONFIG=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// CdcctlPath is the path of the cdcctl under test.
func CdcctlPath(t *testing.T) string {
	t.Helper()
	path, err := buildCdcctl()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Says waits until the status that cdcctl prints for people holds every one of the texts, and returns it.
func (c *Cluster) Says(texts ...string) (status string) {
	c.t.Helper()
	Until(c.Ctx, c.t, fmt.Sprintf("cdcctl status says %q", texts), func() (bool, string) {
		status = c.Cdcctl("status", c.Sub.Name)
		return holds(status, texts), status
	})
	return status
}

// CaptureFails waits until the capture has failed with an error that holds every one of the texts, and cdcctl shows it.
func (c *Cluster) CaptureFails(texts ...string) {
	c.t.Helper()
	Until(c.Ctx, c.t, fmt.Sprintf("the capture fails with %q", texts), func() (bool, string) {
		st, ok := c.Capture()
		return ok && st.State == "failed" && holds(st.Error, texts), fmt.Sprintf("%s: %s", st.State, st.Error)
	})
	c.Says(texts...)
}

// ApplyFails waits until the worker does not go on because of an error that holds every one of the texts, and cdcctl shows it.
func (c *Cluster) ApplyFails(texts ...string) {
	c.t.Helper()
	Until(c.Ctx, c.t, fmt.Sprintf("the worker stops with %q", texts), func() (bool, string) {
		st, _ := c.ApplyStatus()
		return holds(st.Error, texts), fmt.Sprintf("%s: %s", st.State, st.Error)
	})
	c.Says(texts...)
}

// ApplyStatus is the worker's; ok is false when none answers.
func (c *Cluster) ApplyStatus() (st control.ApplyStatus, ok bool) {
	st, err := control.AskApply(c.Ctx, c.Bus.NC, c.Sub.Name, TargetName)
	return st, err == nil
}

func holds(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
