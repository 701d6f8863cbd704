package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
)

func alterCommand() *cobra.Command {
	var (
		nats          cli.NATS
		memory, spill byteSize
		skew          time.Duration
	)
	cmd := &cobra.Command{
		Use:   "alter-subscription NAME",
		Short: "Change the limits of a subscription while it runs",
		Long: `Changes limits; those that are not given stay. Its node and its apply workers begin anew with them at once, which
takes a moment and loses nothing.

Exit codes: 0 changed; 1 not changed; 2 called in a wrong way.`,
		Example: "  cdcctl alter-subscription bank --memory-bytes-max 1GiB --spill-bytes-max 200GiB",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var said []string
			change := func(sub *control.Subscription) error {
				said = nil
				say := func(flag string, value any) { said = append(said, fmt.Sprintf("--%s %s", flag, value)) }
				if cmd.Flags().Changed("memory-bytes-max") {
					sub.MemoryBytesMax = int64(memory)
					say("memory-bytes-max", &memory)
				}
				if cmd.Flags().Changed("spill-bytes-max") {
					sub.SpillBytesMax = int64(spill)
					say("spill-bytes-max", &spill)
				}
				if cmd.Flags().Changed("max-clock-skew") {
					sub.MaxClockSkew = control.Duration(skew)
					say("max-clock-skew", skew)
				}
				if len(said) == 0 {
					return cli.Usagef("nothing to change. Try: %s --help", cmd.CommandPath())
				}
				if sub.State == control.Dropping {
					return fmt.Errorf("subscription %s is being dropped. Try: cdcctl drop-subscription %s, which goes on", sub.Name, sub.Name)
				}
				if err := sub.Validate(); err != nil {
					return cli.UsageError{Err: err}
				}
				return nil
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				e, err := catalog.Change(ctx, args[0], change)
				if err != nil {
					return err
				}
				if err := record(ctx, bus, e.Subscription, control.Event{Kind: control.Altered, Why: strings.Join(said, " ")}); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Subscription %s is changed: %s\n", args[0], strings.Join(said, " "))
				return err
			})
		},
	}
	cmd.Flags().Var(&memory, "memory-bytes-max", "row data that a node may hold for the subscription")
	cmd.Flags().Var(&spill, "spill-bytes-max", "row data of large transactions that a process may keep on its disk for the subscription; then reading waits")
	cmd.Flags().DurationVar(&skew, "max-clock-skew", 0, "the most by which the shards' clocks may differ; more stops the subscription")
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}
