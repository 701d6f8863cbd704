// Package child starts programs that end with this process: PostgreSQL's servers, and the demo's and the tests' cdcd.
//
// Each has a process group of its own, so that a Ctrl-C at the terminal reaches only this process, which then ends them in
// order; and, on Linux, the kernel sends it a signal when this process dies without doing so.
//
// The kernel means the parent *thread*: a Go program that starts children from any goroutine may lose one when the runtime
// retires a thread. So the goroutine that starts a child is locked to its thread, and stays in wait(2) there until the child
// has ended: the thread lives exactly as long as it is needed.
package child

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
)

// A Process is a child of this process, and the goroutine that waits for it. Its methods may be called from several
// goroutines.
type Process struct {
	pid  int
	done chan struct{} // Closed when the child has ended and was waited for.
	err  error         // How it ended. Read it after done.
}

// Start starts cmd. The child gets the signal orphaned when this process dies before it.
func Start(cmd *exec.Cmd, orphaned syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	endWithParent(cmd.SysProcAttr, orphaned)
	p := &Process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended reports whether the child has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Err is how the child ended, nil for exit code 0. Call it after Done.
func (p *Process) Err() error { return p.err }

// Signal sends sig to the child's process group. A child that has ended already is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	if p.Ended() {
		return nil
	}
	if err := syscall.Kill(-p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
