package copying

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/dumper"
	"shardcdc/dumper/copier"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pattern"
)

// execute brings the job at work to its end.
func (e *Engine) execute(ctx context.Context) error {
	for {
		job := e.current()
		var err error
		switch job.State {
		case control.CopyRequested:
			err = e.plan(ctx, job)
		case control.CopyPlanned:
			err = e.emit(ctx, job, mark.Begin, BeginEmitted)
		case control.CopyPrepared:
			err = e.join(ctx, job)
		case control.CopyCopying:
			err = e.copy(ctx)
			if err == nil {
				err = e.emit(ctx, job, mark.End, EndEmitted)
			}
		case control.CopyDone, control.CopyCancelled, control.CopyFailed:
			return nil
		default:
			err = fmt.Errorf("state %q is unknown. Try: upgrade this node", job.State)
		}
		if err != nil {
			return err
		}
	}
}

// planned is a table and what the shards say of it.
type planned struct {
	name    control.CopyTableName
	keyed   bool
	bytes   int64
	ordered int // the place of the first pattern of the order that matches
}

// plan finds out what to copy. Nothing is in the stream yet, so the job may still be changed or cancelled by others.
func (e *Engine) plan(ctx context.Context, job *control.CopyJob) error {
	var tables []planned
	err := e.retry(ctx, func() (err error) {
		if err := e.reread(ctx, job.ID); err != nil {
			return err
		}
		if job = e.current(); job.State == control.CopyRequested {
			tables, err = e.look(ctx, job)
		}
		return err
	})
	if err != nil || job.State != control.CopyRequested {
		return err
	}
	next := e.planOf(job, tables)
	err = e.putJob(ctx, &next)
	if errors.Is(err, control.ErrTooLarge) {
		next = tooLarge(job, len(tables), err)
		err = e.putJob(ctx, &next)
	}
	if errors.Is(err, control.ErrTaken) {
		return e.retry(ctx, func() error { return e.reread(ctx, job.ID) })
	}
	if err != nil {
		return err
	}
	return e.at(ctx, Planned)
}

// tooLarge is a job that fails because nothing holds the names of its tables.
func tooLarge(job *control.CopyJob, tables int, cause error) control.CopyJob {
	next, now := *job, time.Now().UTC()
	next.State, next.Ended = control.CopyFailed, &now
	next.Error = fmt.Sprintf("%d tables are too many for one job: %v. Try: a larger max_payload in the configuration of nats-server, then cdcctl resync; or several subscriptions with fewer tables each", tables, cause)
	return next
}

func (e *Engine) planOf(job *control.CopyJob, tables []planned) control.CopyJob {
	next := *job
	next.Tables, next.Keyed = nil, nil
	for _, t := range tables {
		next.Tables, next.Keyed = append(next.Tables, t.name), append(next.Keyed, t.keyed)
	}
	next.State = control.CopyPlanned
	if len(tables) == 0 && job.Kind != control.CopyInitial {
		now := time.Now().UTC()
		next.State, next.Ended, next.Tables = control.CopyFailed, &now, job.Tables
		next.Error = "no shard has any of the tables. Try: cdcctl list -o json, which shows what the subscription publishes"
	}
	return next
}

