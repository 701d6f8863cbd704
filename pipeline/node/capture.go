package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"shardcdc/dumper"
	"shardcdc/dumper/pgoutput"
	"shardcdc/joiner"
	"shardcdc/joiner/gid"
	"shardcdc/joiner/merge"
	"shardcdc/output/jetstream"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/shape"
	"shardcdc/pipeline/spill"
)

// What the stages are told, exported for who wires the same stages to measure them.
const (
	UnitBytes     = 512 << 10 // row data in a unit; a larger transaction is a unit of its own
	FragmentBytes = 512       // what a fragment takes in memory besides its row data, measured
	DatesBehind   = 64 << 20  // less of WAL than this is read in a second or two: then a probe's position is near enough
)

const evictAfter = time.Second // we have the lease and the stream: whoever else reads the slot is dead, frozen or fenced

// Durability says what an acknowledgement of the NATS server is worth.
type Durability string

const (
	// AskServer: ask it. One that does not tell is treated as lazy; one that says it is lazy is refused, until the
	// operator says LazyAcks.
	AskServer Durability = "ask"
	// DurableAcks: the server syncs before it acknowledges (sync_interval: always).
	DurableAcks Durability = "always"
	// LazyAcks: the server syncs now and then. Positions are confirmed to the slots lazyDelay later, so that what
	// a power failure takes from the stream can be read again.
	LazyAcks Durability = "lazy"
)

// capture runs one subscription until an error. It is made anew for each attempt.
type capture struct {
	node      *Node
	sub       *control.Subscription
	report    *captureReport
	form      form
	shaper    *shape.Shaper // nil: tables are as they are
	joiner    *joiner.Joiner
	pub       *jetstream.Publisher
	dumpers   []*dumper.Dumper
	later     later // LazyAcks: positions that may be confirmed later
	copying   *copying.Engine
	retention retention
	spill     *spill.Folder // bodies that memory has no room for
}

// sink hands what a dumper reads to the joiner.
type sink struct{ *joiner.Joiner }

// run takes the stream over, and captures until an error. First start and recovery are the same.
func (c *capture) run(ctx context.Context) (err error) {
	if c.shaper, err = newShaper(c.sub); err != nil {
		return err
	}
	if c.form, err = newForm(c.sub, room{c.node.bus.BatchMax(), jetstream.MessageBytes(c.node.bus.NC)}, c.shaper); err != nil {
		return err
	}
	conf := jetstream.Config{
		Subscription: c.sub.Name, Incarnation: c.sub.Incarnation, Node: c.node.conf.Name, Format: c.sub.Format,
		BatchMax: c.node.bus.BatchMax(), Encoder: c.form.Encoder, Watermark: c.form.watermark, Stalled: c.report.stalled,
	}
	if c.sub.Retain != 0 {
		conf.Keep = c.obsolete
	}
	pub, at, ok, err := jetstream.Open(ctx, c.node.bus.NC, c.node.bus.JS, conf)
	if err != nil {
		return err
	}
	c.pub = pub
	if !ok {
		at = firstCheckpoint(c.sub)
	}
	c.shaper.Resume(at.Last)
	if c.spill, err = spill.Open(c.node.spillDir, "capture-"+c.sub.Name, c.sub.SpillBytesMax); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.spill.Close()) }()
	if err := c.prepareCopy(ctx, &at, !ok); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.copying.Close()) }()
	c.form.resume(inStream(c.sub.Shape, c.copying.Unkeyed()))
	if err := c.assemble(at); err != nil {
		return err
	}
	if c.node.conf.Durability == LazyAcks {
		c.later.add(time.Now(), safe(at)) // what was read may not be synced either
	}
	c.report.start(c, at.Last)
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range c.dumpers {
		group.Go(func() error { return d.Run(ctx) })
	}
	group.Go(func() error { return c.publish(ctx) })
	group.Go(func() error { return c.copying.Run(ctx) })
	group.Go(func() error { return c.watchClocks(ctx) })
	group.Go(func() error { return c.watchRetention(ctx) })
	if c.node.conf.Durability == LazyAcks {
		group.Go(func() error { return c.confirmLater(ctx) })
	}
	return group.Wait()
}

// prepareCopy finds out where the copy of tables stands. On a new stream its begin may be the first transaction: at moves on.
func (c *capture) prepareCopy(ctx context.Context, at *pipeline.Checkpoint, fresh bool) (err error) {
	conf := c.node.conf.copying
	conf.Sub, conf.Copies, conf.Epoch = c.sub, c.node.copies, c.pub.Epoch()
	conf.NewTablesEvery = c.node.conf.NewTables
	conf.SpillDir, conf.Log = c.node.spillDir, c.node.conf.Log.With("subscription", c.sub.Name)
	if c.copying, err = copying.New(conf); err != nil {
		return err
	}
	first, err := c.copying.Recover(ctx, *at, fresh)
	if err != nil || first == nil {
		return err
	}
	if err := c.shaper.Apply(first); err != nil {
		return err
	}
	if err := c.pub.Publish(ctx, first); err != nil {
		return err
	}
	*at = first.Checkpoint
	return c.copying.Published(ctx)
}

