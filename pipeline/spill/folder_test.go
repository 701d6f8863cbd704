package spill

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/owner"
)

// ownerEnv makes the test binary open a folder and keep it until its input ends.
const ownerEnv = "CDC_TEST_SPILL_OWNER"

func TestMain(m *testing.M) {
	if parent := os.Getenv(ownerEnv); parent != "" {
		os.Exit(own(parent))
	}
	os.Exit(m.Run())
}

func own(parent string) int {
	d, err := Open(parent, "owner", 1<<20)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	f, err := d.Create(nil)
	if err == nil {
		_, err = f.Write([]byte("rows"))
	}
	if err = errors.Join(err, f.Park()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(d.Path())
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until killed, or the test is over
	return 0
}

// another starts a process with a folder of its own.
func another(t *testing.T, parent string) (path string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerEnv+"="+parent)
	cmd.Stderr = t.Output()
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed, and says so
			stdin.Close()
		}
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), kill
}

func open(t testing.TB, parent string, bytesMax int64) *Folder {
	t.Helper()
	d, err := Open(parent, "orders", bytesMax)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func there(t *testing.T, path string, want bool) {
	t.Helper()
	_, err := os.Lstat(path)
	if (err == nil) != want {
		t.Errorf("%s is there: %t, want %t (%v)", filepath.Base(path), err == nil, want, err)
	}
}

func TestLeftoversOfDeadProcessesAreRemoved(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "a", "b")
	living, _ := another(t, parent)
	dead, kill := another(t, parent)
	kill()
	there(t, filepath.Join(dead, "body-1"), true)

	made := func(name string) string {
		path := filepath.Join(parent, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	strange := made("somebody-elses")
	noLock := made("spill-removal-interrupted")
	fresh := made("making-spill-fresh")
	old := made("making-spill-old")
	past := time.Now().Add(-2 * makingMax)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	mine := open(t, parent, 1<<20)

	there(t, dead, false)
	there(t, noLock, false)
	there(t, old, false)
	there(t, living, true)
	there(t, filepath.Join(living, "body-1"), true)
	there(t, strange, true)
	there(t, fresh, true)
	there(t, mine.Path(), true)
	if name := filepath.Base(mine.Path()); !strings.HasPrefix(name, "spill-orders-") {
		t.Errorf("the folder is called %s", name)
	}
}

func TestModes(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "spilled")
	d := open(t, parent, 1<<20)
	f := filled(t, d, 10)
	for path, want := range map[string]os.FileMode{
		parent: 0o700, d.Path(): 0o700, f.path: 0o600, filepath.Join(d.Path(), owner.LockFile): 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode().Perm(), want, err)
		}
	}
}

func TestCloseRemovesTheFolder(t *testing.T) {
	d := open(t, t.TempDir(), 1<<20)
	f := filled(t, d, 10)
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	late, err := d.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	there(t, d.Path(), false)
	if n, err := r.Read(make([]byte, 100)); n != 10 || err != nil {
		t.Errorf("the open reader: %d, %v", n, err)
	}
	if _, err := d.Create(nil); err == nil || !strings.Contains(err.Error(), "is closed") {
		t.Errorf("create: %v", err)
	}
	if _, err := late.Write(make([]byte, 2*bufferBytes)); err == nil || !strings.Contains(err.Error(), "is closed") {
		t.Errorf("write: %v", err)
	}
	f.Release()
}

func TestWrongUse(t *testing.T) {
	for _, test := range []struct {
		name     string
		bytesMax int64
		want     string
	}{
		{"orders", 0, "spill: a limit of 0 bytes. Try: spill_bytes_max above zero"},
		{"a/b", 1, `spill: the name "a/b" cannot be part of a folder's`},
		{"a*b", 1, `spill: the name "a*b" cannot be part of a folder's`},
	} {
		if _, err := Open(t.TempDir(), test.name, test.bytesMax); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, "a", 1); err == nil || !strings.Contains(err.Error(), "Try: another folder") {
		t.Errorf("a file for a folder: %v", err)
	}
}

// A folder in which somebody else could replace ours is refused.
func TestUnsafeParent(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o700: true, 0o755: true, 0o770: false, 0o777: false, 0o777 | os.ModeSticky: true} {
		parent := filepath.Join(t.TempDir(), "parent")
		if err := errors.Join(os.Mkdir(parent, 0o700), os.Chmod(parent, mode)); err != nil {
			t.Fatal(err)
		}
		d, err := Open(parent, "x", 1000)
		if (err == nil) != want {
			t.Errorf("%s: %v", mode, err)
		}
		if err == nil {
			d.Close()
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	parent := t.TempDir()
	if err := os.Chown(parent, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(parent, "x", 1000); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Error(err)
	}
}
