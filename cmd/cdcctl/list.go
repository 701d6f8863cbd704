package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
)

func listCommand() *cobra.Command {
	var (
		nats cli.NATS
		out  output
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the subscriptions",
		Long: `Lists the subscriptions of the catalog: what they were asked to do, not how they are (see cdcctl status). With
--output json: the catalog's entries, an array.

Exit codes: 0 listed; 1 NATS cannot be reached; 2 called in a wrong way.`,
		Example: "  cdcctl list\n  cdcctl list -o json",
		Args:    cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			return session(cmd, &nats, func(ctx context.Context, _ *control.Bus, catalog *control.Catalog) error {
				entries, err := catalog.List(ctx)
				if err != nil {
					return err
				}
				return printList(cmd, entries, asJSON)
			})
		},
	}
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

func printList(cmd *cobra.Command, entries []control.Entry, asJSON bool) error {
	if asJSON {
		all := []*control.Subscription{}
		for _, e := range entries {
			all = append(all, shown(e.Subscription))
		}
		return writeJSON(cmd.OutOrStdout(), all)
	}
	if len(entries) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "There is no subscription. Try: cdcctl create-subscription --help")
		return err
	}
	lines := []string{cells("NAME", "STATE", "FORMAT", "SHARDS", "TARGETS", "CREATED")}
	for _, e := range entries {
		var shards, targets []string
		for _, s := range e.Shards {
			shards = append(shards, s.Name)
		}
		for _, t := range e.Targets {
			targets = append(targets, t.Name)
		}
		lines = append(lines, cells(e.Name, stateText(e.Subscription), e.Format, strings.Join(shards, ","), strings.Join(targets, ","), e.Created.UTC().Format("2006-01-02 15:04:05Z")))
	}
	return table(cmd.OutOrStdout(), lines...)
}

// stateText is a subscription's state for people.
func stateText(s *control.Subscription) string {
	if s.Imported {
		return string(s.State) + ", imported"
	}
	return string(s.State)
}
