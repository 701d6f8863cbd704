package dumper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
)

// Source is what to read, and from where.
type Source struct {
	Shard        pipeline.ShardID
	Name         string // the shard's name, for messages
	DSN          string // may hold ${VAR} references; expanded when connecting
	Slot         string // a logical slot of plugin pgoutput with two_phase on
	Publications []string
	Token        string       // of the subscription's marks in the shard's WAL; see package mark
	SystemID     string       // the server's system identifier; empty: not checked
	Timeline     int32        // 0: not checked
	Start        pipeline.LSN // everything that ends at or below is dealt with; the stream begins after it
	// HoldStart: Start is dealt with, but not for good yet. The slot keeps what it has until Confirm says so.
	HoldStart bool
}

// Sink takes what a Dumper reads. Offer and Probed come from different goroutines.
type Sink interface {
	// Offer hands over records in WAL order and how far the stream has come: every record of the shard that ends at
	// or below received has now been offered. The fragments are the sink's, the slice is until it returns. It may block as
	// long as there is no room; the dumper keeps the connection alive meanwhile. It is not called again before it returns. An error
	// ends Run: the records were not taken.
	Offer(ctx context.Context, shard pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error
	// Probed answers the probe with the number id: the shard's clock was read first, then the flushed WAL position.
	// Both were read after Probe was called. It must not block. An error ends Run.
	Probed(shard pipeline.ShardID, id uint64, clock pipeline.Timestamp, flushed pipeline.LSN) error
}

// Options tune a Dumper. The zero value of each field means its default.
type Options struct {
	ProbeInterval  time.Duration // shortest time between two probes; 1 ms
	NudgeAfter     time.Duration // a stream that stands still below a probed position this long is nudged; 250 ms
	Nudge          bool          // may write a logical message of about 100 bytes to get over it
	StatusInterval time.Duration // longest time between two status updates to the server; 1 s
	ConfirmDelay   time.Duration // shortest time between two status updates that carry only a confirmation; 100 ms
	PollInterval   time.Duration // time between two looks at the slot, for Status; 10 s
	ActiveWait     time.Duration // a slot in use by somebody else this long is fatal; 5 s
	// EvictAfter: a walsender of this program that is not this Dumper's own and holds the slot this long is ended. For
	// callers that know to be the only reader (by a lease): it is that of a node whose machine died or stands still, and
	// the server would notice only after wal_sender_timeout. 0: never.
	EvictAfter time.Duration
	SilenceMax time.Duration // a server that says nothing this long, although asked, is given up and dialled again; 60 s
	BackoffMin time.Duration // first wait before a reconnect; 100 ms
	BackoffMax time.Duration // longest wait before a reconnect; 5 s
	ReadBytes  int           // size of the read buffer; 256 kB
	// Limits of what is kept of transactions until they end, in memory and elsewhere; Spill takes the place of Limits.Spill.
	Limits pgoutput.Limits
	// Spill makes a place for a body that is too large for memory; nil: there is none. While a write to it blocks, the
	// connection is kept alive, as while Offer does; an error of it is fatal. ctx ends with Run, which waits for the write.
	Spill func(ctx context.Context) (pgoutput.Spill, error)
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.ProbeInterval, time.Millisecond)
	set(&o.NudgeAfter, 250*time.Millisecond)
	set(&o.StatusInterval, time.Second)
	set(&o.ConfirmDelay, 100*time.Millisecond)
	set(&o.PollInterval, 10*time.Second)
	set(&o.ActiveWait, 5*time.Second)
	set(&o.SilenceMax, time.Minute)
	set(&o.BackoffMin, 100*time.Millisecond)
	set(&o.BackoffMax, 5*time.Second)
	if o.ReadBytes == 0 {
		o.ReadBytes = 256 << 10
	}
	return o
}

