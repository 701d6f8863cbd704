package subscribe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"shardcdc/output/jetstream"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/wire"
)

// Options of Drop and SetState.
type Options struct {
	// Force forgets shards and targets that cannot be cleared; Dropped lists what is left behind.
	Force bool
	// Wait bounds how long the processes that work for the subscription may take to let go. Default 30 s.
	Wait time.Duration

	everything bool // also what says on a target what it lacks: cdc.skipped
}

const (
	defaultWait = 30 * time.Second
	pollEvery   = 100 * time.Millisecond
	// leaseTTL of the lease that Drop takes: it only has to outlive a moment without us.
	leaseTTL       = 5 * time.Second
	releaseTimeout = 2 * time.Second
)

func (o Options) wait() time.Duration {
	if o.Wait == 0 {
		return defaultWait
	}
	return o.Wait
}

// Dropped says what Drop did.
type Dropped struct {
	Removed []string `json:"removed"`
	Left    []string `json:"left,omitempty"` // with Force: what is still there, and where
}

// Drop removes a subscription and everything that Create made for it. It may be repeated: it goes on where the last one
// stopped. Dropped is right even with an error.
func Drop(ctx context.Context, bus *control.Bus, name string, o Options) (Dropped, error) {
	d := &drop{bus: bus, name: name, options: o}
	err := d.run(ctx)
	return d.result, err
}

type drop struct {
	bus     *control.Bus
	name    string
	options Options
	catalog *control.Catalog

	mu     sync.Mutex // shards and targets report at the same time
	result Dropped
}

func (d *drop) removed(what ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.result.Removed = append(d.result.Removed, what...)
}

func (d *drop) run(ctx context.Context) (err error) {
	if d.catalog, err = control.OpenCatalog(ctx, d.bus.JS, d.bus.Replicas); err != nil {
		return err
	}
	e, err := d.catalog.Get(ctx, d.name)
	if errors.Is(err, control.ErrNotFound) {
		return d.leftover(ctx, err)
	}
	if err != nil {
		return err
	}
	if e, err = setState(ctx, d.catalog, d.name, control.Dropping); err != nil {
		return err
	}
	lease, err := d.takeOver(ctx, e.Subscription)
	if err != nil {
		return err
	}
	err = d.clear(lease.Context, e.Subscription)
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if released := lease.Release(release); err == nil {
		err = released
	}
	return err
}

// leftover removes a stream without an entry, which a Create that lost its connection may have left.
func (d *drop) leftover(ctx context.Context, notFound error) error {
	deleted, err := jetstream.DeleteStream(ctx, d.bus.JS, d.name)
	if err != nil {
		return err
	}
	if !deleted {
		return notFound
	}
	d.removed("stream " + wire.StreamName(d.name))
	return nil
}

// takeOver waits until the node and the apply workers have let go, and holds the node's lease from then on.
func (d *drop) takeOver(ctx context.Context, sub *control.Subscription) (*control.Lease, error) {
	leases, err := control.OpenLeases(ctx, d.bus.JS, d.bus.Replicas, leaseTTL)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, d.options.wait())
	defer cancel()
	if err := awaitWorkersGone(waiting, d.bus, sub); err != nil {
		return nil, err
	}
	for {
		lease, err := leases.Acquire(ctx, control.CaptureLease(d.name), control.Owner{Node: "cdcctl drop-subscription", Since: time.Now().UTC()})
		if err != nil {
			return nil, err
		}
		if lease != nil {
			return lease, nil
		}
		if pause.For(waiting, pollEvery) != nil {
			owner, _, _ := leases.Holder(ctx, control.CaptureLease(d.name)) // only to name it
			return nil, late(ctx, "subscription %s: node %s has not let go within %s; the subscription stays in state dropping. Try: stop that node, then cdcctl drop-subscription %s again",
				d.name, owner.Node, d.options.wait(), d.name)
		}
	}
}

// clear removes everything, the entry last.
func (d *drop) clear(ctx context.Context, sub *control.Subscription) error {
	if err := errors.Join(d.clearShards(ctx, sub), d.clearTargets(ctx, sub)); err != nil {
		return fmt.Errorf("subscription %s stays in state dropping: %w\nTry: mend it and repeat cdcctl drop-subscription %s, or --force to forget what cannot be reached", d.name, err, d.name)
	}
	deleted, err := jetstream.DeleteStream(ctx, d.bus.JS, d.name)
	if err != nil {
		return err
	}
	if deleted {
		d.removed("stream " + wire.StreamName(d.name))
	}
	if err := d.catalog.Delete(ctx, d.name); err != nil {
		return err
	}
	d.removed("catalog entry " + d.name)
	return nil
}

func (d *drop) clearShards(ctx context.Context, sub *control.Subscription) error {
	if sub.Imported {
		return nil // they are elsewhere, and nothing was made there
	}
	return parallel(len(sub.Shards), func(i int) error {
		sh := &sub.Shards[i]
		removed, err := deprovisionAll(ctx, sub, sh)
		d.removed(removed...)
		return d.orLeave(ctx, err, "shard %s: %s", sh.Name, ownings(sub, sh))
	})
}

func (d *drop) clearTargets(ctx context.Context, sub *control.Subscription) error {
	return parallel(len(sub.Targets), func(i int) error {
		t := &sub.Targets[i]
		removed, err := forgetProgress(ctx, t, d.name, d.options.everything)
		d.removed(removed...)
		return d.orLeave(ctx, err, "target %s: the rows of %s in the tables of schema cdc", t.Name, d.name)
	})
}

// orLeave passes an error on, or with Force notes what is left behind. Everything is left when ctx ended.
func (d *drop) orLeave(ctx context.Context, err error, format string, args ...any) error {
	if err == nil || !d.options.Force || ctx.Err() != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.result.Left = append(d.result.Left, fmt.Sprintf(format, args...)+" ("+err.Error()+")")
	return nil
}

// ownings names what Create made on a shard.
func ownings(sub *control.Subscription, sh *control.Shard) string {
	var own []string
	if sh.OwnSlot {
		own = append(own, fmt.Sprintf("slot %q, which keeps WAL until it is dropped: SELECT pg_drop_replication_slot('%s')", sh.Slot, sh.Slot))
	}
	if sh.OwnPublication {
		own = append(own, "publication "+quoteAll(sh.Publications))
	}
	if sub.DDL != control.DDLIgnore {
		own = append(own, "event triggers "+quoteAll(ddlTriggers(sub)))
	}
	if len(own) == 0 {
		return "nothing of ours"
	}
	return strings.Join(own, "; ")
}