// reread takes a job that somebody else changed.
func (e *Engine) reread(ctx context.Context, id string) error {
	job, err := e.conf.Copies.Job(ctx, e.conf.Sub.Name, id)
	if err != nil {
		return err
	}
	if job == nil { // deleted
		job = &control.CopyJob{ID: id, State: control.CopyCancelled}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.job = job
	return nil
}

// look asks every shard for the tables of a job; of an initial copy that is whatever is published. They come in the order
// of copying.
func (e *Engine) look(ctx context.Context, job *control.CopyJob) ([]planned, error) {
	found := make([][]planned, len(e.conf.Sub.Shards))
	group, ctx := errgroup.WithContext(ctx)
	for i := range e.conf.Sub.Shards {
		group.Go(func() (err error) {
			if job.Kind == control.CopyAdd {
				found[i], err = e.lookUnpublished(ctx, i, job)
			} else {
				found[i], err = e.lookPublished(ctx, i, job)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return e.order(slices.Concat(found...)), nil
}

func (e *Engine) lookUnpublished(ctx context.Context, i int, job *control.CopyJob) (found []planned, err error) {
	sh := &e.conf.Sub.Shards[i]
	keys, err := dumper.FindKeys(ctx, sh.DSN, sh.Slot, names(job.Tables))
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", sh.Name, err)
	}
	for name, key := range keys {
		found = append(found, planned{name: control.CopyTableName(name), keyed: len(key) > 0})
	}
	return found, nil
}

func (e *Engine) lookPublished(ctx context.Context, i int, job *control.CopyJob) (found []planned, err error) {
	session, err := e.open(ctx, pipeline.ShardID(i))
	if err != nil {
		return nil, err
	}
	defer session.Close()
	tables, err := session.Tables(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		name := control.CopyTableName{Schema: t.Schema, Name: t.Name}
		if job.Kind == control.CopyInitial || slices.Contains(job.Tables, name) {
			found = append(found, planned{name: name, keyed: t.Key != nil, bytes: t.Bytes})
		}
	}
	return found, nil
}

func names(tables []control.CopyTableName) []dumper.TableName {
	out := make([]dumper.TableName, len(tables))
	for i, t := range tables {
		out[i] = dumper.TableName(t)
	}
	return out
}

// order puts what the shards found together: first what was asked to be first, then what is small.
func (e *Engine) order(found []planned) []planned {
	all := map[control.CopyTableName]*planned{}
	for _, f := range found {
		t := all[f.name]
		if t == nil {
			t = &planned{name: f.name, keyed: true, ordered: e.place(f.name)}
			all[f.name] = t
		}
		t.keyed = t.keyed && f.keyed
		t.bytes += f.bytes
	}
	tables := make([]planned, 0, len(all))
	for _, t := range all {
		tables = append(tables, *t)
	}
	slices.SortFunc(tables, func(a, b planned) int {
		return cmp.Or(a.ordered-b.ordered, cmp.Compare(a.bytes, b.bytes), cmp.Compare(a.name.Schema, b.name.Schema), cmp.Compare(a.name.Name, b.name.Name))
	})
	return tables
}

func (e *Engine) place(name control.CopyTableName) int {
	for i, text := range e.conf.Sub.Copy.Order {
		if p, err := pattern.Parse(text); err == nil && p.Match(name.Schema, name.Name) {
			return i
		}
	}
	return len(e.conf.Sub.Copy.Order)
}

// wanted says whether the subscription still has a table: it may have been removed while it was being copied.
func (e *Engine) wanted(name control.CopyTableName) bool {
	match := len(e.chosen) == 0
	for _, p := range e.chosen {
		if p.Match(name.Schema, name.Name) {
			if p.Exclude {
				return false
			}
			match = true
		}
	}
	return match
}

// open opens a session of a shard.
func (e *Engine) open(ctx context.Context, shard pipeline.ShardID) (*copier.Session, error) {
	sh := &e.conf.Sub.Shards[shard]
	return copier.Open(ctx, copier.Source{Shard: shard, Name: sh.Name, DSN: sh.DSN, Slot: sh.Slot, Publications: sh.Publications})
}

// markOfJob is the mark that begins or ends the job.
func (e *Engine) markOfJob(job *control.CopyJob, k mark.Kind) mark.Copy {
	m := mark.Copy{Token: e.conf.Sub.Incarnation, Kind: k, Job: job.ID}
	for i, t := range job.Tables {
		m.Tables = append(m.Tables, mark.Table{Schema: t.Schema, Name: t.Name, Keyed: job.Keyed[i]})
	}
	switch k {
	case mark.Begin:
		m.TargetRows = job.TargetRows
	case mark.End:
		m.Last = true // one job is at work at a time
	}
	return m
}

// emit writes the mark into the first shard's WAL and waits until it is in the stream. Who is not sure that it was written
// writes it once more: only the first one means something (silence).
func (e *Engine) emit(ctx context.Context, job *control.CopyJob, k mark.Kind, p Point) error {
	m := e.markOfJob(job, k)
	err := e.retry(ctx, func() error {
		if e.current().State != job.State { // one that another node wrote came
			return nil
		}
		session, err := e.open(ctx, 0)
		if err != nil {
			return err
		}
		defer session.Close()
		return session.Emit(ctx, mark.CopyPrefix, m.Content())
	})
	if err != nil {
		return err
	}
	if err := e.at(ctx, p); err != nil {
		return err
	}
	return e.await(ctx, func() bool { return e.job.State != job.State })
}

// join has the tables of a job published that are not yet.
func (e *Engine) join(ctx context.Context, job *control.CopyJob) error {
	if job.Kind == control.CopyAdd {
		wanted := slices.DeleteFunc(slices.Clone(job.Tables), func(t control.CopyTableName) bool { return !e.wanted(t) })
		err := e.each(ctx, func(ctx context.Context, s *shard) error {
			if !s.conf.OwnPublication {
				return fmt.Errorf("publication %s was given, and only its owner changes it. Try: ALTER PUBLICATION … ADD TABLE for the tables of the copy", s.conf.Publications[0])
			}
			return dumper.Publish(ctx, s.conf.DSN, s.conf.Slot, s.conf.Publications[0], names(wanted))
		})
		if err != nil {
			return err
		}
		if err := e.at(ctx, TablesJoined); err != nil {
			return err
		}
	}
	next := *job
	next.State = control.CopyCopying
	return e.putJob(ctx, &next)
}

// each does something with every shard at the same time, again and again where it fails.
func (e *Engine) each(ctx context.Context, do func(context.Context, *shard) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range e.shards {
		group.Go(func() error {
			return e.retryShard(ctx, s, func() error { return do(ctx, s) })
		})
	}
	return group.Wait()
}

// copy runs the shards until every part is in the stream.
func (e *Engine) copy(ctx context.Context) error {
	return e.each(ctx, func(ctx context.Context, s *shard) error {
		if err := e.prepare(ctx, s); err != nil {
			return err
		}
		var wait sync.WaitGroup
		errs := make([]error, e.conf.Sub.Copy.Parallel)
		reading, stop := context.WithCancel(ctx)
		defer stop()
		for i := range errs {
			wait.Go(func() {
				if errs[i] = e.read(reading, s); errs[i] != nil {
					stop()
				}
			})
		}
		wait.Wait()
		return firstCause(errs)
	})
}

// firstCause prefers an error to the cancellation that it brought about.
func firstCause(errs []error) (first error) {
	for _, err := range errs {
		if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return first
}
