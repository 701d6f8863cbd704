// Package program runs programs that end with this process: the demo's and the tests' cdcd.
//
// A Ctrl-C at the terminal reaches only this process, which then ends them in order; and, on Linux, the kernel kills them
// when this process dies without doing so. See package child.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"shardcdc/pipeline/throwaway/child"
)

// Options say what to run.
type Options struct {
	Name string   // for messages
	Path string   // of the program
	Args []string // without the program's name
	Env  []string // added to this process's environment
	// Log is the file that gets standard output and standard error, at its end.
	Log string
}

// A Program is a child of this process. Its methods may be called from several goroutines.
type Program struct {
	o     Options
	child *child.Process
}

// Start starts a program.
func Start(o Options) (*Program, error) {
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	defer log.Close() // The program has its own copy.
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Without a chance to tidy up: a cdcd that outlives its test or its demo would go on working.
	p, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	return &Program{o: o, child: p}, nil
}

// Name is the program's name in messages.
func (p *Program) Name() string { return p.o.Name }

// PID is the process id.
func (p *Program) PID() int { return p.child.PID() }

// Done is closed when the program has ended.
func (p *Program) Done() <-chan struct{} { return p.child.Done() }

// Running reports whether it has not ended yet.
func (p *Program) Running() bool { return !p.child.Ended() }

// Succeeded reports whether the program has ended with exit code 0.
func (p *Program) Succeeded() bool { return !p.Running() && p.child.Err() == nil }

// Err says how the program ended, with the end of its log. Call it after Done.
func (p *Program) Err() error {
	how := "without an error"
	if err := p.child.Err(); err != nil {
		how = err.Error()
	}
	return fmt.Errorf("%s ended: %s; the end of its log (%s):\n%s", p.o.Name, how, p.o.Log, p.Tail(20))
}

// signal sends sig to the program's group. A program that has ended already is no error.
func (p *Program) signal(sig syscall.Signal) error {
	if err := p.child.Signal(sig); err != nil {
		return fmt.Errorf("send %s to %s: %w", sig, p.o.Name, err)
	}
	return nil
}

// Kill is kill -9; it returns when the program has ended. A paused one is killed too.
func (p *Program) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.Done()
	return nil
}

// Stop asks the program to end (SIGTERM) and waits; when ctx ends first it kills it, which is an error.
func (p *Program) Stop(ctx context.Context) error {
	if err := errors.Join(p.signal(syscall.SIGTERM), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s does not stop: %w", p.o.Name, context.Cause(ctx)), p.Kill())
	}
}

// Pause makes the program stand still (SIGSTOP), as when its machine hangs.
func (p *Program) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Program) Resume() error { return p.signal(syscall.SIGCONT) }

// tailBytes is how much of the log Tail looks at.
const tailBytes = 64 << 10

// Tail is the last lines of the log, or why it cannot be read.
func (p *Program) Tail(lines int) string { return Tail(p.o.Log, lines) }

// Tail is the last lines of a file, or why it cannot be read.
func Tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	text := make([]byte, min(info.Size(), tailBytes))
	if n, err := f.ReadAt(text, info.Size()-int64(len(text))); n < len(text) {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimRight(text, "\n")), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// StopAll stops programs, the first one first, with a time limit for each.
func StopAll(programs ...*Program) error {
	var errs []error
	for _, p := range programs {
		if p == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		errs = append(errs, p.Stop(ctx))
		cancel()
	}
	return errors.Join(errs...)
}

const stopTimeout = 10 * time.Second
