package copying

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
)

// markStart is what a fragment begins with whose only message is a mark of a copy: its length, the kind, the flags and the
// position come before.
const markStart = 4 + 1 + 1 + 8

// Alone says whether a transaction is, or may be, a mark of a copy. Such a one has to be alone in its batch: rows may take
// its place, more than fit a batch, and the ledger tells by one checkpoint whether they are in the stream.
func Alone(tx *pipeline.Transaction) bool {
	if len(tx.Fragments) != 1 {
		return false
	}
	f := tx.Fragments[0]
	if f.Changes != 1 || f.Ops != pipeline.OpsOf(pipeline.Message) || f.GID != "" {
		return false
	}
	if f.Content != nil {
		return true // it cannot be looked into here
	}
	return len(f.Body) > markStart && bytes.HasPrefix(f.Body[markStart:], []byte(mark.CopyPrefix+"\x00"))
}

// settlement is what becomes true once the batch is durable.
type settlement struct {
	chunk *chunk
	then  *control.CopyTable
	job   *control.CopyJob
}

// Pass looks at a batch before it is published: rows take the place of their mark, and the ledger is written. The batch's
// transactions may be changed. Published follows, or nothing at all any more.
func (e *Engine) Pass(ctx context.Context, b *pipeline.Batch) error {
	if !e.watching.Load() {
		return e.idle(b)
	}
	again := map[*part][]move{}
	for _, tx := range b.Transactions {
		m, is, err := markOf(tx)
		if err != nil {
			return err
		}
		if is {
			if err := e.mark(ctx, b, tx, m); err != nil {
				return fmt.Errorf("copy, mark %s of csn %s: %w", m.Kind, tx.CSN, err)
			}
			continue
		}
		if err := e.follow(tx, again); err != nil {
			return err
		}
	}
	for p, moves := range again {
		if err := e.writeAgain(ctx, p, moves); err != nil {
			return err
		}
	}
	return nil
}

// idle is Pass when there is no job at work: no mark means anything.
func (e *Engine) idle(b *pipeline.Batch) error {
	for _, tx := range b.Transactions {
		m, is, err := markOf(tx)
		if err != nil {
			return err
		}
		if is {
			silence(tx, m)
		}
	}
	return nil
}

// markOf is the mark that a transaction consists of.
func markOf(tx *pipeline.Transaction) (m mark.Copy, is bool, err error) {
	if !Alone(tx) { // nearly always
		return m, false, nil
	}
	return readMark(tx)
}

// readMark looks into a transaction of one message.
func readMark(tx *pipeline.Transaction) (m mark.Copy, is bool, err error) {
	err = tx.Fragments[0].Walk(func(c *pipeline.Change) error {
		var unreadable error
		m, is, unreadable = mark.CopyOf(c)
		is = is && unreadable == nil // not ours; readers say what they think of it
		return nil
	})
	return m, is, err
}

// follow lets the trackers note what a transaction changed.
func (e *Engine) follow(tx *pipeline.Transaction, again map[*part][]move) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range tx.Fragments {
		s := e.shards[f.Shard]
		if len(s.parts) == 0 {
			continue
		}
		moves, err := s.tracker.Take(f)
		if err != nil {
			return fmt.Errorf("follow the changes of tables that are copied: %w", err)
		}
		for _, m := range moves {
			p := s.byName[control.CopyTableName{Schema: m.Table.Schema, Name: m.Table.Name}]
			if p == nil || p.ledger.Done || !p.ledger.Keyed {
				continue
			}
			again[p] = append(again[p], move{m, moved{xid: f.XID, known: true, form: formOf(f, p.folded)}})
		}
	}
	return nil
}

// writeAgain makes keys durable that have to be copied once more, before the updates are that gave them to rows.
func (e *Engine) writeAgain(ctx context.Context, p *part, moves []move) error {
	e.mu.Lock()
	next, xids, anew := p.add(moves)
	e.mu.Unlock()
	if len(xids) == 0 {
		return nil
	}
	if err := e.put(ctx, p, next); err != nil {
		return err
	}
	e.mu.Lock()
	if anew {
		e.conf.Log.Info("too many rows got another key: the copy of the table begins anew", "table", p.name, "shard", p.shard.conf.Name)
		e.restart(p, next, xids)
	} else {
		p.ledger, p.again = next, append(p.again, xids...)
	}
	e.notify()
	e.mu.Unlock()
	return e.at(ctx, AgainWritten)
}

