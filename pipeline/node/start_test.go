package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
)

// A process that could not keep large transactions does not take part.
func TestUnusableSpillDir(t *testing.T) {
	bus := natstest.Bus(t)
	parent := t.TempDir()
	file, open := filepath.Join(parent, "file"), filepath.Join(parent, "open")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		file:                      "not a directory. Try: another folder as spill_dir",
		filepath.Join(file, "in"): "not a directory. Try: another folder as spill_dir",
		open:                      "others may write to the folder " + open + ". Try: chmod go-w, or another folder as spill_dir",
	} {
		refused := func(err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "--spill-dir "+dir+" cannot be used: ") || !strings.Contains(err.Error(), want) || control.MayRecover(err) {
				t.Errorf("%s: %v, want %q", dir, err, want)
			}
		}
		_, err := New(t.Context(), bus, Config{Name: "n1", Durability: DurableAcks, SpillDir: dir})
		refused(err)
		_, err = NewWorker(t.Context(), bus, WorkerConfig{Name: "n1", SpillDir: dir})
		refused(err)
	}
	usable := filepath.Join(parent, "a", "b")
	if _, err := New(t.Context(), bus, Config{Name: "n1", Durability: DurableAcks, SpillDir: usable}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(usable); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v %v", left, err)
	}
}

// A name is of one process: another one of the same role is refused while it lives, and may follow at once.
func TestNamesDiffer(t *testing.T) {
	bus := natstest.Bus(t)
	dir := t.TempDir()
	newNode := func(name string) (*Node, error) {
		return New(t.Context(), bus, Config{Name: name, Durability: DurableAcks, SpillDir: dir})
	}
	newWorker := func(name string) (*Worker, error) {
		return NewWorker(t.Context(), bus, WorkerConfig{Name: name, SpillDir: dir})
	}
	serve := func(p *process) (stop func()) {
		t.Helper()
		stop, err := p.announce()
		if err != nil {
			t.Fatal(err)
		}
		return stop
	}
	n, err := newNode("x")
	if err != nil {
		t.Fatal(err)
	}
	stopNode := serve(n.process)
	refused := func(err error, role string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "a process named x ("+role+") runs already: process ") || !strings.Contains(err.Error(), "Try: another --node-name") || control.MayRecover(err) {
			t.Errorf("%s: %v", role, err)
		}
	}
	_, err = newNode("x")
	refused(err, control.RoleCapture)
	w, err := newWorker("x") // the other half of cdcd all
	if err != nil {
		t.Fatal(err)
	}
	defer serve(w.process)()
	_, err = newWorker("x")
	refused(err, control.RoleApply)
	if _, err := newNode("y"); err != nil {
		t.Error(err)
	}
	stopNode()
	if _, err := newNode("x"); err != nil {
		t.Errorf("after its end: %v", err)
	}
}
