package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
)

func historyCommand() *cobra.Command {
	var (
		nats cli.NATS
		out  output
	)
	cmd := &cobra.Command{
		Use:   "history [NAME]",
		Short: "Show what people and nodes did to a subscription, or to all",
		Long: `Lists what happened, the newest last: created, altered, paused, resumed, dropped, skipped, repaired, by whom (user@host of
the cdcctl that did it); which process took over capturing or replaying, from whom and why; and the errors that stopped
it, a transaction that a target refuses too, with its CSN. What people did is kept for ever, also when the subscription is dropped; of what processes did the last 200 of
each kind. With --output json: an array of events.

Exit codes: 0 shown; 1 NATS cannot be reached; 2 called in a wrong way.`,
		Example: "  cdcctl history\n  cdcctl history bank\n  cdcctl history bank -o json | jq '.[] | select(.kind == \"skipped\")'",
		Args:    cli.MaybeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, _ *control.Catalog) error {
				history, err := control.OpenHistory(ctx, bus.JS, bus.Replicas)
				if err != nil {
					return err
				}
				events, err := history.Read(ctx, name)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), events)
				}
				return printHistory(cmd, events)
			})
		},
	}
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

func printHistory(cmd *cobra.Command, events []control.Event) error {
	if len(events) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "Nothing happened yet.")
		return err
	}
	lines := []string{cells("WHEN", "SUBSCRIPTION", "WHAT", "BY", "DETAILS")}
	for _, e := range events {
		lines = append(lines, cells(moment(e.At), e.Subscription, strings.ReplaceAll(string(e.Kind), "_", " "), e.By, details(e)))
	}
	return table(cmd.OutOrStdout(), lines...)
}

// details is the rest of an event on one line.
func details(e control.Event) string {
	var parts []string
	if e.Target != "" {
		parts = append(parts, "target "+e.Target)
	}
	if e.CSN != 0 {
		parts = append(parts, "csn "+e.CSN.String())
	}
	if e.From != "" {
		parts = append(parts, "from "+e.From)
	}
	if e.Why != "" {
		parts = append(parts, oneLine(e.Why))
	}
	for _, table := range slices.Sorted(maps.Keys(e.Repaired)) {
		parts = append(parts, fmt.Sprintf("%s: %s", table, plural(int(e.Repaired[table]), "row")))
	}
	return strings.Join(parts, ", ")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// record writes what this command did into the history.
func record(ctx context.Context, bus *control.Bus, sub *control.Subscription, e control.Event) error {
	e.At, e.By, e.Subscription, e.Incarnation = time.Now().UTC(), person(), sub.Name, sub.Incarnation
	history, err := control.OpenHistory(ctx, bus.JS, bus.Replicas)
	if err == nil {
		err = history.Record(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("cannot write into the history that subscription %s was %s: %w", sub.Name, e.Kind, err)
	}
	return nil
}

// person is who calls.
func person() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}