// firstCheckpoint is where a new stream begins: the positions that the slots were made at.
func firstCheckpoint(sub *control.Subscription) pipeline.Checkpoint {
	var at pipeline.Checkpoint
	for _, s := range sub.Shards {
		at.Shards = append(at.Shards, pipeline.ShardCheckpoint{Through: s.Start})
	}
	return at
}

// assemble makes the joiner and the dumpers, which begin where the checkpoint says.
func (c *capture) assemble(at pipeline.Checkpoint) error {
	if len(at.Shards) != len(c.sub.Shards) {
		return fmt.Errorf("the stream's checkpoint is of %d shards, subscription %s has %d. Try: cdcctl drop-subscription %s and create it again", len(at.Shards), c.sub.Name, len(c.sub.Shards), c.sub.Name)
	}
	var user []gid.Rule
	for _, r := range c.sub.GIDRules {
		user = append(user, gid.Rule{Pattern: r.Pattern, Template: r.Template})
	}
	rules, err := gid.New(user)
	if err != nil {
		return err
	}
	conf := merge.Config{
		Shards: len(c.sub.Shards), MaxClockSkew: time.Duration(c.sub.MaxClockSkew), GlobalID: rules.Global,
		Start: at, BytesMax: int(c.sub.MemoryBytesMax), FragmentBytes: FragmentBytes, DatesBehind: DatesBehind,
		BatchMax: c.form.unitMessages, Messages: c.form.messages, Watermarks: c.form.watermark != nil, Alone: copying.Alone,
	}
	if c.pub.Replicas() == 1 {
		conf.Singly = c.form.singly
	}
	ask := func(shard pipeline.ShardID, probe uint64) { c.dumpers[shard].Probe(probe) }
	if c.joiner, err = joiner.New(conf, ask); err != nil {
		return err
	}
	c.joiner.Spill = c.moveOut
	for i, s := range c.sub.Shards {
		c.dumpers = append(c.dumpers, dumper.New(dumper.Source{
			Shard: pipeline.ShardID(i), Name: s.Name, DSN: s.DSN, Slot: s.Slot, Publications: s.Publications, Token: c.sub.Incarnation,
			SystemID: s.SystemID, Timeline: s.Timeline, Start: at.Shards[i].Safe(),
			HoldStart: c.node.conf.Durability == LazyAcks,
		}, sink{c.joiner}, dumper.Options{
			Nudge: !c.node.conf.NoNudge, ProbeInterval: c.node.conf.ProbeInterval, EvictAfter: evictAfter,
			Limits: Limits(c.sub.MemoryBytesMax, len(c.sub.Shards)),
			Spill:  func(ctx context.Context) (pgoutput.Spill, error) { return c.file(ctx, pipeline.ShardID(i)) },
		}))
	}
	return nil
}

// publish is the loop behind the joiner. While one unit is on its way the next one fills up in the joiner.
func (c *capture) publish(ctx context.Context) error {
	for {
		batch, err := c.joiner.Next(ctx, c.form.unitBytes, c.node.conf.Heartbeat)
		if err != nil {
			return err
		}
		if err := c.agree(ctx, &batch); err != nil {
			return err
		}
		c.report.publishes(&batch)
		if err := c.copying.Pass(ctx, &batch); err != nil {
			return err
		}
		if err := c.shaper.Apply(&batch); err != nil {
			return err
		}
		if err := c.pub.Publish(ctx, &batch); err != nil {
			return err
		}
		for _, tx := range batch.Transactions {
			tx.Release()
		}
		c.confirm(c.joiner.Durable(&batch.Checkpoint))
		c.report.published(&batch, c.pub.LastSeq())
		if err := c.copying.Published(ctx); err != nil {
			return err
		}
		if err := c.trim(ctx); err != nil {
			return err
		}
		if c.form.unitMessages > 0 {
			if err := pause.For(ctx, linger(&batch, c.form.filled(&batch), time.Now())); err != nil {
				return err
			}
		}
	}
}

// confirm passes positions on to the slots, when they may be.
func (c *capture) confirm(lsns []pipeline.LSN) {
	if c.node.conf.Durability == LazyAcks {
		c.later.add(time.Now(), lsns)
		return
	}
	c.pass(lsns)
}

func (c *capture) pass(lsns []pipeline.LSN) {
	for i, l := range lsns {
		c.dumpers[i].Confirm(l)
	}
}

// confirmLater passes on what was held back. It does not wait for the next unit: there may be none for long.
func (c *capture) confirmLater(ctx context.Context) error {
	tick := time.NewTicker(lazyStep)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			c.pass(c.later.due(now))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// streams says whether every shard is connected and verified.
func (c *capture) streams() bool {
	for _, d := range c.dumpers {
		if s := d.Status().State; s != dumper.Streaming && s != dumper.Waiting {
			return false
		}
	}
	return true
}
