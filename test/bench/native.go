package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// native is PostgreSQL's own subscriptions, one for each shard, into one database.
type native struct {
	commit    string // synchronous_commit of the apply workers
	binary    bool
	streaming string // on, parallel; empty: off
}

func (n *native) Name() string {
	name := "native commit=" + n.commit
	if n.binary {
		name += " binary"
	}
	if n.streaming != "" {
		name += " streaming=" + n.streaming
	}
	return name
}

func (*native) Reads() Backing { return Slot }

func (n *native) Drain(ctx context.Context, b *Backlog, slot string) (d Drain, err error) {
	name := "native_" + slot
	target, err := b.makeTarget(ctx, name)
	if err != nil {
		return d, err
	}
	defer func() {
		err = errors.Join(err, n.drop(context.WithoutCancel(ctx), b, target, slot), b.dropTarget(context.WithoutCancel(ctx), name))
	}()
	streaming := n.streaming
	if streaming == "" {
		streaming = "off"
	}
	for i := range b.Shards {
		source, err := n.source(b.dsn(i))
		if err != nil {
			return d, err
		}
		if err := execute(ctx, target, fmt.Sprintf(
			"CREATE SUBSCRIPTION %s CONNECTION '%s' PUBLICATION %s WITH (copy_data = false, enabled = false, create_slot = false, slot_name = '%s', synchronous_commit = '%s', binary = %v, streaming = %s)",
			subscription(slot, i), source, publication, slot, n.commit, n.binary, streaming)); err != nil {
			return d, err
		}
	}
	return n.measure(ctx, b, target, slot)
}

// source is the DSN that a subscription is given.
func (n *native) source(dsn string) (string, error) {
	u, err := url.Parse(dsn)
	if err == nil && n.streaming != "" {
		u.User = url.User(streamer)
	}
	return u.String(), err
}

func subscription(slot string, shard int) string { return fmt.Sprintf("%s_%d", slot, shard) }

func (n *native) measure(ctx context.Context, b *Backlog, target, slot string) (d Drain, err error) {
	watching := watchSenders(ctx, b, slot)
	for i := range b.Shards {
		if err := execute(ctx, target, "ALTER SUBSCRIPTION "+subscription(slot, i)+" ENABLE"); err != nil {
			_, _, watchErr := watching.stop()
			return d, errors.Join(err, watchErr)
		}
	}
	law := watchLaw(ctx, b.Law, target) // Both bear being looked at; native subscriptions of several shards break some laws.
	err = b.awaitMarkers(ctx, target)
	ended := time.Now()
	seen, lawErr := law.stop()
	workers, usageErr := n.workers(ctx, target)
	sameErr := watching.same(ctx, b, slot)
	began, sent, watchErr := watching.stop()
	if err := errors.Join(err, lawErr, usageErr, sameErr, watchErr); err != nil {
		return d, err
	}
	d = between(began, ended)
	d.Looks, d.Wrong = seen.all, seen.wrong
	d.Processes["walsender"], d.Processes["apply worker"] = sent, workers
	return d, b.check(ctx, target)
}

// workers is what the apply workers took.
func (n *native) workers(ctx context.Context, target string) (Usage, error) {
	return backends(ctx, target, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_subscription WHERE pid IS NOT NULL")
}

// drop leaves the slots, as every contender does.
func (n *native) drop(ctx context.Context, b *Backlog, target, slot string) error {
	var errs []error
	for i := range b.Shards {
		name := subscription(slot, i)
		errs = append(errs, execute(ctx, target, "ALTER SUBSCRIPTION "+name+" DISABLE", "ALTER SUBSCRIPTION "+name+" SET (slot_name = NONE)", "DROP SUBSCRIPTION "+name))
	}
	return errors.Join(errs...)
}

// awaitMarkers waits until a target shows the last marker of every shard.
func (b *Backlog) awaitMarkers(ctx context.Context, target string) error {
	return until(ctx, target, "the end of the backlog is on the target", "SELECT count(*) = $1 FROM "+markerTable+" WHERE n = 2", []any{b.Shards}, nil)
}
