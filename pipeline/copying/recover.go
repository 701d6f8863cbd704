package copying

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
)

// Recover finds out where the copy stands, before anything is published by this writer; at is the stream's checkpoint, and
// fresh says that there is no unit in the stream yet. Whoever wrote before cannot publish any more, so what the checkpoint
// says of an intent is final; and once Recover returns, whoever wrote before cannot write a ledger either.
//
// first, if it is not nil, has to be published before everything else, and Published is to follow.
func (e *Engine) Recover(ctx context.Context, at pipeline.Checkpoint, fresh bool) (first *pipeline.Batch, err error) {
	jobs, err := e.conf.Copies.Jobs(ctx, e.conf.Sub.Name)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		if err := e.reopen(ctx, &jobs[i], at); err != nil {
			return nil, err
		}
	}
	e.jobs = jobs
	job := next(jobs, nil)
	if job == nil {
		return nil, e.recall(ctx, jobs)
	}
	e.take(job)
	if err := e.settle(ctx, at, fresh); err != nil {
		return nil, fmt.Errorf("go on with copy job %s: %w", job.ID, err)
	}
	if fresh && e.job.Kind == control.CopyInitial {
		return e.genesis(ctx, at)
	}
	return nil, nil
}

// reopen takes back what a job says of a stream that has lost it since: a server that does not sync what it acknowledges may
// lose its end, and keep more of what is written here.
func (e *Engine) reopen(ctx context.Context, j *control.CopyJob, at pipeline.Checkpoint) error {
	through, was := at.Shards[0].Through, j.State
	if j.State == control.CopyDone && through < j.EndLSN {
		j.State, j.EndCSN, j.EndLSN, j.Ended = control.CopyCopying, 0, 0, nil
	}
	if (j.State == control.CopyPrepared || j.State == control.CopyCopying) && through < j.BeginLSN {
		j.State, j.BeginCSN, j.BeginLSN, j.Started = control.CopyPlanned, 0, 0, nil
	}
	if j.State == was {
		return nil
	}
	e.conf.Log.Warn("the stream lost the end of a copy, which goes on from there", "job", j.ID, "was", was, "is", j.State)
	if err := e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, j); err != nil {
		return fmt.Errorf("take copy job %s up again, of which the stream lost the end: %w", j.ID, err)
	}
	return nil
}

// recall takes the last job, for the status.
func (e *Engine) recall(ctx context.Context, jobs []control.CopyJob) error {
	if len(jobs) == 0 {
		return nil
	}
	e.take(&jobs[len(jobs)-1])
	return e.installLedgers(ctx)
}

// settle makes of every intent what became of it, and writes the job and every ledger that is not done once more, so that
// nobody who read them before can write them.
func (e *Engine) settle(ctx context.Context, at pipeline.Checkpoint, fresh bool) error {
	err := untilOurs(func() error {
		job, err := e.conf.Copies.Job(ctx, e.conf.Sub.Name, e.job.ID)
		if err != nil || job == nil {
			return errors.Join(err, missing(job == nil))
		}
		if i := job.Intent; i != nil {
			if !fresh && at.Shards[0].Through >= i.LSN {
				*job = settledJob(*job)
			}
			job.Intent = nil
		}
		if job.State == control.CopyRequested { // it is others' to change
			e.job = job
			return nil
		}
		e.job = job
		return e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, job)
	})
	if err != nil {
		return err
	}
	ledgers, err := e.conf.Copies.Tables(ctx, e.conf.Sub.Name, e.job.ID)
	if err != nil {
		return err
	}
	for _, l := range ledgers {
		if err := e.settleLedger(ctx, l.Shard, control.CopyTableName{Schema: l.Schema, Name: l.Name}, at); err != nil {
			return err
		}
	}
	return e.installLedgers(ctx)
}

func missing(is bool) error {
	if !is {
		return nil
	}
	return errors.New("it was deleted meanwhile")
}

// untilOurs tries again as long as somebody else was faster: whoever wrote before may do so once more at the same moment.
func untilOurs(write func() error) error {
	for {
		if err := write(); !errors.Is(err, control.ErrTaken) {
			return err
		}
	}
}

