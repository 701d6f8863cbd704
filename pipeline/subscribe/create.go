package subscribe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/output/jetstream"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// undoTimeout bounds the undoing of what a failed Create made, after its own context has ended perhaps.
const undoTimeout = 30 * time.Second

// Create makes a subscription: slots and publications on the shards, the stream, the catalog entry. It makes all of it or
// nothing; the error says what could not be taken back, if anything. Notes are what the checks found and did not mind.
func Create(ctx context.Context, bus *control.Bus, spec Spec) (*control.Subscription, Notes, error) {
	spec = spec.withDefaults()
	if err := spec.Validate(); err != nil {
		return nil, nil, err
	}
	catalog, err := control.OpenCatalog(ctx, bus.JS, bus.Replicas)
	if err != nil {
		return nil, nil, err
	}
	if err := absent(ctx, catalog, spec.Name); err != nil {
		return nil, nil, err
	}
	notes, faults := split(Check(ctx, bus, spec))
	if ctx.Err() != nil {
		return nil, notes, ctx.Err()
	}
	if faults != nil {
		return nil, notes, fmt.Errorf("subscription %s cannot be created, nothing was changed: %w", spec.Name, faults)
	}
	c := &creation{bus: bus, catalog: catalog, spec: &spec, sub: spec.subscription()}
	if err := c.run(ctx); err != nil {
		return nil, notes, c.undo(ctx, err)
	}
	return c.sub, append(notes, c.notes...), nil
}

func absent(ctx context.Context, catalog *control.Catalog, name string) error {
	_, err := catalog.Get(ctx, name)
	switch {
	case errors.Is(err, control.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("subscription %s exists already. Try: cdcctl status %s, or another name", name, name)
}

// creation is a Create under way and what it has made.
type creation struct {
	bus     *control.Bus
	catalog *control.Catalog
	spec    *Spec
	sub     *control.Subscription
	notes   Notes

	made   []bool // per shard: provisioned by us
	stream bool   // made, or perhaps made
	job    string // of the copy: written, or perhaps written
	entry  bool   // written, or perhaps written
}

func (c *creation) run(ctx context.Context) error {
	if err := c.provision(ctx); err != nil {
		return err
	}
	if err := remember(ctx, c.sub); err != nil {
		return err
	}
	return c.finish(ctx)
}

// finish makes the stream, the order to copy and, at last, the entry.
func (c *creation) finish(ctx context.Context) error {
	c.stream = true
	err := jetstream.CreateStream(ctx, c.bus.JS, jetstream.StreamConfig{
		Subscription: c.sub.Name, Incarnation: c.sub.Incarnation, Replicas: c.bus.Replicas, BytesMax: c.spec.StreamBytesMax,
	})
	if err != nil {
		return err
	}
	if err := c.orderCopy(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.entry = true
	return c.catalog.Create(ctx, c.sub) // the commit point
}

// orderCopy writes the job of the initial copy. The stream is ours, so nobody else is making a subscription of this name:
// jobs that are there were left behind by a Create that died.
func (c *creation) orderCopy(ctx context.Context) error {
	copies, err := control.OpenCopies(ctx, c.bus.JS, c.bus.Replicas)
	if err != nil {
		return err
	}
	if err := copies.Forget(ctx, c.sub.Name); err != nil || !c.spec.CopyData {
		return err
	}
	job := control.NewCopyJob(control.CopyInitial, nil, c.spec.TargetRows, c.spec.By)
	c.job = job.ID
	return copies.PutJob(ctx, c.sub.Name, job)
}

// undoJob removes the order to copy.
func (c *creation) undoJob(ctx context.Context) []error {
	if c.job == "" {
		return nil
	}
	copies, err := control.OpenCopies(ctx, c.bus.JS, c.bus.Replicas)
	if err == nil {
		err = copies.DeleteJob(ctx, c.sub.Name, c.job)
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// provision prepares all shards at the same time.
func (c *creation) provision(ctx context.Context) error {
	c.made = make([]bool, len(c.sub.Shards))
	notes := make([]Notes, len(c.sub.Shards))
	err := parallel(len(c.sub.Shards), func(i int) (err error) {
		notes[i], err = provisionAll(ctx, c.spec, c.sub, &c.sub.Shards[i])
		c.made[i] = err == nil
		return err
	})
	for _, n := range notes {
		c.notes = append(c.notes, n...)
	}
	return err
}

// undo takes back what this call made, the last thing first, and returns why with what is left behind.
func (c *creation) undo(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		why = fmt.Errorf("interrupted: %w", why)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	left := c.undoEntry(ctx)
	left = append(left, c.undoJob(ctx)...)
	left = append(left, c.undoStream(ctx)...)
	left = append(left, parallel(len(c.sub.Shards), func(i int) error {
		if !c.made[i] {
			return nil
		}
		_, err := deprovisionAll(ctx, c.sub, &c.sub.Shards[i])
		return err
	}))
	if err := errors.Join(left...); err != nil {
		return fmt.Errorf("create subscription %s: %w\nNot everything that had been made could be removed again:\n%w", c.sub.Name, why, err)
	}
	return fmt.Errorf("create subscription %s: %w\nEverything that had been made was removed again", c.sub.Name, why)
}

// undoEntry removes the entry if it is there although writing it failed: the answer may have been lost.
func (c *creation) undoEntry(ctx context.Context) []error {
	if !c.entry {
		return nil
	}
	e, err := c.catalog.Get(ctx, c.sub.Name)
	switch {
	case errors.Is(err, control.ErrNotFound):
		return nil
	case err == nil && e.Incarnation != c.sub.Incarnation:
		return nil // somebody else was faster
	case err == nil:
		err = c.catalog.Delete(ctx, c.sub.Name)
	}
	if err != nil {
		return []error{fmt.Errorf("catalog entry %s: %w. Try: cdcctl drop-subscription %s", c.sub.Name, err, c.sub.Name)}
	}
	return nil
}

// undoStream removes the stream if it is the one that we made.
func (c *creation) undoStream(ctx context.Context) []error {
	if !c.stream {
		return nil
	}
	name := wire.StreamName(c.sub.Name)
	s, err := c.bus.JS.Stream(ctx, name)
	switch {
	case errors.Is(err, natsjs.ErrStreamNotFound):
		return nil
	case err == nil && s.CachedInfo().Config.Metadata[wire.MetadataIncarnation] != c.sub.Incarnation:
		return nil
	case err == nil:
		_, err = jetstream.DeleteStream(ctx, c.bus.JS, c.sub.Name)
	}
	if err != nil {
		return []error{fmt.Errorf("stream %s: %w. Try: cdcctl drop-subscription %s", name, err, c.sub.Name)}
	}
	return nil
}

// quoteAll lists names.
func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(quoted, ", ")
}