// Dumper reads one shard. See the package's doc for its promises.
type Dumper struct {
	src  Source
	sink Sink
	opts Options

	wakeWriter chan struct{} // capacity 1: feedback has changed
	wakeProber chan struct{} // capacity 1: probes or stalled have changed

	// Owned by the session's reader; sessions follow each other.
	running     context.Context // ends with Run; set by it
	assembler   *pgoutput.Assembler
	resume      pipeline.LSN // End of the last record offered
	position    pipeline.LSN // of the stream: as received, but ahead of it until Offer returns
	formerPID   uint32       // our last walsender, which may linger
	wholeUntil  time.Time    // sessions that begin before do not stream
	activeSince time.Time    // since when somebody else has had the slot

	probing probing // owned by the prober

	mu       sync.Mutex
	status   Status
	inside   bool         // the server is in the middle of a transaction that it sends
	handed   pipeline.LSN // the highest position that Offer was called with
	busy     time.Time    // since when the reader has been at work (in Offer, or in a Spill); zero: it listens
	feedback feedback
	probes   []uint64 // not answered yet
	misuse   error    // a Confirm that cannot be right
	replies  uint64   // keepalives received
	heard    time.Time

	suspicion bool   // the server may be shutting down
	release   func() // ends the session, from any goroutine; nil: there is none
}

// New makes a Dumper. Run starts it.
func New(src Source, sink Sink, opts Options) *Dumper {
	opts = opts.withDefaults()
	confirmed := src.Start
	if src.HoldStart {
		confirmed = 0 // in a status update: nothing is confirmed
	}
	d := &Dumper{
		src: src, sink: sink, opts: opts,
		wakeWriter: make(chan struct{}, 1),
		wakeProber: make(chan struct{}, 1),
		resume:     src.Start, position: src.Start, handed: src.Start,
		status: Status{Shard: src.Shard, Name: src.Name, Slot: src.Slot, Received: src.Start, Confirmed: confirmed},
	}
	limits := opts.Limits
	if limits.Spill = nil; opts.Spill != nil {
		limits.Spill = func() (pgoutput.Spill, error) { return opts.Spill(d.running) }
	}
	d.assembler = pgoutput.New(src.Shard, limits)
	d.assembler.Token = src.Token
	return d
}

// Run reads until ctx ends or something happens that trying again cannot mend. It returns ctx.Err() or a
// *FatalError, and only after all its goroutines have ended. It may be called once.
func (d *Dumper) Run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	d.running = inner
	group.Go(func() error { return d.retry(inner, d.session, &d.status.Reconnects) })
	group.Go(func() error { return d.retry(inner, d.prober, nil) })
	err := group.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.State = Failed
	d.status.fail(err, time.Now())
	return err
}

// retry runs a session again and again until its error is fatal.
func (d *Dumper) retry(ctx context.Context, session func(context.Context) (bool, error), count *uint64) error {
	for attempt := 0; ; attempt++ {
		worked, err := session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if fatal := d.judge(err); fatal != nil {
			return fatal
		}
		if worked {
			attempt = 0
		}
		d.mu.Lock()
		d.status.fail(err, time.Now())
		if count != nil {
			*count++
			d.status.State = Backoff
		}
		d.mu.Unlock()
		if err := pause.For(ctx, d.backoff(attempt)); err != nil {
			return err
		}
	}
}

// backoff doubles from BackoffMin to BackoffMax, half of it by chance, so that the dumpers of many shards of one server
// do not come back at the same moment.
func (d *Dumper) backoff(attempt int) time.Duration {
	wait := d.opts.BackoffMin << min(attempt, 20)
	if wait > d.opts.BackoffMax || wait <= 0 {
		wait = d.opts.BackoffMax
	}
	return wait/2 + rand.N(wait/2+1)
}

// Confirm says that everything that ends at or below l is dealt with for good: the slot may forget it. It never goes
// back; a lower l is ignored. A position beyond what was offered is a fault of the caller and ends Run.
func (d *Dumper) Confirm(l pipeline.LSN) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l > d.handed && d.misuse == nil {
		d.misuse = fmt.Errorf("confirm %s: only %s was offered", l, d.handed)
	} else if l <= d.handed && l > d.status.Confirmed {
		d.status.Confirmed = l
		d.feedback.changed = true
	}
	signal(d.wakeWriter)
}

// Probe asks for a probe; sink.Probed answers it. It returns at once. A probe is never lost: it outlives broken
// connections. Probes asked for in the meantime are answered together.
func (d *Dumper) Probe(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.probes = append(d.probes, id)
	signal(d.wakeProber)
}

// signal wakes whoever waits for the channel, now or next time.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

var errEnded = errors.New("the server ended the stream")
