package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/wire"
)

// What to wait for.
const (
	published = "published"
	applied   = "applied"
)

// askEvery is how often wait asks for the status.
const askEvery = 20 * time.Millisecond

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
as cdcd does. A distributed transaction counts as committed when its second phase is done on any shard.

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
	switch {
	case e.State != control.Active:
		return fmt.Errorf("subscription %s is %s. Try: cdcctl resume %s", w.name, e.State, w.name)
	case w.what == applied && len(e.Targets) == 0:
		return fmt.Errorf("subscription %s has no target in the catalog, so nothing of it is applied. Try: --for published", w.name)
	}
	w.result = waited{Subscription: w.name, For: w.what}
	waiting, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	if err := w.mark(waiting); err != nil {
		return err
	}
	if err := w.poll(ctx, waiting, w.unpublished); err != nil || w.what == published {
		return err
	}
	if err := w.end(waiting); err != nil {
		return err
	}
	return w.poll(ctx, waiting, w.unapplied)
}

// mark asks every shard for a position behind everything committed there.
func (w *waiter) mark(ctx context.Context) error {
	lsns := make([]pipeline.LSN, len(w.sub.Shards))
	errs := make([]error, len(w.sub.Shards))
	var wait sync.WaitGroup
	for i, s := range w.sub.Shards {
		wait.Go(func() { lsns[i], errs[i] = subscribe.Mark(ctx, s.DSN) })
	}
	wait.Wait()
	w.result.Positions = map[string]pipeline.LSN{}
	for i, s := range w.sub.Shards {
		w.result.Positions[s.Name] = lsns[i]
		if errs[i] != nil {
			errs[i] = fmt.Errorf("shard %s: %w", s.Name, errs[i])
		}
	}
	return errors.Join(errs...)
}

// end notes the sequence of the stream's last transaction, which is behind all that is waited for.
func (w *waiter) end(ctx context.Context) error {
	s, err := w.bus.JS.Stream(ctx, wire.StreamName(w.name))
	if err != nil {
		return fmt.Errorf("stream %s: %w", wire.StreamName(w.name), err)
	}
	last, err := s.GetLastMsgForSubject(ctx, wire.Subject(w.name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // no transaction was ever published
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", wire.StreamName(w.name), err)
	}
	w.result.StreamSeq = pipeline.Seq(last.Sequence)
	return nil
}

// poll asks again and again what is missing, until nothing is.
func (w *waiter) poll(ctx, waiting context.Context, missing func(context.Context) ([]string, error)) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var last []string
	for {
		text, err := missing(waiting)
		if err != nil && waiting.Err() == nil {
			return err
		}
		if err == nil {
			if len(text) == 0 {
				return nil
			}
			last = text
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("subscription %s: not %s within %s; it waits for:\n  - %s\nTry: cdcctl status %s", w.name, w.what, w.timeout, strings.Join(last, "\n  - "), w.name)
		}
	}
}

// unpublished says what is missing in the stream, a sentence per cause.
func (w *waiter) unpublished(ctx context.Context) ([]string, error) {
	c, err := control.AskCapture(ctx, w.bus.NC, w.name)
	if errors.Is(err, control.ErrNobody) {
		return []string{"a node to run it: none does. Try: cdcd node, or cdcd all"}, nil
	}
	if err != nil {
		return nil, err
	}
	at := map[string]control.ShardStatus{}
	for _, s := range c.Shards {
		at[s.Name] = s
	}
	var missing []string
	for _, s := range w.sub.Shards {
		st, want := at[s.Name], w.result.Positions[s.Name]
		if st.Published >= want {
			continue
		}
		text := fmt.Sprintf("shard %s (%s): published up to %s, wanted %s", s.Name, st.State, st.Published, want)
		if st.Error != "" {
			text += ": " + st.Error
		}
		missing = append(missing, text)
	}
	if len(missing) > 0 {
		if c.Error != "" {
			missing = append(missing, "node "+c.Node+": "+c.Error)
		}
		missing = append(missing, c.WaitsFor...)
	}
	return missing, nil
}

// unapplied says what is missing on the targets.
func (w *waiter) unapplied(ctx context.Context) ([]string, error) {
	r, err := ask(ctx, w.bus, w.sub)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, a := range r.Apply {
		switch {
		case a.State == noWorker:
			missing = append(missing, "target "+a.Target+": no apply worker runs. Try: cdcd apply, or cdcd all")
		case a.AppliedSeq < w.result.StreamSeq:
			text := fmt.Sprintf("target %s (%s): applied up to stream sequence %d, wanted %d", a.Target, a.State, a.AppliedSeq, w.result.StreamSeq)
			if a.Error != "" {
				text += ": " + a.Error
			}
			missing = append(missing, text)
		}
	}
	return missing, nil
}
