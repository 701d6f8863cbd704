package copying

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"shardcdc/dumper/copier"
	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/spill"
)

// retryShard does something with a shard until it succeeds, showing what is wrong meanwhile.
func (e *Engine) retryShard(ctx context.Context, s *shard, do func() error) error {
	for {
		err := do()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || isFatal(err) {
			e.shardWaits(s, "")
			return err
		}
		e.shardWaits(s, "shard "+s.conf.Name+": "+err.Error())
		if err := pause.For(ctx, e.conf.RetryAfter); err != nil {
			return err
		}
	}
}

func (e *Engine) shardWaits(s *shard, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.trouble = text
}

// prepare finds the shard's parts and makes their ledgers, follows them, and waits until whatever was written before is
// visible to the snapshots that will be taken.
func (e *Engine) prepare(ctx context.Context, s *shard) error {
	e.mu.Lock()
	listed := s.listed
	e.mu.Unlock()
	if listed {
		return nil
	}
	session, err := e.open(ctx, s.id)
	if err != nil {
		return err
	}
	defer session.Close()
	tables, err := session.Tables(ctx)
	if err != nil {
		return err
	}
	job := e.current()
	byName := make(map[control.CopyTableName]*copier.Table, len(tables))
	for _, t := range tables {
		byName[control.CopyTableName{Schema: t.Schema, Name: t.Name}] = t
	}
	for n, name := range job.Tables {
		t := byName[name]
		switch {
		case !e.wanted(name):
			t = nil
		case t == nil && !job.Keyed[n]:
			t = absent(name)
		}
		if err := e.preparePart(ctx, session, s, n, t); err != nil {
			return err
		}
	}
	err = session.AwaitWriters(ctx, func(who string) {
		e.shardWaits(s, fmt.Sprintf("shard %s: the copy waits for transactions that wrote before it began to follow the tables: %s", s.conf.Name, who))
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.listed, s.trouble = true, ""
	e.notify()
	return nil
}

// absent is a table without a key that a shard does not have. It is a part of the copy all the same: it may come while the
// others' rows are copied, and readers leave its changes out until a chunk of this shard tells them that from here on these count.
func absent(name control.CopyTableName) *copier.Table {
	return &copier.Table{Table: fold.Table{Schema: name.Schema, Name: name.Name}}
}

// preparePart makes the n-th part ready to be read. A nil table is none of this shard, or not any more.
func (e *Engine) preparePart(ctx context.Context, session *copier.Session, s *shard, n int, t *copier.Table) error {
	job := e.current()
	e.mu.Lock()
	p := s.byName[job.Tables[n]]
	done := p != nil && p.ledger.Done
	var order []string
	if p != nil {
		order = p.ledger.Order
	}
	e.mu.Unlock()
	switch {
	case t == nil && p == nil:
		return nil
	case t == nil:
		return e.finish(ctx, p)
	}
	own := *t
	if !job.Keyed[n] {
		own.Key = nil
	}
	if p == nil {
		return e.beginPart(ctx, session, s, n, &own)
	}
	if own.Key != nil && !done && slices.Equal(p.folded.Key, own.Key) && !slices.Equal(order, own.Order()) {
		return fmt.Errorf("the type or the collation of the key of table %s is not what it was when its copy began, so rows may be behind others now. Try: the former type again, or cdcctl remove-table and cdcctl add-table", p.name)
	}
	if !slices.Equal(p.folded.Key, own.Key) && !done {
		return fmt.Errorf("the key of table %s was (%v) when its copy began and is (%v). Try: the former key again, or cdcctl remove-table and cdcctl add-table", p.name, p.folded.Key, own.Key)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p.table = &own
	return nil
}

// beginPart makes the ledger of a part, and follows its table from here on.
func (e *Engine) beginPart(ctx context.Context, session *copier.Session, s *shard, n int, t *copier.Table) error {
	job := e.current()
	if job.Keyed[n] && t.Key == nil {
		return fmt.Errorf("table %s.%s has no key, as it had when its copy was planned. Try: the key again, or cdcctl remove-table and cdcctl add-table", t.Schema, t.Name)
	}
	ledger := &control.CopyTable{
		Job: job.ID, Shard: s.conf.Name, Schema: t.Schema, Name: t.Name, Keyed: job.Keyed[n], Key: t.Key,
		RowsEstimate: t.Rows, BytesEstimate: t.Bytes,
	}
	if ledger.Keyed {
		ledger.Order = t.Order()
		ranges, err := session.Split(ctx, t, e.conf.Sub.Copy.Parallel)
		if err != nil {
			return err
		}
		for _, r := range ranges {
			ledger.Ranges = append(ledger.Ranges, control.CopyRange{After: r.After, Through: r.Through})
		}
	}
	p := newPart(s, n, ledger)
	p.table = t
	if err := e.put(ctx, p, ledger); err != nil {
		return err
	}
	e.mu.Lock()
	s.install(p)
	e.notify()
	e.mu.Unlock()
	return e.at(ctx, LedgerMade)
}

// finish ends a part whose table is gone, on this shard or from the subscription. A chunk of it that is being published at
// this moment makes one of the two writers fail: then the capture begins anew.
func (e *Engine) finish(ctx context.Context, p *part) error {
	if err := e.await(ctx, func() bool { return p.coming == nil }); err != nil {
		return err
	}
	e.mu.Lock()
	ledger := *p.ledger
	e.mu.Unlock()
	if ledger.Done {
		return nil
	}
	ledger.Done, ledger.Intent = true, nil
	if err := e.put(ctx, p, &ledger); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p.ledger = &ledger
	e.dropStale()
	p.shard.tracker.Unfollow(p.folded)
	e.notify()
	return nil
}

// read copies what there is to read on a shard, with one session, until every part is in the stream.
func (e *Engine) read(ctx context.Context, s *shard) error {
	var session *copier.Session
	defer func() {
		if session != nil {
			session.Close()
		}
	}()
	for {
		c, err := e.next(ctx, s)
		if c == nil || err != nil {
			return err
		}
		if session == nil {
			session, err = e.open(ctx, s.id)
		}
		if err == nil {
			err = e.readChunk(ctx, session, c)
		}
		if err == nil {
			err = e.at(ctx, HighEmitted)
		}
		if err == nil {
			continue
		}
		e.mu.Lock()
		e.drop(c)
		e.mu.Unlock()
		switch {
		case ctx.Err() != nil || isFatal(err):
			return err
		case errors.Is(err, errAgain):
			continue
		case errors.Is(err, copier.ErrGone) && c.kind != ofAll:
			if err := e.finish(ctx, c.part); err != nil {
				return err
			}
		default:
			e.postpone(c.part, err.Error(), e.conf.RetryAfter)
		}
		if session != nil { // it may be the session that is broken
			session.Close()
			session = nil
		}
	}
}

// postpone leaves a part alone for a while, because of an error that is shown.
func (e *Engine) postpone(p *part, why string, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p.trouble, p.notBefore = why, time.Now().Add(wait)
	e.notify()
}

// next waits for something to read; nil: nothing is left.
func (e *Engine) next(ctx context.Context, s *shard) (*chunk, error) {
	for {
		e.mu.Lock()
		c, wait := s.pick(time.Now(), e.flying)
		done, changed := s.done(), e.changed
		e.mu.Unlock()
		if c != nil {
			c.id = fmt.Sprintf("%s-%d-%d", s.conf.Name, e.conf.Epoch, e.chunks.Add(1))
			return c, nil
		}
		if done {
			return nil, nil
		}
		if err := awaitFor(ctx, changed, wait); err != nil {
			return nil, err
		}
	}
}

// awaitFor waits for a change, for a time at most if it is not 0.
func awaitFor(ctx context.Context, changed <-chan struct{}, limit time.Duration) error {
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-changed:
	case <-timeout:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// flying counts the chunks of a range that are read and not published. The lock is held.
func (e *Engine) flying(p *part, at int) (n int) {
	for _, c := range e.pending {
		if c.part == p && c.kind == ofRange && c.at == at {
			n++
		}
	}
	return n
}

// errAgain says that nothing is wrong: the chunk has to be read once more.
var errAgain = errors.New("the chunk has to be read again")

// readChunk reads a chunk, and writes its mark behind it.
func (e *Engine) readChunk(ctx context.Context, session *copier.Session, c *chunk) error {
	if err := e.throttle(ctx); err != nil {
		return err
	}
	if err := e.memory.take(ctx, int64(e.conf.ChunkBytes)); err != nil {
		return err
	}
	c.took = int64(e.conf.ChunkBytes)
	if err := e.fill(ctx, session, c); err != nil {
		return err
	}
	if err := e.at(ctx, ChunkRead); err != nil {
		return err
	}
	if !e.expect(c) {
		return errAgain
	}
	high := mark.Copy{Token: e.conf.Sub.Incarnation, Kind: mark.High, Job: e.current().ID, Chunk: c.id}
	err := session.Emit(ctx, mark.CopyPrefix, high.Content())
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil && e.pending[c.id] == c {
		return err // if it was written after all, it means nothing
	}
	if c.kind == ofRange && !c.stale() {
		c.part.ranges[c.at].reading = false
		e.notify()
	}
	return nil
}

// fill reads the rows of a chunk.
func (e *Engine) fill(ctx context.Context, session *copier.Session, c *chunk) (err error) {
	p := c.part
	e.mu.Lock()
	if c.stale() {
		e.mu.Unlock()
		return errAgain
	}
	p.shard.tracker.Begin(c.id, p.folded)
	request := copier.Request{ID: c.id, Table: p.table, Rows: e.rowsMax(p), BytesMax: e.conf.ChunkBytes, File: e.file, Taken: func(s fold.Snapshot) {
		e.mu.Lock()
		defer e.mu.Unlock()
		p.shard.tracker.Taken(c.id, s)
	}}
	if c.kind == ofRange {
		request.Range = copier.Range{After: p.ranges[c.at].after, Through: p.ranges[c.at].through}
	}
	e.mu.Unlock()
	switch c.kind {
	case ofRange:
		c.result, err = session.Chunk(ctx, request)
	case ofKeys:
		c.result, err = session.Keys(ctx, c.id, request.Table, c.keys, request.File, request.Taken)
	case ofAll:
		c.result, err = whole(ctx, session, request)
	}
	if err != nil {
		return err
	}
	c.result.Table = p.folded
	c.bytes = int64(len(c.result.Body))
	e.memory.add(c.bytes - c.took)
	c.took = c.bytes
	if c.result.Content != nil {
		c.bytes = c.result.Content.Size()
	}
	e.charge(c.bytes)
	return nil
}

// whole reads a table without a key, which may come or go at any time: where there is none, that is what is read.
func whole(ctx context.Context, session *copier.Session, q copier.Request) (*copier.Result, error) {
	t, err := session.Describe(ctx, q.Table.Schema, q.Table.Name)
	var r *copier.Result
	switch {
	case err == nil:
		own := *t
		own.Key = nil
		r, err = session.Whole(ctx, q.ID, &own, q.File, q.Taken)
	case errors.Is(err, copier.ErrGone):
		r, err = session.Absent(ctx, q.ID, q.Table.Schema, q.Table.Name, q.Taken)
	}
	if errors.Is(err, copier.ErrGone) || errors.Is(err, copier.ErrThere) { // just now
		err = errAgain
	}
	return r, err
}

// rowsMax is how many rows a chunk of the part may have. Its bytes are limited too; a server that sorts or fetches many rows
// for few of them would do so for nothing. The lock is held.
func (e *Engine) rowsMax(p *part) int {
	size := p.rowBytes
	if size == 0 && p.ledger.RowsEstimate > 0 {
		size = p.ledger.BytesEstimate / p.ledger.RowsEstimate
	}
	return int(min(rowsMax, max(1, 2*int64(e.conf.ChunkBytes)/max(size, rowBytesMin))))
}

const (
	rowsMax     = 100_000
	rowBytesMin = 20
)

// throttle keeps to the rate of the subscription: it waits until what was read before is paid for. Between a chunk's snapshot and
// its mark nothing waits, since all changes of that time have to be noted.
func (e *Engine) throttle(ctx context.Context) error {
	if e.limiter == nil {
		return nil
	}
	return e.limiter.WaitN(ctx, 1)
}

// charge is for what was read.
func (e *Engine) charge(n int64) {
	if e.limiter == nil {
		return
	}
	now := time.Now()
	for burst := int64(e.limiter.Burst()); n > 0; n -= burst {
		e.limiter.ReserveN(now, int(min(n, burst)))
	}
}

// expect has a chunk's mark known before it is written. It says no if the chunk means nothing any more, or cannot be used.
func (e *Engine) expect(c *chunk) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := c.part
	switch {
	case c.stale():
		return false
	case !c.visible():
		p.notBefore = time.Now().Add(invisiblePause)
		return false
	}
	if c.result.Rows > 0 {
		p.rowBytes = max(1, c.bytes/int64(c.result.Rows))
	}
	if c.kind == ofRange {
		r := &p.ranges[c.at]
		r.ended = c.result.End
		if c.result.Last != nil {
			r.after = c.result.Last
		}
	}
	e.pending[c.id] = c
	return true
}

// invisiblePause is how long a transaction is given that is published and not visible yet: its second phase is under way.
const invisiblePause = 100 * time.Millisecond

// file makes a place for rows that are too large for memory, or too many.
func (e *Engine) file() (copier.File, error) {
	e.folderMu.Lock()
	defer e.folderMu.Unlock()
	if e.folder == nil {
		folder, err := spill.Open(e.conf.SpillDir, "copy-"+e.conf.Sub.Name, e.conf.Sub.SpillBytesMax)
		if err != nil {
			return nil, err
		}
		e.folder = folder
	}
	return e.folder.Create(nil)
}
