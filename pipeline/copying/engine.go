package copying

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pattern"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/spill"
)

// Config of an Engine. Zero values mean the defaults.
type Config struct {
	Sub    *control.Subscription
	Copies *control.Copies
	Epoch  pipeline.Seq // the writer's fencing token: chunks of two nodes never have the same name
	// SpillDir is where tables without a key are kept until they are published.
	SpillDir string
	Log      *slog.Logger

	ChunkBytes     int           // rows in a chunk; 4 MB, less where memory_bytes_max is small, or the rate
	SplitBytes     int64         // a larger table is read in several ranges at the same time; 64 MB
	RetryAfter     time.Duration // pause after an error of a shard; 2 s
	NewTablesEvery time.Duration // between two looks for tables that match and are not published; 10 s

	// At, if set, is called at each Point, in the middle of the work; its error is that of the step. For tests.
	At func(context.Context, Point) error
}

const (
	chunkBytes     = 4 << 20
	chunkBytesMin  = 64 << 10
	splitBytes     = 64 << 20
	memoryBytes    = 64 << 20 // of chunks that are read and not published, per subscription
	trackBytes     = 64 << 20 // of changes noted, per subscription
	trackBytesMin  = 1 << 20
	retryAfter     = 2 * time.Second
	newTablesEvery = 10 * time.Second
)

// Engine copies the tables of one subscription, beside the capture whose part it is; see the package doc.
type Engine struct {
	conf     Config
	chosen   []pattern.Pattern // of the subscription; empty: whatever is published
	memory   *budget
	limiter  *rate.Limiter // nil: no limit
	watching atomic.Bool   // there is something to look for in what is published
	chunks   atomic.Uint64 // counted, for their names

	// writing is held while a job or a ledger is read, changed and written.
	writing sync.Mutex

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced when something below changed
	jobs      []control.CopyJob
	ended     map[string]bool  // jobs that ended here
	job       *control.CopyJob // at work, or the last one; never changed in place
	shards    []*shard
	pending   map[string]*chunk // read; their marks are on their way
	counting  counting
	trouble   string   // of the job itself: what it waits for
	newTables []string // that match, and are not published

	// Of the goroutine that publishes: what becomes true once the batch is durable.
	settling []settlement

	folderMu sync.Mutex
	folder   *spill.Folder
}

// New makes an engine for one attempt to capture. Recover comes first, then Run beside Pass and Published, then Close.
func New(c Config) (*Engine, error) {
	shards := len(c.Sub.Shards)
	memory := min(memoryBytes, c.Sub.MemoryBytesMax/2)
	if c.ChunkBytes == 0 {
		c.ChunkBytes = int(min(chunkBytes, max(chunkBytesMin, memory/int64(shards*c.Sub.Copy.Parallel))))
	}
	if n := c.Sub.Copy.Rate; n > 0 {
		c.ChunkBytes = int(min(int64(c.ChunkBytes), max(chunkBytesMin, n)))
	}
	if c.SplitBytes == 0 {
		c.SplitBytes = splitBytes
	}
	if c.RetryAfter == 0 {
		c.RetryAfter = retryAfter
	}
	if c.NewTablesEvery == 0 {
		c.NewTablesEvery = newTablesEvery
	}
	e := &Engine{conf: c, memory: newBudget(memory), changed: make(chan struct{}), pending: map[string]*chunk{}, ended: map[string]bool{}}
	if n := c.Sub.Copy.Rate; n > 0 {
		e.limiter = rate.NewLimiter(rate.Limit(n), int(min(n, chunkBytes)))
	}
	for _, text := range c.Sub.Tables {
		p, err := pattern.Parse(text)
		if err != nil {
			return nil, err
		}
		e.chosen = append(e.chosen, p)
	}
	e.reset()
	return e, nil
}

// reset forgets all parts; the lock is held, or not needed yet.
func (e *Engine) reset() {
	e.shards = nil
	limit := max(trackBytesMin, int(min(trackBytes, e.conf.Sub.MemoryBytesMax/4))/len(e.conf.Sub.Shards))
	for i := range e.conf.Sub.Shards {
		e.shards = append(e.shards, &shard{
			id: pipeline.ShardID(i), conf: &e.conf.Sub.Shards[i], tracker: fold.New(limit), byName: map[control.CopyTableName]*part{},
		})
	}
}

// Close frees what is left. Nothing else may run.
func (e *Engine) Close() error {
	e.folderMu.Lock()
	defer e.folderMu.Unlock()
	if e.folder == nil {
		return nil
	}
	return e.folder.Close()
}

