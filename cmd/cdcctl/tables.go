package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/subscribe"
)

// someTables wants a name and at least one table.
func someTables(cmd *cobra.Command, args []string) error {
	if len(args) < 2 {
		return cli.Usagef("want a NAME and at least one table, as schema.table or a pattern. Try: %s --help", cmd.CommandPath())
	}
	return nil
}

// splitTables takes lists apart: a,b is two tables.
func splitTables(args []string) []string {
	var all nameList
	for _, a := range args {
		_ = all.Set(a) // takes everything
	}
	return all
}

func addTableCommand() *cobra.Command {
	var (
		nats       cli.NATS
		out        output
		copyData   bool
		noWait     bool
		targetRows string
	)
	cmd := &cobra.Command{
		Use:   "add-table NAME SCHEMA.TABLE…",
		Short: "Let tables join a subscription while it runs, with the rows that they hold",
		Long: `Adds tables, or all that match patterns like app.order_*, to a running subscription. First everything is checked that
can be checked, as create-subscription does, for these tables: they have to be on every target. A target that cannot be
reached from here is a warning. Then a node adds them to the publication of every shard that
has them, and copies their rows while everything else flows; they join at one CSN, which is printed. Its node begins anew
for a moment, and loses nothing.

Only for publications that create-subscription made. Of a given one its owner does ALTER PUBLICATION … ADD TABLE on every
shard, and then cdcctl resync copies the rows. With --output json: subscription, tables, job.

Exit codes: 0 the tables have joined (with --no-wait or --copy-data=false: will); 1 not, and the message says why; 2 called
in a wrong way.`,
		Example: `  cdcctl add-table bank public.orders public.order_lines
  cdcctl add-table bank 'app.*,-app.scratch' --no-wait
  cdcctl add-table bank public.log --copy-data=false`,
		Args: someTables,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := subscribe.TablesSpec{Subscription: args[0], Tables: splitTables(args[1:]), CopyData: copyData, TargetRows: targetRows, By: person()}
			return changeTables(cmd, &nats, &out, !noWait && copyData, control.TablesAdded, func(ctx context.Context, bus *control.Bus) (subscribe.TablesChange, string, error) {
				change, notes, err := subscribe.AddTables(ctx, bus, spec)
				printNotes(cmd, notes)
				if copyData {
					return change, "will join subscription %s once their rows are copied. See: cdcctl status %s", err
				}
				return change, "joined subscription %s: their changes flow from now on, rows that were there are not copied. See: cdcctl status %s", err
			})
		},
	}
	cmd.Flags().BoolVar(&copyData, "copy-data", true, "copy the rows that the tables hold; false: only what changes from now on")
	addTargetRows(cmd.Flags(), &targetRows, mark.TargetFail)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when the copy is ordered, not when every target has all rows")
	cli.TypedOnly(cmd.Flags(), "copy-data", "if-target-has-rows")
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

func removeTableCommand() *cobra.Command {
	var (
		nats cli.NATS
		out  output
	)
	cmd := &cobra.Command{
		Use:   "remove-table NAME SCHEMA.TABLE…",
		Short: "Let tables leave a subscription while it runs",
		Long: `Takes tables, or all that match patterns, out of a running subscription: out of the publication on every shard. What was
committed on a shard before that moment still arrives. Rows on the targets stay as they are. A copy of such a table that
runs is ended, and its rows on the targets are incomplete then. Its node begins anew for a moment, and loses nothing.

A pattern like public.* goes on to match other tables: an exclusion is added for those that left, so that
--follow-new-tables does not bring them back; add-table does. Only for publications that create-subscription made.

When a shard cannot be reached the command fails; repeat it, and it goes on.

Exit codes: 0 the tables have left; 1 not everywhere; 2 called in a wrong way.`,
		Example: "  cdcctl remove-table bank public.audit\n  cdcctl remove-table bank 'app.tmp_*'",
		Args:    someTables,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := subscribe.TablesSpec{Subscription: args[0], Tables: splitTables(args[1:]), By: person()}
			return changeTables(cmd, &nats, &out, false, control.TablesRemoved, func(ctx context.Context, bus *control.Bus) (subscribe.TablesChange, string, error) {
				change, err := subscribe.RemoveTables(ctx, bus, spec)
				return change, "left subscription %s; their rows on the targets stay. See: cdcctl status %s", err
			})
		},
	}
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

func resyncCommand() *cobra.Command {
	var (
		nats       cli.NATS
		out        output
		tables     nameList
		noWait     bool
		targetRows string
	)
	cmd := &cobra.Command{
		Use:   "resync NAME --table SCHEMA.TABLE…",
		Short: "Copy tables of a subscription anew, in place, while it runs",
		Long: `Copies tables once more while everything else flows: after somebody changed a target by hand, or when a table was added
to a given publication. By default each target empties the table first (--if-target-has-rows truncate), so readers there
miss rows until they have come again; with merge copied rows take the place of those with the same key, and rows that the
shards do not have stay. (Few rows that differ are mended faster by cdcctl verify --repair.) With --output json:
subscription, tables, job.

Exit codes: 0 the tables are as on the shards again (with --no-wait: will be); 1 not, and the message says why; 2 called in a
wrong way.`,
		Example: "  cdcctl resync bank --table public.accounts\n  cdcctl resync bank --table 'public.*' --if-target-has-rows merge --no-wait",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(tables) == 0 {
				return cli.Usagef("no table is named. Try: --table schema.table, or a pattern like 'public.*'")
			}
			spec := subscribe.TablesSpec{Subscription: args[0], Tables: tables, TargetRows: targetRows, By: person()}
			return changeTables(cmd, &nats, &out, !noWait, control.Resynced, func(ctx context.Context, bus *control.Bus) (subscribe.TablesChange, string, error) {
				change, notes, err := subscribe.Resync(ctx, bus, spec)
				printNotes(cmd, notes)
				return change, "will be copied anew by subscription %s. See: cdcctl status %s", err
			})
		},
	}
	cmd.Flags().Var(&tables, "table", "tables or patterns like public.*, with commas between or repeated; - in front excludes")
	cmd.Flags().StringVar(&targetRows, "if-target-has-rows", mark.TargetTruncate, "truncate: the tables are emptied first; merge: copied rows take the place of those with the same key, others stay")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when the copy is ordered, not when every target has all rows")
	cli.TypedOnly(cmd.Flags(), "table", "if-target-has-rows")
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

// changeTables changes the tables of a subscription, writes that into the history, says so, and waits for the copy.
func changeTables(cmd *cobra.Command, nats *cli.NATS, out *output, wait bool, kind control.EventKind,
	do func(context.Context, *control.Bus) (change subscribe.TablesChange, said string, err error),
) error {
	asJSON, err := out.json()
	if err != nil {
		return err
	}
	return session(cmd, nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
		change, said, err := do(ctx, bus)
		if err != nil {
			return err
		}
		e, err := catalog.Get(ctx, change.Subscription)
		if err != nil {
			return err
		}
		if err := record(ctx, bus, e.Subscription, control.Event{Kind: kind, Why: change.Names()}); err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), change)
		} else {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s "+said+"\n", change.Names(), change.Subscription, change.Subscription)
		}
		if err != nil || !wait {
			return err
		}
		return awaitCopy(ctx, cmd, bus, e.Subscription, change.Job, asJSON)
	})
}
