package subscribe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/dumper"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// Preview is what Drop or Uninstall would do.
type Preview struct {
	Remove  []string `json:"would_remove"`
	Keep    []string `json:"would_keep,omitempty"`
	Unknown []string `json:"unknown,omitempty"` // could not be looked at, and why
}

func (p *Preview) add(q Preview) {
	p.Remove, p.Keep, p.Unknown = append(p.Remove, q.Remove...), append(p.Keep, q.Keep...), append(p.Unknown, q.Unknown...)
}

// PreviewDrop lists what Drop would remove of a subscription, and changes nothing.
func PreviewDrop(ctx context.Context, bus *control.Bus, name string) (Preview, error) {
	catalog, err := control.OpenCatalog(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return Preview{}, err
	}
	e, err := catalog.Get(ctx, name)
	if err != nil {
		return Preview{}, err
	}
	return preview(ctx, bus, e.Subscription, false)
}

func preview(ctx context.Context, bus *control.Bus, sub *control.Subscription, everything bool) (all Preview, err error) {
	shards := sub.Shards
	if sub.Imported {
		shards = nil // they are elsewhere
	}
	parts := make([]Preview, len(shards)+len(sub.Targets))
	var wait sync.WaitGroup
	for i := range shards {
		wait.Go(func() { parts[i] = previewShard(ctx, sub, &shards[i]) })
	}
	for i := range sub.Targets {
		wait.Go(func() { parts[len(shards)+i] = previewTarget(ctx, &sub.Targets[i], sub.Name, everything) })
	}
	wait.Wait()
	for _, p := range parts {
		all.add(p)
	}
	name := wire.StreamName(sub.Name)
	s, err := bus.JS.Stream(ctx, name)
	switch {
	case err == nil:
		state := s.CachedInfo().State
		all.Remove = append(all.Remove, fmt.Sprintf("stream %s, %d messages, %d bytes", name, state.Msgs, state.Bytes))
	case !errors.Is(err, natsjs.ErrStreamNotFound):
		return all, fmt.Errorf("look at stream %s: %w", name, err)
	}
	copies, err := control.OpenCopies(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return all, err
	}
	jobs, err := copies.Jobs(ctx, sub.Name)
	if err != nil {
		return all, err
	}
	if len(jobs) > 0 {
		all.Remove = append(all.Remove, fmt.Sprintf("%d copy jobs of %s and their ledgers", len(jobs), sub.Name))
	}
	all.Remove = append(all.Remove, "catalog entry "+sub.Name)
	return all, nil
}

func previewShard(ctx context.Context, sub *control.Subscription, sh *control.Shard) (p Preview) {
	about := "shard " + sh.Name
	unknown := func(err error) Preview {
		p.Unknown = append(p.Unknown, about+": "+err.Error())
		return p
	}
	db, err := open(ctx, sh.DSN)
	if err != nil {
		return unknown(err)
	}
	defer db.hangUp()
	s, err := db.slot(ctx, sh.Slot)
	if err != nil {
		return unknown(err)
	}
	if s.exists {
		p.sort(sh.OwnSlot, about+": slot "+sh.Slot)
	}
	there, err := db.publications(ctx, sh.Publications)
	if err != nil {
		return unknown(err)
	}
	for _, name := range there {
		p.sort(sh.OwnPublication, about+": publication "+name)
	}
	installed, err := dumper.InspectDDL(ctx, ddlSpec(sub, sh))
	if err != nil {
		return unknown(err)
	}
	for _, what := range installed {
		p.Remove = append(p.Remove, about+": "+what)
	}
	return p
}

// sort puts something to what goes, or to what stays because it was given.
func (p *Preview) sort(own bool, what string) {
	if own {
		p.Remove = append(p.Remove, what)
	} else {
		p.Keep = append(p.Keep, what+", which was given")
	}
}

