package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"syscall"
	"time"

	"shardcdc/pipeline/throwaway/child"
)

// recvlogical is pg_recvlogical to /dev/null, one for each shard: the fastest reader that comes with PostgreSQL.
type recvlogical struct{ unix bool }

func (r *recvlogical) Name() string {
	if r.unix {
		return "pg_recvlogical unix"
	}
	return "pg_recvlogical tcp"
}

func (*recvlogical) Reads() Backing { return Slot }

func (r *recvlogical) Drain(ctx context.Context, b *Backlog, slot string) (d Drain, err error) {
	watching := watchSenders(ctx, b, slot)
	total, runErr := r.run(ctx, b, slot)
	ended := time.Now()
	began, sent, err := watching.stop()
	if err = errors.Join(runErr, err); err != nil {
		return d, err
	}
	d = between(began, ended)
	d.Processes["walsender"], d.Processes["pg_recvlogical"] = sent, total
	return d, nil
}

// run runs one for each shard until all have reached the end.
func (r *recvlogical) run(ctx context.Context, b *Backlog, slot string) (total Usage, err error) {
	var running []*receiver
	for i := range b.Shards {
		p, err := r.start(b, i, slot)
		if err != nil {
			return total, errors.Join(err, stopAll(running))
		}
		running = append(running, p)
	}
	for _, p := range running {
		select {
		case <-p.process.Done():
			if p.process.Err() != nil {
				err = errors.Join(err, fmt.Errorf("pg_recvlogical: %w\n%s", p.process.Err(), p.said.Bytes()))
				continue
			}
			total.CPUSeconds += (p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()).Seconds()
			if r, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				total.PeakBytes += r.Maxrss << 10
			}
		case <-ctx.Done():
			return total, errors.Join(context.Cause(ctx), stopAll(running))
		}
	}
	return total, err
}

type receiver struct {
	cmd     *exec.Cmd
	process *child.Process
	said    *bytes.Buffer
}

func (r *recvlogical) start(b *Backlog, shard int, slot string) (*receiver, error) {
	path, err := b.lab.program("pg_recvlogical")
	if err != nil {
		return nil, err
	}
	p := &receiver{said: &bytes.Buffer{}}
	p.cmd = exec.Command(path, "--start", "--slot", slot, "--file", "/dev/null", "--no-loop", "--endpos", b.ends[shard].String(),
		"-o", "proto_version=1", "-o", "publication_names="+publication, "--dbname", r.dsn(b, shard))
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.process, err = child.Start(p.cmd, syscall.SIGKILL)
	return p, err
}

// dsn: the server's folder holds its socket.
func (r *recvlogical) dsn(b *Backlog, shard int) string {
	if !r.unix {
		return b.dsn(shard)
	}
	s := b.lab.shard(shard)
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d", b.database, url.QueryEscape(s.Dir()), s.Port())
}

func stopAll(running []*receiver) (err error) {
	for _, p := range running {
		err = errors.Join(err, p.process.Signal(syscall.SIGKILL))
		<-p.process.Done()
	}
	return err
}
