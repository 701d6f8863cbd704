package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
)

func dropCommand() *cobra.Command {
	var (
		nats    cli.NATS
		out     output
		options subscribe.Options
		dryRun  bool
	)
	cmd := &cobra.Command{
		Use:   "drop-subscription NAME",
		Short: "Remove a subscription and everything that was made for it",
		Long: `Removes a subscription: waits until its node and its apply workers have let go, drops the slots and publications that
create-subscription made (given ones stay), forgets the progress on the targets, deletes the stream and the catalog
entry, and prints what was removed and what was kept. The targets' data stays, and so does the table cdc.skipped of a
target that was told to leave something out.

With --dry-run it only lists what would be removed and what would stay (and exits with 1 if it could not look everywhere).

When a shard or a target cannot be reached, the subscription stays in state dropping and the command fails; repeat it,
and it goes on. With --force it forgets what cannot be reached and lists what is left behind, and where.

Exit codes: 0 removed; 1 not everything was removed, or there is no such subscription; 2 called in a wrong way.`,
		Example: "  cdcctl drop-subscription bank --dry-run\n  cdcctl drop-subscription bank\n  cdcctl drop-subscription bank --force   # a shard is gone for good",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				if dryRun {
					p, err := subscribe.PreviewDrop(ctx, bus, args[0])
					return shownPreview(cmd, p, asJSON, err)
				}
				before, err := catalog.Get(ctx, args[0])
				if err != nil && !errors.Is(err, control.ErrNotFound) {
					return err
				}
				var kept []string
				if before.Subscription != nil {
					if kept, err = keptSkips(ctx, bus, before.Subscription); err != nil {
						return err
					}
				}
				dropped, err := subscribe.Drop(ctx, bus, args[0], options)
				if err == nil && before.Subscription != nil {
					err = record(ctx, bus, before.Subscription, control.Event{Kind: control.Dropped, Why: leftBehind(dropped)})
				}
				result := dropResult{Dropped: dropped, Kept: kept}
				if printed := result.print(cmd, asJSON); err == nil {
					err = printed
				}
				if err == nil && !asJSON {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "Subscription %s is gone.\n", args[0])
				}
				return err
			})
		},
	}
	addLeaving(cmd, &options, &dryRun)
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

func leftBehind(d subscribe.Dropped) string {
	if len(d.Left) == 0 {
		return ""
	}
	return "left behind: " + strings.Join(d.Left, "; ")
}

// keptSkips says on which targets cdc.skipped stays: it is the only place there that says what they lack.
func keptSkips(ctx context.Context, bus *control.Bus, sub *control.Subscription) (kept []string, err error) {
	for _, t := range sub.Targets {
		n, err := skipped(ctx, bus, sub.Name, t.Name)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			kept = append(kept, fmt.Sprintf("target %s: %s, with %s that it was told to leave out", t.Name, skippedPlace(sub, t.Name), plural(n, "transaction")))
		}
	}
	return kept, nil
}

// dropResult is the JSON form of the result.
type dropResult struct {
	subscribe.Dropped
	Kept []string `json:"kept,omitempty"` // what is there on purpose
}

func (d *dropResult) print(cmd *cobra.Command, asJSON bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		if d.Removed == nil {
			d.Removed = []string{}
		}
		return writeJSON(w, d)
	}
	for _, r := range d.Removed {
		fmt.Fprintln(w, "removed", r)
	}
	for _, k := range d.Kept {
		fmt.Fprintln(w, "kept", k)
	}
	for _, l := range d.Left {
		fmt.Fprintln(w, "LEFT BEHIND", l)
	}
	return nil
}
