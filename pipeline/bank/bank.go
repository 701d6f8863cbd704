package bank

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/pause"
)

// Config of a Bank. The zero value of each field but Shards means its default.
type Config struct {
	Shards    []string      // DSNs
	Accounts  int           // over all shards; 1000
	Opening   int64         // each account's first balance; 1000
	Tellers   int           // how many work at the same time; 6
	PerSecond float64       // transactions of all tellers together; 0: as fast as they can
	Markers   time.Duration // time between the beginnings of two markers; 0: none
	// AbandonEvery: one in so many distributed transfers is left by its coordinator between the phases, and finished
	// after InDoubt by somebody else; 0: none.
	AbandonEvery int
	InDoubt      time.Duration // 3 s
	Seed         uint64        // of every choice; the order of events is the servers'
	Log          *slog.Logger  // broken connections and the like, at debug level; nil: nobody
}

func (c *Config) setDefaults() {
	if c.Accounts == 0 {
		c.Accounts = 1000
	}
	if c.Opening == 0 {
		c.Opening = 1000
	}
	if c.Tellers == 0 {
		c.Tellers = 6
	}
	if c.InDoubt == 0 {
		c.InDoubt = 3 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
}

// Bank makes the traffic.
type Bank struct {
	conf  Config
	run   string // part of every gid: two banks on the same shards do not meet
	pacer pacer
	meter Meter

	transfers atomic.Int64 // the last transfer's number
	gids      atomic.Int64
	noteIDs   atomic.Int64
	reserves  atomic.Int64
	marker    int64 // the last marker that was acknowledged; owned by Run
	stats     counters
	unsettled unsettled
}

// New makes a bank; nothing is connected yet.
func New(c Config) *Bank {
	c.setDefaults()
	b := &Bank{conf: c, run: fmt.Sprintf("%08x", rand.Uint32())}
	b.pacer.every = 0
	if c.PerSecond > 0 {
		b.pacer.every = time.Duration(float64(time.Second) / c.PerSecond)
	}
	return b
}

// Stats counts what the bank did, as far as it was acknowledged.
type Stats struct {
	Transactions int64 // committed, the distributed ones included
	Distributed  int64 // over two shards or more, by two-phase commit
	RolledBack   int64 // after PREPARE
	Abandoned    int64 // by their coordinator between the two phases
	InDoubt      int64 // of these, not finished yet
	GaveWay      int64 // waited too long for a row, and were undone
	Broken       int64 // connections
	Markers      int64
}

type counters struct {
	transactions, distributed, rolledBack, abandoned, gaveWay, broken, markers atomic.Int64
}

// Stats is what was done so far.
func (b *Bank) Stats() Stats {
	c := &b.stats
	return Stats{
		Transactions: c.transactions.Load(), Distributed: c.distributed.Load(), RolledBack: c.rolledBack.Load(),
		Abandoned: c.abandoned.Load(), InDoubt: int64(b.unsettled.len()), GaveWay: c.gaveWay.Load(), Broken: c.broken.Load(), Markers: c.markers.Load(),
	}
}

// Meter says how long markers took to be seen.
func (b *Bank) Meter() *Meter { return &b.meter }

// Total is the money in the bank.
func (b *Bank) Total() int64 { return int64(b.conf.Accounts) * b.conf.Opening }

// sessions makes a session to every shard.
func (b *Bank) sessions() []*session {
	all := make([]*session, len(b.conf.Shards))
	for i, dsn := range b.conf.Shards {
		all[i] = &session{name: fmt.Sprintf("shard %d", i), dsn: dsn}
	}
	return all
}

func closeAll(all []*session) {
	for _, s := range all {
		s.close()
	}
}

func (b *Bank) shardOf(account int64) int { return int(account % int64(len(b.conf.Shards))) }

// Load opens the accounts, in one distributed transaction, so that a target has none or all of them.
func (b *Bank) Load(ctx context.Context) error {
	values := make([][]string, len(b.conf.Shards))
	for id := int64(1); id <= int64(b.conf.Accounts); id++ {
		shard := b.shardOf(id)
		values[shard] = append(values[shard], fmt.Sprintf("(%d, 'owner %d', %d, now())", id, id, b.conf.Opening))
	}
	d := &distributed{gid: b.newGID("load")}
	for shard, rows := range values {
		if len(rows) == 0 {
			return fmt.Errorf("load the bank: %d accounts are too few for %d shards", b.conf.Accounts, len(b.conf.Shards))
		}
		d.parts = append(d.parts, part{shard: shard, sql: "INSERT INTO accounts VALUES " + strings.Join(rows, ",")})
	}
	c := &coordinator{bank: b, sessions: b.sessions(), rand: rand.New(rand.NewPCG(b.conf.Seed, 0))}
	defer closeAll(c.sessions)
	if err := c.prepare(ctx, d); err != nil {
		return fmt.Errorf("load the bank: %w", err)
	}
	c.commit(ctx, d)
	return b.Settle(ctx)
}

// Run makes traffic until ctx ends, and then finishes what is in doubt; it returns nil then. An error that is not about a
// connection or a lock ends it earlier.
func (b *Bank) Run(ctx context.Context) error {
	group, traffic := errgroup.WithContext(ctx)
	for i := range b.conf.Tellers {
		group.Go(func() error { return newTeller(b, i).run(traffic) })
	}
	if b.conf.Markers > 0 {
		group.Go(func() error { return b.mark(traffic) })
	}
	group.Go(func() error { return b.settleSome(traffic) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("bank: %w", err)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return b.Settle(ending)
}

// pacer gives out starting times at a steady rate to whoever asks. Time that nobody used is not made up for beyond burst.
type pacer struct {
	every time.Duration
	mu    sync.Mutex
	next  time.Time
}

const burst = 100 * time.Millisecond

// wait returns false when ctx ends.
func (p *pacer) wait(ctx context.Context) bool {
	if p.every == 0 {
		return ctx.Err() == nil
	}
	p.mu.Lock()
	if oldest := time.Now().Add(-burst); p.next.Before(oldest) {
		p.next = oldest
	}
	at := p.next
	p.next = p.next.Add(p.every)
	p.mu.Unlock()
	return pause.For(ctx, time.Until(at)) == nil
}
