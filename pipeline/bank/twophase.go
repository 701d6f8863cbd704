package bank

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"shardcdc/pipeline/pause"
)

// A distributed transaction: what to do where. Parts are sorted by shard.
type distributed struct {
	gid   string
	parts []part
}

type part struct {
	shard int
	sql   string // without BEGIN and PREPARE
}

func (b *Bank) newGID(kind string) string {
	return fmt.Sprintf("bank_%s_%s_%d", b.run, kind, b.gids.Add(1))
}

// A coordinator runs two-phase commits over its own sessions, one per shard.
type coordinator struct {
	bank     *Bank
	sessions []*session
	rand     *rand.Rand
}

// prepare is the first phase. When it fails nothing of the transaction is left, or somebody will see to it.
func (c *coordinator) prepare(ctx context.Context, d *distributed) error {
	for i, p := range d.parts {
		_, err := c.sessions[p.shard].exec(ctx, fmt.Sprintf("BEGIN; %s; PREPARE TRANSACTION '%s'", p.sql, d.gid))
		if err == nil {
			continue
		}
		prepared := d.parts[:i]
		if broken(err) {
			prepared = d.parts[:i+1] // perhaps
		}
		c.finish(ctx, &distributed{gid: d.gid, parts: prepared}, false)
		return fmt.Errorf("prepare %s: %w", d.gid, err)
	}
	return nil
}

// commit is the second phase, in random order. From here on the transaction is committed, come what may; it returns whether
// that is done on every shard.
func (c *coordinator) commit(ctx context.Context, d *distributed) (done bool) {
	done = c.finish(ctx, d, true)
	c.bank.stats.transactions.Add(1)
	c.bank.stats.distributed.Add(1)
	return done
}

func (c *coordinator) rollback(ctx context.Context, d *distributed) {
	c.finish(ctx, d, false)
	c.bank.stats.rolledBack.Add(1)
}

// finish commits or rolls back every part; those that cannot be reached are left to the settler, and then it returns false.
func (c *coordinator) finish(ctx context.Context, d *distributed, commit bool) (done bool) {
	var left []part
	for _, i := range c.rand.Perm(len(d.parts)) {
		p := d.parts[i]
		if err := secondPhase(ctx, c.sessions[p.shard], d.gid, commit); err != nil {
			c.bank.conf.Log.Debug("second phase is left for later", "gid", d.gid, "error", err)
			left = append(left, p)
		}
	}
	if len(left) > 0 {
		c.bank.unsettled.add(&InDoubt{bank: c.bank, d: &distributed{gid: d.gid, parts: left}, commit: commit, counted: true})
	}
	return len(left) == 0
}

// secondPhase finishes one part. A part that is not there was finished before, by a statement whose answer was lost.
func secondPhase(ctx context.Context, s *session, gid string, commit bool) error {
	verb := "ROLLBACK"
	if commit {
		verb = "COMMIT"
	}
	_, err := s.exec(ctx, fmt.Sprintf("%s PREPARED '%s'", verb, gid))
	if hasCode(err, "42704") {
		return nil
	}
	return err
}

// InDoubt is a prepared transaction whose coordinator is gone.
type InDoubt struct {
	bank   *Bank
	d      *distributed
	commit bool      // what was decided
	due    time.Time // when somebody may finish it
	// counted: the statistics have it already; only its last parts are missing.
	counted bool
}

// GID is the name that the transaction has on each of its shards.
func (t *InDoubt) GID() string { return t.d.gid }

// Shards are the shards on which it is still in doubt.
func (t *InDoubt) Shards() []int {
	var shards []int
	for _, p := range t.d.parts {
		shards = append(shards, p.shard)
	}
	return shards
}