// restart makes a part begin anew, because of these transactions and those whose keys were to be copied again. The lock is held.
func (e *Engine) restart(p *part, ledger *control.CopyTable, xids []moved) {
	p.since = slices.Concat(p.since, p.again, xids)
	p.begin(ledger)
	e.dropStale()
}

// drop gives a chunk up: what it would have copied is read again. The lock is held.
func (e *Engine) drop(c *chunk) {
	if !c.stale() {
		c.rewind()
	}
	e.forget(c)
	e.dropStale() // what was read behind it
	e.notify()
}

// dropStale gives up the chunks that mean nothing any more. The lock is held.
func (e *Engine) dropStale() {
	for _, c := range e.pending {
		if c.stale() {
			e.forget(c)
		}
	}
}

// forget frees what a chunk takes. The lock is held.
func (e *Engine) forget(c *chunk) {
	delete(e.pending, c.id)
	c.part.shard.tracker.Drop(c.id)
	e.memory.add(-c.took)
	c.took = 0
	if c.result != nil && c.result.Content != nil {
		c.result.Content.Release()
	}
}

// put writes a part's ledger. Only then it counts.
func (e *Engine) put(ctx context.Context, p *part, ledger *control.CopyTable) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if err := e.conf.Copies.PutTable(ctx, e.conf.Sub.Name, p.n, ledger); err != nil {
		return fatalError{err}
	}
	return nil
}

// mark does what a mark that came at its place asks for.
func (e *Engine) mark(ctx context.Context, b *pipeline.Batch, tx *pipeline.Transaction, m mark.Copy) error {
	job := e.current()
	switch ours := job != nil && m.Job == job.ID; {
	case ours && m.Kind == mark.Begin && job.State == control.CopyPlanned:
		return e.intendJob(ctx, tx, control.CopyPrepared, BeginIntended)
	case ours && m.Kind == mark.End && job.State == control.CopyCopying && e.complete():
		return e.intendJob(ctx, tx, control.CopyDone, EndIntended)
	case ours && m.Kind == mark.High:
		return e.rows(ctx, b, tx, m)
	}
	silence(tx, m)
	return nil
}

// complete says that every part of the job is in the stream. An end mark that comes before is of a stream that was lost since.
func (e *Engine) complete() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !slices.ContainsFunc(e.shards, func(s *shard) bool { return !s.done() })
}

// silence takes the meaning from a mark that comes again because its writer was not sure, or late: who writes it is not shut out
// as who publishes is, and may have been frozen for as long as the job took. Readers that took a begin mark for what it says
// would empty tables that nobody copies any more.
func silence(tx *pipeline.Transaction, m mark.Copy) {
	if m.Kind == mark.High {
		return // it means nothing without its chunk
	}
	f := tx.Fragments[0]
	into := &pipeline.Fragment{Shard: f.Shard, XID: f.XID, Start: f.Start, End: f.End, Time: f.Time, Origin: f.Origin}
	nothing := mark.Copy{Kind: mark.High, Job: m.Job}
	into.Append(mark.Message(mark.CopyPrefix, nothing.Content(), f.End))
	if f.Content != nil {
		f.Content.Release()
	}
	tx.Fragments = []*pipeline.Fragment{into}
}

// intendJob writes down what becomes of the job by this transaction.
func (e *Engine) intendJob(ctx context.Context, tx *pipeline.Transaction, state control.CopyState, p Point) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	job := *e.current()
	job.Intent = &control.CopyJobIntent{LSN: tx.Fragments[0].End, CSN: tx.CSN, State: state, At: time.Now().UTC()}
	if err := e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, &job); err != nil {
		return fatalError{err}
	}
	e.settling = append(e.settling, settlement{job: &job})
	return e.at(ctx, p)
}

