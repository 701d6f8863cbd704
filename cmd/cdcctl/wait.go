package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/await"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/reading"
)

// What to wait for.
const (
	published = "published"
	applied   = "applied"
)

// waited is the JSON form of the result.
type waited struct {
	Subscription string                  `json:"subscription"`
	For          string                  `json:"for"`
	Positions    map[string]pipeline.LSN `json:"positions"` // per shard: published at least up to here
	StreamSeq    pipeline.Seq            `json:"stream_seq,omitempty"`
	Seconds      float64                 `json:"seconds"`
}

func waitCommand() *cobra.Command {
	var (
		nats    cli.NATS
		out     output
		what    string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "wait NAME --for published|applied",
		Short: "Wait until all that was committed on every shard before the call is published, or applied",
		Long: `Returns when every transaction that was committed on any shard before the call is in the stream (published), or on
every target as well (applied): to read one's own writes on a target, to cut over, in tests.

It writes one logical message of about 100 bytes on each shard and flushes it, which flushes all commits before it,
asynchronous ones too; the message's position is what is waited for. So it needs the shards' passwords where it runs,
as cdcd does. A distributed transaction counts as committed when its second phase is done on any shard. Of an imported
subscription it waits until what was imported before the call is applied.

Exit codes: 0 everything is there; 1 not within the timeout, and the message says what is waited for; 2 called in a
wrong way.`,
		Example: "  cdcctl wait bank --for published\n  cdcctl wait bank --for applied --timeout 5m && psql -h replica …",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if what != published && what != applied {
				return cli.Usagef("--for %q: what to wait for is not clear. Try: --for published or --for applied", what)
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				w := &waiter{bus: bus, catalog: catalog, name: args[0], what: what, timeout: timeout}
				began := time.Now()
				if err := w.run(ctx); err != nil {
					return err
				}
				w.result.Seconds = time.Since(began).Seconds()
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), w.result)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Everything committed before is %s, after %s.\n", what, time.Since(began).Round(time.Millisecond))
				return err
			})
		},
	}
	cmd.Flags().StringVar(&what, "for", "", "what to wait for; published: it is in the stream; applied: and on every target")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this time")
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

type waiter struct {
	bus     *control.Bus
	catalog *control.Catalog
	name    string
	what    string
	timeout time.Duration

	sub    *control.Subscription
	result waited
}

func (w *waiter) run(ctx context.Context) error {
	e, err := w.catalog.Get(ctx, w.name)
	if err != nil {
		return err
	}
	w.sub = e.Subscription
	switch err := w.sub.Captured(); {
	case err != nil && w.what == published:
		return err
	case e.State != control.Active:
		return fmt.Errorf("subscription %s is %s. Try: cdcctl resume %s", w.name, e.State, w.name)
	case w.what == applied && len(e.Targets) == 0:
		return fmt.Errorf("subscription %s has no target in the catalog, so nothing of it is applied. Try: --for published", w.name)
	}
	w.result = waited{Subscription: w.name, For: w.what}
	waiting, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	err = w.wait(waiting)
	var late *await.NotYet
	if errors.As(err, &late) && ctx.Err() == nil {
		return fmt.Errorf("subscription %s: not %s within %s; it waits for:\n  - %s\nTry: cdcctl status %s",
			w.name, w.what, w.timeout, strings.Join(late.Missing, "\n  - "), w.name)
	}
	return err
}

func (w *waiter) wait(ctx context.Context) error {
	if w.sub.Imported { // what was committed is what was imported
		s, err := reading.Live(ctx, w.bus.JS, w.name)
		if err != nil {
			return err
		}
		_, w.result.StreamSeq = s.Borders()
		return w.applied(ctx)
	}
	marks, err := await.Marks(ctx, w.sub)
	if err != nil {
		return err
	}
	w.result.Positions = map[string]pipeline.LSN{}
	for i, s := range w.sub.Shards {
		w.result.Positions[s.Name] = marks[i]
	}
	w.result.StreamSeq, err = await.Published(ctx, w.bus, w.sub, marks)
	if err != nil || w.what == published {
		return err
	}
	return w.applied(ctx)
}

func (w *waiter) applied(ctx context.Context) error {
	for _, t := range w.sub.Targets {
		if err := await.Applied(ctx, w.bus, w.sub, t.Name, w.result.StreamSeq); err != nil {
			return err
		}
	}
	return nil
}
