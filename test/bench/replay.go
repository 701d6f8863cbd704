package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
)

// path is the whole way from the source to the target.
type path struct {
	commit  string // synchronous_commit of the target's database
	workers int    // sessions that the worker applies with
}

func (p *path) Name() string { return fmt.Sprintf("path commit=%s workers=%d", p.commit, p.workers) }

func (*path) Reads() Backing { return TwoPhaseSlot }

func (p *path) Drain(ctx context.Context, b *Backlog, slot string) (d Drain, err error) {
	name := "path_" + slot
	target, err := b.makeTargetOf(ctx, name, p.commit)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, b.dropTarget(context.WithoutCancel(ctx), name)) }()
	s, err := openSite(ctx, b.lab)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.subscribe(ctx, b, slot, format.Internal, target); err != nil {
		return d, err
	}
	return b.lawful(ctx, target, func() (Drain, error) { return p.drain(ctx, s, b, slot, target) })
}

// drain starts both, and waits for the end of the backlog on the target.
func (p *path) drain(ctx context.Context, s *site, b *Backlog, slot, target string) (d Drain, err error) {
	worker, err := s.startWorker(ctx, p.workers)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, worker.Close()) }()
	watching := watchSenders(ctx, b, slot)
	var ended time.Time
	if s.node, err = s.start(ctx, "node"); err == nil {
		err = s.awaitMarkers(ctx, b, target)
		ended = time.Now()
	}
	processes, usageErr := s.processes(ctx, map[string]*childProcess{"node": s.node, "nats": s.nats, "apply": worker})
	sessions, sessionErr := sessionsOf(ctx, target)
	if err == nil {
		err = watching.same(ctx, b, slot)
	}
	began, sent, watchErr := watching.stop()
	if err := errors.Join(err, usageErr, sessionErr, watchErr); err != nil {
		return d, err
	}
	d = between(began, ended)
	d.Processes = processes
	d.Processes["walsender"], d.Processes["target backends"] = sent, sessions
	return d, nil
}

// stored is an apply worker alone, for a stream that holds everything.
type stored struct {
	commit  string
	workers int
}

func (r *stored) Name() string {
	return fmt.Sprintf("stored commit=%s workers=%d", r.commit, r.workers)
}

func (*stored) Reads() Backing { return Stream }

func (r *stored) Drain(ctx context.Context, b *Backlog, _ string) (d Drain, err error) {
	target, err := b.makeTargetOf(ctx, b.storedTarget(), r.commit)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, b.dropTarget(context.WithoutCancel(ctx), b.storedTarget())) }()
	if err := b.fillStream(ctx); err != nil {
		return d, fmt.Errorf("fill the stream: %w", err)
	}
	s, err := b.copyStream(ctx)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return b.lawful(ctx, target, func() (Drain, error) { return r.drain(ctx, s, b, target) })
}

func (r *stored) drain(ctx context.Context, s *site, b *Backlog, target string) (d Drain, err error) {
	before, err := s.nats.usage(ctx)
	if err != nil {
		return d, err
	}
	worker, err := s.startWorker(ctx, r.workers)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, worker.Close()) }()
	session, err := awaitBackend(ctx, target, "the worker's session begins", "SELECT pid, backend_start FROM pg_stat_activity WHERE application_name = $1 ORDER BY 2", applicationName)
	if err != nil {
		return d, err
	}
	if err := s.awaitMarkers(ctx, b, target); err != nil {
		return d, err
	}
	d = between(session.began, time.Now())
	processes, err := s.processes(ctx, map[string]*childProcess{"nats": s.nats, "apply": worker})
	if err != nil {
		return d, err
	}
	d.Processes = processes
	d.Processes["nats"] = processes["nats"].since(before)
	d.Processes["target backends"], err = sessionsOf(ctx, target)
	return d, err
}

// storedTarget is the database that the stored subscription names.
func (b *Backlog) storedTarget() string { return "stored_" + b.Letter }

