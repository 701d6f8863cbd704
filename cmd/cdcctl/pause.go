package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
)

func pauseCommand() *cobra.Command {
	return stateCommand(control.Paused, control.Halted, "is paused", &cobra.Command{
		Use:   "pause NAME",
		Short: "Stop reading and replaying; the slots keep the WAL",
		Long: `Pauses a subscription and waits until its node and its apply workers have let go. Nothing is lost: the shards keep
their WAL for it, which fills their disks in the end. A subscription that is paused already stays so.

Exit codes: 0 paused; 1 not, or not in time; 2 called in a wrong way.`,
		Example: "  cdcctl pause bank",
	})
}

func resumeCommand() *cobra.Command {
	return stateCommand(control.Active, control.Resumed, "runs", &cobra.Command{
		Use:   "resume NAME",
		Short: "Go on with a paused subscription",
		Long: `Resumes a paused subscription and waits until a node runs it. It goes on where it stopped.

Exit codes: 0 a node runs it; 1 it does not, or not in time: the message says why; 2 called in a wrong way.`,
		Example: "  cdcctl resume bank",
	})
}

func stateCommand(to control.State, kind control.EventKind, done string, cmd *cobra.Command) *cobra.Command {
	var (
		nats    cli.NATS
		options subscribe.Options
	)
	cmd.Args = cli.Args(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
			before, err := catalog.Get(ctx, args[0])
			if err != nil {
				return err
			}
			err = subscribe.SetState(ctx, bus, args[0], to, options)
			// It may have been written although nobody followed in time.
			if after, gone := catalog.Get(ctx, args[0]); gone == nil && after.State == to && before.State != to {
				err = errors.Join(err, record(ctx, bus, after.Subscription, control.Event{Kind: kind}))
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Subscription %s %s.\n", args[0], done)
			return err
		})
	}
	cmd.Flags().DurationVar(&options.Wait, "timeout", 30*time.Second, "how long to wait until node and workers have followed")
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}