// Decide commits the transaction, or rolls it back, on the shards given, or on all that are left when none is. A shard may
// be decided once; all shards of a transaction the same way.
func (t *InDoubt) Decide(ctx context.Context, commit bool, shards ...int) error {
	all := t.bank.sessions()
	defer closeAll(all)
	var left []part
	for _, p := range t.d.parts {
		if len(shards) > 0 && !slices.Contains(shards, p.shard) {
			left = append(left, p)
			continue
		}
		if err := secondPhase(ctx, all[p.shard], t.d.gid, commit); err != nil {
			return fmt.Errorf("decide %s: %w", t.d.gid, err)
		}
	}
	t.d = &distributed{gid: t.d.gid, parts: left}
	switch {
	case len(left) > 0 || t.counted:
	case commit:
		t.bank.stats.transactions.Add(1)
		t.bank.stats.distributed.Add(1)
	default:
		t.bank.stats.rolledBack.Add(1)
	}
	return nil
}

// Abandon prepares a transfer between the given shards and leaves it: the caller decides. The transfer holds locks on
// accounts that the tellers never touch, and Settle leaves it alone.
func (b *Bank) Abandon(ctx context.Context, shards ...int) (*InDoubt, error) {
	c := &coordinator{bank: b, sessions: b.sessions(), rand: rand.New(rand.NewPCG(b.conf.Seed, 1))}
	defer closeAll(c.sessions)
	tr := &transfer{id: b.transfers.Add(1)}
	for k, shard := range shards {
		amount := int64(1)
		if k == 0 {
			amount = int64(1 - len(shards))
		}
		tr.sides = append(tr.sides, side{account: b.reserved(shard), amount: amount})
	}
	d := b.distribute(tr, held)
	if err := c.prepare(ctx, d); err != nil {
		return nil, err
	}
	b.stats.abandoned.Add(1)
	return &InDoubt{bank: b, d: d}, nil
}

// unsettled are transactions that somebody has to finish.
type unsettled struct {
	mu   sync.Mutex
	list []*InDoubt
}

func (u *unsettled) add(t *InDoubt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = append(u.list, t)
}

func (u *unsettled) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.list)
}

// take removes and returns those that are due.
func (u *unsettled) take(now time.Time) (due []*InDoubt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var later []*InDoubt
	for _, t := range u.list {
		if t.due.After(now) {
			later = append(later, t)
		} else {
			due = append(due, t)
		}
	}
	u.list = later
	return due
}

// settleSome finishes what is due, until ctx ends.
func (b *Bank) settleSome(ctx context.Context) error {
	for pause.For(ctx, 100*time.Millisecond) == nil {
		if err := b.settleDue(ctx, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// settleDue finishes transactions; those that cannot be reached stay on the list.
func (b *Bank) settleDue(ctx context.Context, now time.Time) error {
	var errs []error
	for _, t := range b.unsettled.take(now) {
		err := t.Decide(ctx, t.commit)
		if err == nil {
			continue
		}
		b.unsettled.add(t)
		if !broken(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Settle finishes everything that is in doubt: as decided, or else by rolling it back. No traffic may run. It tries until
// ctx ends.
func (b *Bank) Settle(ctx context.Context) error {
	for {
		err := b.settleDue(ctx, time.Now().Add(24*time.Hour))
		if err == nil && b.unsettled.len() == 0 {
			err = b.sweep(ctx)
		}
		if err == nil && b.unsettled.len() == 0 {
			return nil
		}
		if pause.For(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("bank: %d transactions are still in doubt: %w", b.unsettled.len(), errors.Join(err, context.Cause(ctx)))
		}
	}
}

// held is the kind of transactions that Abandon's caller decides.
const held = "held"

// sweep rolls back what was prepared by a statement whose answer was lost after its rollback had been tried in vain: the
// coordinator never decided to commit it, or it would be on the list.
func (b *Bank) sweep(ctx context.Context) error {
	all := b.sessions()
	defer closeAll(all)
	for _, s := range all {
		results, err := s.exec(ctx, fmt.Sprintf("SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, 'bank_%[1]s_') AND NOT starts_with(gid, 'bank_%[1]s_%[2]s_')", b.run, held))
		if err != nil {
			return err
		}
		for _, row := range results[0].Rows {
			if err := secondPhase(ctx, s, string(row[0]), false); err != nil {
				return err
			}
		}
	}
	return nil
}
