package throwaway

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"shardcdc/pipeline/throwaway/child"
)

// spawn starts one of PostgreSQL's programs. A postmaster takes SIGQUIT for an immediate shutdown.
func spawn(cmd *exec.Cmd) (*child.Process, error) { return child.Start(cmd, syscall.SIGQUIT) }

// run is spawn and wait. When ctx ends first, the whole process group is killed and waited for.
func run(ctx context.Context, cmd *exec.Cmd) error {
	p, err := spawn(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
		return p.Err()
	case <-ctx.Done():
		killErr := p.Signal(syscall.SIGKILL)
		<-p.Done()
		return errors.Join(context.Cause(ctx), killErr)
	}
}

// A taskState is one line of the system's process table.
type taskState struct {
	pid, parent int
	state       byte // As ps prints it: R, S, D, T, Z, ...
}

func (t taskState) stopped() bool { return t.state == 'T' || t.state == 't' }

// descendants returns root's children, their children and so on, without root and without zombies. PostgreSQL's
// processes call setsid, each one its own group, so the process group does not find them.
func descendants(root int) ([]taskState, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]taskState)
	for _, t := range table {
		if t.state != 'Z' {
			children[t.parent] = append(children[t.parent], t)
		}
	}
	var found []taskState
	queue := []int{root}
	for len(queue) > 0 {
		found = append(found, children[queue[0]]...)
		for _, t := range children[queue[0]] {
			queue = append(queue, t.pid)
		}
		queue = queue[1:]
	}
	return found, nil
}

// freeze stops root and everything below it, and returns when all of it stands still. root goes first so that it
// forks no more.
func freeze(ctx context.Context, root int) error {
	if err := signal(root, syscall.SIGSTOP); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		below, err := descendants(root)
		if err != nil {
			return false, err
		}
		still := true
		for _, t := range below {
			if t.stopped() {
				continue
			}
			still = false
			if err := signal(t.pid, syscall.SIGSTOP); err != nil {
				return false, err
			}
		}
		return still, nil
	})
}

// thaw undoes freeze; root goes last.
func thaw(root int) error {
	below, err := descendants(root)
	if err != nil {
		return err
	}
	for _, t := range below {
		if err := signal(t.pid, syscall.SIGCONT); err != nil {
			return err
		}
	}
	return signal(root, syscall.SIGCONT)
}

// killTree ends root and everything below it at once, as a power failure would, and returns when all are gone. A backend
// that outlives its postmaster would hold the shared memory and keep the next postmaster from starting.
func killTree(ctx context.Context, root int) error {
	if err := signal(root, syscall.SIGSTOP); err != nil { // It cannot fork, nor tidy up, from here on.
		return err
	}
	below, err := descendants(root)
	if err != nil {
		return err
	}
	for _, t := range append(below, taskState{pid: root}) {
		if err := signal(t.pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return poll(ctx, func() (bool, error) {
		table, err := processTable()
		if err != nil {
			return false, err
		}
		running := make(map[int]bool, len(table))
		for _, t := range table {
			running[t.pid] = t.state != 'Z'
		}
		for _, t := range below {
			if running[t.pid] {
				return false, nil
			}
		}
		return !running[root], nil
	})
}

// signal sends sig; a process that has ended already is no error.
func signal(pid int, sig syscall.Signal) error {
	if pid <= 1 {
		return fmt.Errorf("refuse to send %s to process %d", sig, pid)
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", sig, pid, err)
	}
	return nil
}

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// poll asks until the answer is yes. PostgreSQL and the process table have nothing to wait on; pg_ctl polls too.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
