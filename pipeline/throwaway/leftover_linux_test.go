package throwaway

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"shardcdc/pipeline/owner"
)

// killedOwner starts a server in another process, kills that process, and returns the server's postmaster and folder.
func killedOwner(t *testing.T, dir, suffix string) (pid int, path string) {
	t.Helper()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"="+dir+suffix)
	owner.Stderr = t.Output()
	stdin, errIn := owner.StdinPipe()
	stdout, errOut := owner.StdoutPipe()
	if err := errors.Join(errIn, errOut, owner.Start()); err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err, owner.Wait())
	}
	first, path, _ := strings.Cut(strings.TrimSpace(line), " ")
	if pid, err = strconv.Atoi(first); err != nil {
		t.Fatal(err)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait() // It was killed, and says so.
	return pid, path
}

func waitGone(t *testing.T, pid int, dataDir string) {
	t.Helper()
	err := poll(testContext(t), func() (bool, error) { return !worksIn(pid, dataDir), nil })
	if err != nil {
		t.Fatalf("postmaster %d outlives its owner: %v", pid, err)
	}
}

// Killing the owner ends its server, and the next Start removes the folder.
func TestKilledOwner(t *testing.T) {
	if _, _, err := Find(); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "!paused"} {
		t.Run("owner"+suffix, func(t *testing.T) {
			dir := t.TempDir()
			pid, path := killedOwner(t, dir, suffix)
			waitGone(t, pid, filepath.Join(path, "data"))
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("the folder of the killed owner: %v", err)
			}
			startServer(t, Options{Dir: dir})
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder of the killed owner after the next start: %v", err)
			}
		})
	}
}

// A postmaster that outlived its owner is found and ended, as on systems without a signal for a parent's death.
func TestLeftoverPostmaster(t *testing.T) {
	s := startServer(t, Options{})
	pid := s.PID()
	if err := s.folder.killLeftover(); err != nil {
		t.Fatal(err)
	}
	<-s.postmaster.Load().Done()
	if alive(pid) {
		t.Errorf("process %d is there", pid)
	}
}

// The process id in an old lock file may be anybody's by now.
func TestLeftoverSparesStrangers(t *testing.T) {
	stranger := exec.Command("cat")
	stdin, errIn := stranger.StdinPipe()
	if err := errors.Join(errIn, stranger.Start()); err != nil {
		t.Fatal(err)
	}
	f := &folder{path: t.TempDir()}
	if err := os.Mkdir(f.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	lock := fmt.Sprintf("%d\n%s\n", stranger.Process.Pid, f.data())
	if err := os.WriteFile(filepath.Join(f.data(), "postmaster.pid"), []byte(lock), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.killLeftover(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(stdin.Close(), stranger.Wait()); err != nil {
		t.Errorf("the stranger: %v", err) // "signal: killed", when it was not spared.
	}
}

// The thread that calls Start may end; the server stays. (A goroutine that ends while locked takes its thread along.)
func TestStarterThreadEnds(t *testing.T) {
	if _, _, err := Find(); err != nil {
		t.Fatal(err)
	}
	var s *Server
	var err error
	var thread int
	ended := make(chan struct{})
	var starter func()
	starter = func() {
		runtime.LockOSThread()
		if thread = syscall.Gettid(); thread == os.Getpid() {
			go starter() // The main thread never ends: another one, while this one is taken.
			<-ended
			return
		}
		defer close(ended)
		s, err = Start(testContext(t), Options{Dir: t.TempDir(), Log: t.Output()})
	}
	go starter()
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	task := fmt.Sprintf("/proc/self/task/%d", thread)
	if err := poll(testContext(t), func() (bool, error) {
		_, err := os.Stat(task)
		return errors.Is(err, os.ErrNotExist), nil
	}); err != nil {
		t.Fatalf("thread %d: %v", thread, err)
	}
	if got := query(t, s, "SELECT 'up'"); got != "up" {
		t.Error(got)
	}
}

// A dead process's folder is removed, unless somebody holds its lock: an owner in another container, with a process id
// that means nothing here.
func TestStaleFolders(t *testing.T) {
	a, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	makeFolder := func(pid int, name string, locked bool) string {
		path := filepath.Join(parent, fmt.Sprintf("cdc-throwaway-%d-%s", pid, name))
		if err := errors.Join(os.Mkdir(path, 0o700), a.own(path)); err != nil {
			t.Fatal(err)
		}
		lock, err := owner.Lock(path, true)
		if err != nil {
			t.Fatal(err)
		}
		if locked {
			t.Cleanup(func() { lock.Close() })
		} else if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stale := makeFolder(dead.Process.Pid, "stale", false)
	elsewhere := makeFolder(dead.Process.Pid, "elsewhere", true)
	living := makeFolder(os.Getpid(), "living", false)
	fresh := filepath.Join(parent, fmt.Sprintf("cdc-throwaway-%d-fresh", dead.Process.Pid))
	if err := errors.Join(os.Mkdir(fresh, 0o700), a.own(fresh)); err != nil {
		t.Fatal(err)
	}
	if err := removeStale(parent, a); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{stale: false, elsewhere: true, living: true, fresh: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: there %t, want %t", filepath.Base(path), err == nil, want)
		}
	}
}

func TestSignalRefusesInit(t *testing.T) {
	for _, pid := range []int{-1, 0, 1} {
		if err := signal(pid, syscall.SIGCONT); err == nil {
			t.Errorf("a signal to process %d was sent", pid)
		}
	}
}
