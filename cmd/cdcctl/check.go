package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/subscribe"
)

func checkCommand() *cobra.Command {
	var (
		nats  cli.NATS
		flags specFlags
		out   output
	)
	cmd := &cobra.Command{
		Use:   "check [NAME | --shard NAME=DSN …]",
		Short: "Check shards, targets, clocks and NATS: every fault at once, each with its remedy",
		Long: `Looks at everything that a subscription needs, changes nothing, and lists what it found: settings, rights, slots,
publications and tables of every shard; whether the shards' clocks agree; whether the targets have the tables and columns and can be written; whether
NATS can keep the stream, and durably. With NAME it checks an existing subscription, with --shard one that does not
exist yet. With --output json: an array of findings with severity (error, warning, info), about, what, try.

Exit codes: 0 no error was found (there may be warnings); 1 an error was found; 2 called in a wrong way.`,
		Example: `  cdcctl check bank
  cdcctl check --shard a=postgres://cdc@db1/bank --shard b=postgres://cdc@db2/bank --target postgres://cdc@replica/bank`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && len(flags.shards) > 0 {
				return cli.Usagef("want a NAME or --shard, not both. Try: %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			findings, err := flags.check(cmd.Context(), &nats, args)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), findings)
			} else {
				err = printFindings(cmd, findings)
			}
			if err == nil && subscribe.Worst(findings) == subscribe.Error {
				return cli.ErrReported
			}
			return err
		},
	}
	flags.addSources(cmd.Flags())
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

func (s *specFlags) check(ctx context.Context, nats *cli.NATS, args []string) ([]subscribe.Finding, error) {
	var spec subscribe.Spec
	if len(args) == 0 {
		var err error
		if len(s.shards) == 0 {
			return nil, cli.Usagef("nothing to check. Try: cdcctl check NAME, or cdcctl check --shard a=DSN --shard b=DSN")
		}
		if spec, err = s.spec(checkName); err != nil {
			return nil, err
		}
	}
	bus, err := nats.Connect(ctx, clientName())
	if err != nil {
		var usage cli.UsageError
		if errors.As(err, &usage) || len(args) > 0 {
			return nil, err
		}
		return append([]subscribe.Finding{subscribe.FaultOf("NATS", err)}, subscribe.Check(ctx, nil, spec)...), ctx.Err()
	}
	defer bus.Close()
	if len(args) == 0 {
		return subscribe.Check(ctx, bus, spec), ctx.Err()
	}
	catalog, err := openCatalog(ctx, bus)
	if err != nil {
		return nil, err
	}
	e, err := catalog.Get(ctx, args[0])
	if err != nil {
		return nil, err
	}
	if err := e.Captured(); err != nil {
		return nil, err
	}
	return subscribe.CheckExisting(ctx, bus, e.Subscription), ctx.Err()
}

// checkName stands for the name of a subscription that does not exist yet.
const checkName = "check"

func printFindings(cmd *cobra.Command, findings []subscribe.Finding) error {
	w := cmd.OutOrStdout()
	count := map[subscribe.Severity]int{}
	for _, f := range findings {
		count[f.Severity]++
		if _, err := fmt.Fprintf(w, "%-8s %s\n", f.Severity, f); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s, %s.\n", plural(count[subscribe.Error], "error"), plural(count[subscribe.Warning], "warning"))
	return err
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