func (e *Engine) settleLedger(ctx context.Context, shard string, name control.CopyTableName, at pipeline.Checkpoint) error {
	s := e.shardNamed(shard)
	n := slices.Index(e.job.Tables, name)
	if s == nil || n < 0 {
		return fmt.Errorf("the ledger of table %s on shard %s does not belong to the job", name, shard)
	}
	return untilOurs(func() error {
		l, err := e.conf.Copies.Table(ctx, e.conf.Sub.Name, e.job.ID, shard, n)
		if err != nil || l == nil {
			return err
		}
		through := at.Shards[s.id].Through
		lost := through < l.LSN
		if l.Done && l.Intent == nil && !lost {
			return nil
		}
		next := *l
		if i := l.Intent; i != nil {
			if through >= i.LSN {
				next = *i.Then
			}
			next.Intent, next.Revision = nil, l.Revision
		}
		if lost {
			next = anew(&next)
		}
		return e.conf.Copies.PutTable(ctx, e.conf.Sub.Name, n, &next)
	})
}

// anew is the ledger of a part of which the stream lost rows: which, nobody knows.
func anew(l *control.CopyTable) control.CopyTable {
	next := *l
	next.Redo, next.Done, next.LSN, next.Chunks, next.Rows, next.Bytes = nil, false, 0, 0, 0, 0
	if l.Keyed {
		next.Ranges = []control.CopyRange{{}}
	}
	return next
}

func (e *Engine) shardNamed(name string) *shard {
	for _, s := range e.shards {
		if s.conf.Name == name {
			return s
		}
	}
	return nil
}

// installLedgers makes the parts from what is written, and follows their tables from the first batch on.
func (e *Engine) installLedgers(ctx context.Context) error {
	ledgers, err := e.conf.Copies.Tables(ctx, e.conf.Sub.Name, e.job.ID)
	if err != nil {
		return err
	}
	for i := range ledgers {
		l := &ledgers[i]
		s, n := e.shardNamed(l.Shard), slices.Index(e.job.Tables, control.CopyTableName{Schema: l.Schema, Name: l.Name})
		if s == nil || n < 0 { // of a job that ended before the subscription was changed
			continue
		}
		s.install(newPart(s, n, l))
		if l.Done {
			e.counting.started++
		}
	}
	return nil
}

// genesis plans the initial copy of a stream in which nothing is, and makes its begin mark the first transaction. Nil without an
// error: the copy failed, and changes flow without it.
func (e *Engine) genesis(ctx context.Context, at pipeline.Checkpoint) (*pipeline.Batch, error) {
	job := *e.job
	if job.State == control.CopyRequested {
		tables, err := e.look(ctx, &job)
		if err != nil {
			return nil, fmt.Errorf("plan the initial copy: %w", err)
		}
		job = e.planOf(&job, tables)
	}
	now := time.Now().UTC()
	job.Intent = &control.CopyJobIntent{CSN: 1, State: control.CopyPrepared, At: now}
	err := e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, &job)
	failed := errors.Is(err, control.ErrTooLarge)
	if failed {
		job = tooLarge(e.job, len(job.Tables), err)
		err = e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, &job)
	}
	if err != nil {
		return nil, fmt.Errorf("plan the initial copy: %w", err)
	}
	e.job = &job
	if failed {
		return nil, nil
	}
	e.settling = append(e.settling, settlement{job: &job})
	start := at.Shards[0].Through
	f := &pipeline.Fragment{Start: start, End: start, Time: pipeline.TimestampOf(now)}
	m := e.markOfJob(&job, mark.Begin)
	f.Append(mark.Message(mark.CopyPrefix, m.Content(), start))
	tx := &pipeline.Transaction{CSN: 1, CommitTime: f.Time, Fragments: []*pipeline.Fragment{f}}
	at.Last, at.Watermark = 1, 1
	return &pipeline.Batch{Transactions: []*pipeline.Transaction{tx}, Checkpoint: at}, e.at(ctx, BeginIntended)
}