func previewTarget(ctx context.Context, t *control.Target, subscription string, everything bool) (p Preview) {
	if isMySQL(t) {
		return previewMySQL(ctx, t, subscription, everything)
	}
	about := "target " + t.Name
	if isFolder(t) {
		return Preview{Keep: []string{about + ": its files"}}
	}
	db, err := open(ctx, t.DSN)
	if err != nil {
		return Preview{Unknown: []string{about + ": " + err.Error()}}
	}
	defer db.hangUp()
	err = pgx.BeginTxFunc(ctx, db.Conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		there, err := made(ctx, tx, subscription)
		if err != nil {
			return err
		}
		f, _, drop := forget(there, about, subscription, everything)
		p.Remove, p.Keep = f.removed, f.kept
		for _, m := range drop {
			p.Remove = append(p.Remove, about+": table cdc."+m.name)
		}
		var others int
		err = tx.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'cdc' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relname <> ALL ($1)`, targetTablesMade).Scan(&others)
		if err == nil && others == 0 && len(there) > 0 && len(drop) == len(there) {
			p.Remove = append(p.Remove, about+": schema cdc")
		}
		return err
	})
	if err != nil {
		p.Unknown = append(p.Unknown, about+": "+err.Error())
	}
	return p
}

// Uninstall removes everything that was ever made for any subscription: all of them with what Drop keeps on targets, streams
// that a Create left behind, and what is in JetStream besides. It may be repeated, and finds nothing to do then.
func Uninstall(ctx context.Context, bus *control.Bus, o Options) (all Dropped, err error) {
	entries, err := everything(ctx, bus)
	if err != nil {
		return all, err
	}
	o.everything = true
	for _, e := range entries {
		d, err := Drop(ctx, bus, e.Name, o)
		all.Removed, all.Left = append(all.Removed, d.Removed...), append(all.Left, d.Left...)
		if err != nil {
			return all, err
		}
	}
	streams, err := ownStreams(ctx, bus)
	if err != nil {
		return all, err
	}
	for _, name := range streams {
		if err := bus.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, natsjs.ErrStreamNotFound) {
			return all, fmt.Errorf("delete stream %s: %w", name, err)
		}
		all.Removed = append(all.Removed, "stream "+name)
	}
	removed, err := control.DeleteStores(ctx, bus.JS)
	all.Removed = append(all.Removed, removed...)
	return all, err
}

// PreviewUninstall lists what Uninstall would remove, and changes nothing.
func PreviewUninstall(ctx context.Context, bus *control.Bus) (all Preview, err error) {
	entries, err := everything(ctx, bus)
	if err != nil {
		return all, err
	}
	var known []string
	for _, e := range entries {
		p, err := preview(ctx, bus, e.Subscription, true)
		if err != nil {
			return all, err
		}
		all.add(p)
		known = append(known, wire.StreamName(e.Name))
	}
	streams, err := ownStreams(ctx, bus)
	if err != nil {
		return all, err
	}
	for _, name := range streams {
		if !slices.Contains(known, name) {
			all.Remove = append(all.Remove, "stream "+name)
		}
	}
	stored, err := control.Stored(ctx, bus.JS)
	all.Remove = append(all.Remove, stored...)
	return all, err
}

// everything lists the subscriptions, without making a catalog.
func everything(ctx context.Context, bus *control.Bus) ([]control.Entry, error) {
	if there, err := control.HasCatalog(ctx, bus.JS); err != nil || !there {
		return nil, err
	}
	catalog, err := control.OpenCatalog(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return nil, err
	}
	return catalog.List(ctx)
}

// ownStreams lists the streams that were made for subscriptions.
func ownStreams(ctx context.Context, bus *control.Bus) (names []string, err error) {
	streams := bus.JS.ListStreams(ctx)
	for s := range streams.Info() {
		if s.Config.Metadata[wire.MetadataIncarnation] != "" {
			names = append(names, s.Config.Name)
		}
	}
	if err := streams.Err(); err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	slices.Sort(names)
	return names, nil
}