// Run works on the jobs, one after the other, until ctx ends. An error is one that the capture has to end with.
func (e *Engine) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.watchJobs(ctx) })
	group.Go(func() error { return e.work(ctx) })
	group.Go(func() error { return e.watchNewTables(ctx) })
	return group.Wait()
}

// watchJobs keeps the list of jobs.
func (e *Engine) watchJobs(ctx context.Context) error {
	for {
		err := e.conf.Copies.Watch(ctx, e.conf.Sub.Name, func() error {
			jobs, err := e.conf.Copies.Jobs(ctx, e.conf.Sub.Name)
			if err != nil {
				return err
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			e.jobs = jobs
			e.notify()
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.conf.Log.Warn("cannot follow the copy jobs; trying again", "error", err)
		if err := pause.For(ctx, time.Second); err != nil {
			return err
		}
	}
}

// work takes up one job after the other.
func (e *Engine) work(ctx context.Context) error {
	for {
		if err := e.await(ctx, e.adopt); err != nil {
			return err
		}
		if err := e.execute(ctx); err != nil {
			return fmt.Errorf("copy job %s: %w", e.current().ID, err)
		}
	}
}

// adopt makes the next job the one at work. The lock is held.
func (e *Engine) adopt() bool {
	if e.job != nil && !e.job.State.Ended() {
		return true
	}
	if e.job != nil {
		e.ended[e.job.ID] = true // the list may be older than what we know
	}
	j := next(e.jobs, e.ended)
	if j == nil {
		e.watching.Store(false)
		return false
	}
	e.take(j)
	return true
}

// next is the job to work on: one that has begun, else the oldest that has not ended.
func next(jobs []control.CopyJob, ended map[string]bool) (first *control.CopyJob) {
	for i := range jobs {
		j := &jobs[i]
		switch {
		case j.State.Ended() || ended[j.ID]:
		case j.State != control.CopyRequested:
			return j
		case first == nil:
			first = j
		}
	}
	return first
}

// take makes a job the one at work. The lock is held, or not needed yet.
func (e *Engine) take(j *control.CopyJob) {
	e.job = j
	e.reset()
	e.counting = counting{}
	e.watching.Store(!j.State.Ended())
}

// notify wakes who awaits a change. The lock is held.
func (e *Engine) notify() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// await returns once ok holds, which is asked with the lock held, after every change.
func (e *Engine) await(ctx context.Context, ok func() bool) error {
	for {
		e.mu.Lock()
		done, changed := ok(), e.changed
		e.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Engine) current() *control.CopyJob {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.job
}

// waitsFor shows what holds the job up; empty: nothing does.
func (e *Engine) waitsFor(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trouble = text
}

// retry does something until it succeeds, showing what is wrong meanwhile. A fatal error ends it.
func (e *Engine) retry(ctx context.Context, do func() error) error {
	for {
		err := do()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || isFatal(err) {
			e.waitsFor("")
			return err
		}
		e.waitsFor(err.Error())
		if err := pause.For(ctx, e.conf.RetryAfter); err != nil {
			return err
		}
	}
}

// fatalError ends the capture: what is known here is not what is written down.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func isFatal(err error) bool {
	var f fatalError
	return errors.As(err, &f)
}

// at is a Point of the work.
func (e *Engine) at(ctx context.Context, p Point) error {
	if e.conf.At == nil {
		return nil
	}
	if err := e.conf.At(ctx, p); err != nil {
		return fatalError{err}
	}
	return nil
}

// Point is a place in the work where a process may die.
type Point string

// The points, in the order of a job.
const (
	Planned        Point = "planned"         // the tables are in the job
	BeginEmitted   Point = "begin emitted"   // into the WAL
	BeginIntended  Point = "begin intended"  // it is about to be published
	BeginPublished Point = "begin published" // the job does not say so yet
	TablesJoined   Point = "tables joined"   // publications were altered, the job does not say so yet
	LedgerMade     Point = "ledger made"     // the first of a shard
	ChunkRead      Point = "chunk read"      // its mark is not written
	HighEmitted    Point = "high emitted"    // its mark is
	AgainWritten   Point = "again written"   // rows with another key are in the ledger; the update is not in the stream
	ChunkFolded    Point = "chunk folded"    // its mark came, nothing is written
	ChunkIntended  Point = "chunk intended"  // it is about to be published
	ChunkPublished Point = "chunk published" // the ledger has only the intent
	EndEmitted     Point = "end emitted"
	EndIntended    Point = "end intended"
	EndPublished   Point = "end published"
)

// Points are all of them.
var Points = []Point{
	Planned, BeginEmitted, BeginIntended, BeginPublished, TablesJoined, LedgerMade, ChunkRead, HighEmitted,
	AgainWritten, ChunkFolded, ChunkIntended, ChunkPublished, EndEmitted, EndIntended, EndPublished,
}
