package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"shardcdc/pipeline/throwaway/child"
	"shardcdc/pipeline/throwaway/program"
)

// roleEnv names the environment variable that makes this program a child of the benchmark: capture, merge, nats, node, apply. Each
// is the product's library as cdcd runs it, in a process of its own that can be asked what it took.
//
//	parent                      child
//	config (JSON) ────────────►
//	              ◄──────────── answer: up
//	"start"       ────────────► capture only: begins to read
//	              ◄──────────── answer when everything expected was read
//	"delays"      ────────────► merge only
//	              ◄──────────── answer with the delays since the last question
//	"usage"       ────────────►
//	              ◄──────────── answer with its usage
//	end of input  ────────────► ends
const roleEnv = "CDC_BENCH_ROLE"

// Config is what a child is told. Each role looks at its own fields.
type Config struct {
	Dir     string        `json:"dir"`     // for files
	NATS    string        `json:"nats"`    // URL
	Name    string        `json:"name"`    // of the process
	Workers int           `json:"workers"` // apply: sessions
	Capture CaptureConfig `json:"capture"`
}

// Answer of a child.
type Answer struct {
	Error string    `json:"error,omitempty"`
	URL   string    `json:"url,omitempty"` // nats, when it is up
	Usage Usage     `json:"usage"`
	Done  time.Time `json:"done"` // capture: when everything was read
	Count Count     `json:"count"`
	Merge Merging   `json:"merge"` // merge: delays
}

// Count is what was drained.
type Count struct {
	Transactions int64 `json:"transactions"`
	Rows         int64 `json:"rows"`
}

// childProcess is a child as the parent sees it.
type childProcess struct {
	role    string
	process *child.Process
	in      io.WriteCloser
	out     *os.File
	log     string
	URL     string
	began   Usage // what it had taken when it was up

	mu     sync.Mutex // one question at a time
	answer *json.Decoder
}

// startChild starts a child and waits until it is up.
func startChild(ctx context.Context, role string, c Config) (p *childProcess, err error) {
	p = &childProcess{role: role, log: filepath.Join(c.Dir, role+".log")}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ourOut, theirOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirOut.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdout, cmd.Stderr = theirOut, log
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, ourOut.Close())
	}
	p.out, p.answer = ourOut, json.NewDecoder(bufio.NewReader(ourOut))
	if p.process, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		return nil, errors.Join(err, ourOut.Close())
	}
	up, err := p.ask(ctx, c)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.URL = up.URL
	a, err := p.ask(ctx, "usage")
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.began = a.Usage
	return p, nil
}

// Ask sends a word and waits for the answer.
func (p *childProcess) Ask(ctx context.Context, word string) (Answer, error) { return p.ask(ctx, word) }

func (p *childProcess) ask(ctx context.Context, question any) (a Answer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s process: %w\n%s", p.role, err, program.Tail(p.log, 20))
		}
	}()
	if err := json.NewEncoder(p.in).Encode(question); err != nil {
		return a, err
	}
	answered := make(chan error, 1)
	go func() { answered <- p.answer.Decode(&a) }()
	select {
	case err := <-answered:
		if err == nil && a.Error != "" {
			err = errors.New(a.Error)
		}
		return a, err
	case <-ctx.Done(): // The answer will not be read by anybody else: the child has to go.
		err := p.process.Signal(syscall.SIGKILL)
		<-answered
		return Answer{}, errors.Join(context.Cause(ctx), err)
	}
}

// usage asks what it took since it was up.
func (p *childProcess) usage(ctx context.Context) (Usage, error) {
	a, err := p.ask(ctx, "usage")
	return a.Usage.since(p.began), err
}

// closeTimeout is how long a child may take to end.
const closeTimeout = 20 * time.Second

// Close ends the child; one that hangs is killed, which is an error.
func (p *childProcess) Close() error {
	err := p.in.Close()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-p.process.Done():
	case <-timer.C:
		err = errors.Join(err, fmt.Errorf("%s process does not end", p.role), p.process.Signal(syscall.SIGKILL))
		<-p.process.Done()
	}
	if ended := p.process.Err(); ended != nil {
		err = errors.Join(err, fmt.Errorf("%s process: %w\n%s", p.role, ended, program.Tail(p.log, 20)))
	}
	return errors.Join(err, p.out.Close())
}