// rows puts the rows of a chunk in place of its mark.
func (e *Engine) rows(ctx context.Context, b *pipeline.Batch, tx *pipeline.Transaction, m mark.Copy) error {
	c, into, err := e.fold(tx, m)
	if c == nil || err != nil {
		return err
	}
	if len(b.Transactions) > 1 {
		return fmt.Errorf("chunk %s is not alone in its batch", c.id)
	}
	if err := e.at(ctx, ChunkFolded); err != nil {
		return err
	}
	e.mu.Lock()
	then := c.then()
	then.LSN = into.End
	intent := *c.part.ledger
	e.mu.Unlock()
	intent.Intent = &control.CopyIntent{LSN: into.End, Chunk: c.id, Then: then}
	if err := e.put(ctx, c.part, &intent); err != nil {
		return err
	}
	then.Revision = intent.Revision
	tx.Fragments = []*pipeline.Fragment{into}
	e.settling = append(e.settling, settlement{chunk: c, then: then})
	e.mu.Lock()
	c.part.coming = then
	e.mu.Unlock()
	return e.at(ctx, ChunkIntended)
}

// fold takes the chunk that a mark is about, and makes the fragment with its rows; nil: there is none.
func (e *Engine) fold(tx *pipeline.Transaction, m mark.Copy) (*chunk, *pipeline.Fragment, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.pending[m.Chunk]
	if c == nil {
		return nil, nil, nil
	}
	f := tx.Fragments[0]
	into := &pipeline.Fragment{Shard: f.Shard, XID: f.XID, Start: f.Start, End: f.End, Time: f.Time, Origin: f.Origin}
	rows := mark.Copy{Kind: mark.Rows, Job: m.Job, Chunk: m.Chunk, Tables: []mark.Table{{Schema: c.part.name.Schema, Name: c.part.name.Name, Keyed: c.part.ledger.Keyed}}}
	into.Append(mark.Message(mark.CopyPrefix, rows.Content(), f.End))
	err := c.part.shard.tracker.Fold(&c.result.Chunk, into)
	switch {
	case errors.Is(err, fold.ErrAgain):
		e.conf.Log.Debug("a chunk is read again", "chunk", c.id, "table", c.part.name, "cause", err)
		c.part.notBefore = time.Now().Add(againPause)
		e.drop(c)
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("chunk %s of %s: %w", c.id, c.part, err)
	}
	delete(e.pending, c.id)
	return c, into, nil
}

// againPause keeps a chunk that cannot be used from being read again at once: what was in its way may go on for a while.
const againPause = 50 * time.Millisecond

// Published says that the batch that Pass saw last is durable.
func (e *Engine) Published(ctx context.Context) error {
	if len(e.settling) == 0 {
		return nil
	}
	settling := e.settling
	e.settling = nil
	for _, s := range settling {
		var err error
		if s.job != nil {
			err = e.settleJob(ctx, s.job)
		} else {
			err = e.settleChunk(ctx, s.chunk, s.then)
		}
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	return nil
}

func (e *Engine) settleChunk(ctx context.Context, c *chunk, then *control.CopyTable) error {
	if err := e.at(ctx, ChunkPublished); err != nil {
		return err
	}
	if then.Done {
		if err := e.put(ctx, c.part, then); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := c.part
	p.ledger, p.coming = then, nil
	e.memory.add(-c.took)
	e.counting.add(time.Now(), int64(c.result.Rows), c.bytes)
	switch c.kind {
	case ofRange:
	case ofKeys:
		p.rereading, p.again = false, p.again[len(c.keys):]
	case ofAll:
		p.rereading = false
	}
	if then.Done {
		p.shard.tracker.Unfollow(p.folded)
	}
	p.trouble = ""
	e.notify()
	return nil
}

func (e *Engine) settleJob(ctx context.Context, job *control.CopyJob) error {
	point := BeginPublished
	if job.Intent.State == control.CopyDone {
		point = EndPublished
	}
	if err := e.at(ctx, point); err != nil {
		return err
	}
	settled := settledJob(*job)
	return e.putJob(ctx, &settled)
}

// settledJob is a job whose intent came true.
func settledJob(j control.CopyJob) control.CopyJob {
	i := j.Intent
	j.Intent, j.State = nil, i.State
	if i.State == control.CopyDone {
		j.EndCSN, j.EndLSN, j.Ended = i.CSN, i.LSN, &i.At
	} else {
		j.BeginCSN, j.BeginLSN, j.Started = i.CSN, i.LSN, &i.At
	}
	return j
}

// putJob writes the job and makes it the one at work.
func (e *Engine) putJob(ctx context.Context, j *control.CopyJob) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if err := e.conf.Copies.PutJob(ctx, e.conf.Sub.Name, j); err != nil {
		return fatalError{err}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.job = j
	e.notify()
	return nil
}