// fillStream publishes the whole backlog, once; the target has to be there.
func (b *Backlog) fillStream(ctx context.Context) (err error) {
	if b.stream != "" {
		return nil
	}
	s, err := openSite(ctx, b.lab)
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.subscribe(ctx, b, streamSlot, format.Internal, b.lab.target().DSNFor(b.storedTarget())); err != nil {
		return err
	}
	if _, err := s.fill(ctx, b, streamSlot); err != nil {
		return err
	}
	open, s.keep = false, true
	if err := errors.Join(s.Close(), b.dropSlots(ctx, streamSlot)); err != nil {
		return err
	}
	b.stream = s.dir
	return nil
}

// copyStream starts a NATS server on a copy of the stream. The copy is on the disk first: nobody writes it back in the middle
// of a drain.
func (b *Backlog) copyStream(ctx context.Context) (*site, error) {
	dir, err := b.lab.folder()
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(natsDir(dir), os.DirFS(natsDir(b.stream))); err != nil {
		return nil, err
	}
	if err := syncFiles(natsDir(dir)); err != nil {
		return nil, err
	}
	s, err := startSite(ctx, dir)
	if err != nil {
		return nil, err
	}
	s.sub = &control.Subscription{Name: subscriptionName}
	return s, nil
}

func syncFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// natsDir is where the NATS server of a folder keeps its files.
func natsDir(dir string) string { return filepath.Join(dir, "nats") }

// makeTargetOf makes a target whose sessions commit so.
func (b *Backlog) makeTargetOf(ctx context.Context, name, commit string) (dsn string, err error) {
	if dsn, err = b.makeTarget(ctx, name); err != nil {
		return "", err
	}
	if err := execute(ctx, dsn, "ALTER DATABASE "+name+" SET synchronous_commit = "+commit); err != nil {
		return "", errors.Join(err, b.dropTarget(context.WithoutCancel(ctx), name))
	}
	return dsn, nil
}

// lawful is a drain of ours into a target: it fails if the target ever shows what the source never was, or ends with other
// rows.
func (b *Backlog) lawful(ctx context.Context, target string, drain func() (Drain, error)) (Drain, error) {
	law := watchLaw(ctx, b.Law, target)
	d, err := drain()
	looks, lawErr := law.stop()
	if looks.wrong > 0 {
		lawErr = errors.Join(lawErr, fmt.Errorf("the target showed a state that the source never had, in %d looks of %d: %s says false", looks.wrong, looks.all, b.Law))
	}
	if err := errors.Join(err, lawErr); err != nil {
		return d, err
	}
	d.Looks = looks.all
	return d, b.check(ctx, target)
}

// awaitMarkers waits for the end of the backlog on the target, or for an error of ours that would let it wait for ever.
func (s *site) awaitMarkers(ctx context.Context, b *Backlog, target string) error {
	ctx, fail := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer fail(nil)
	watching.Go(func() {
		err := every(ctx, healthEvery, "the drain ends", func() (bool, error) {
			c, err := control.AskCapture(ctx, s.bus.NC, s.sub.Name)
			if err == nil && c.Error != "" {
				return false, fmt.Errorf("the node stopped: %s", c.Error)
			}
			a, err := control.AskApply(ctx, s.bus.NC, s.sub.Name, "target")
			if err == nil && a.Error != "" {
				return false, fmt.Errorf("the apply worker stopped: %s", a.Error)
			}
			return false, nil // Nobody may answer before both are up.
		})
		fail(err)
	})
	return b.awaitMarkers(ctx, target)
}

// healthEvery is the time between two looks at what ours say.
const healthEvery = 500 * time.Millisecond

// applicationName is what apply workers are shown as on the target.
const applicationName = "cdc apply " + subscriptionName

// sessionsOf is what the worker's backends on the target took.
func sessionsOf(ctx context.Context, target string) (Usage, error) {
	return backends(ctx, target, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE application_name = $1", applicationName)
}
