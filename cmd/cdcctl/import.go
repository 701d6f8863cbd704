package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/archive"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/subscribe"
)

func importCommand() *cobra.Command {
	var (
		nats    cli.NATS
		out     output
		name    string
		ddl     string
		targets []string
	)
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Bring an exported range of a stream into NATS",
		Long: `Makes the stream of a subscription from a file that cdcctl export wrote, or goes on with it: every message under the
sequence that it had. The subscription is then in the catalog as an imported one: no node captures it, cdcd apply replays it on
the targets given here, and tail, show and consumers read it.

Files of one stream are imported one after the other. They may overlap; one that would leave a gap is refused. A command that was killed
is repeated: it goes on where the other one stopped.

Exit codes: 0 the stream has all of the file; 1 it has not, and why; 2 called in a wrong way.`,
		Example: "  cdcctl import bank-1.cdc --target replica=postgres://cdc@replica/bank\n  cdcctl import bank-2.cdc\n  cdcctl wait bank --for applied",
		Args:    cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			options := archive.Options{Name: name, DDL: ddl}
			if options.Targets, err = importTargets(targets); err != nil {
				return err
			}
			if name != "" {
				if err := control.CheckName("subscription", name); err != nil {
					return cli.UsageError{Err: err}
				}
			}
			f, err := archive.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				began := time.Now()
				done, err := archive.Import(ctx, bus, f, options)
				if err != nil {
					return err
				}
				if done.Messages > 0 || done.Created {
					e, err := catalog.Get(ctx, done.Subscription)
					if err != nil {
						return err
					}
					why := fmt.Sprintf("sequence %d to %d, up to csn %s", done.First, done.Last, done.CSN)
					if err := record(ctx, bus, e.Subscription, control.Event{Kind: control.Imported, Why: why}); err != nil {
						return err
					}
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), done)
				}
				return printImported(cmd, done, time.Since(began))
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "name", "", "of the subscription here; default: as it was exported")
	fl.StringArrayVar(&targets, "target", nil, "DSN, or NAME=DSN, of a database to replay on (repeatable); those of an earlier import stay")
	fl.StringVar(&ddl, "ddl", "", "statements that change tables: targets run them (capture), stop there and say what to run (stop), or pass over them (ignore); default: as it was exported, or as an earlier import said")
	out.add(fl)
	nats.Add(fl, cli.DefaultURL)
	return cmd
}

func printImported(cmd *cobra.Command, done archive.Imported, took time.Duration) error {
	text := "went on"
	switch {
	case done.Created:
		text = "is imported"
	case done.Messages == 0:
		text = "had all of it"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "Subscription %s %s: stream sequence %d to %d, up to csn %s; %d messages were new (%s).\n",
		done.Subscription, text, done.First, done.Last, done.CSN, done.Messages, took.Round(time.Millisecond))
	return err
}

// importTargets reads --target. Every fault is told.
func importTargets(texts []string) (targets []control.Target, err error) {
	var faults []error
	for i, text := range texts {
		name, to, err := subscribe.ParseNamed(text, fmt.Sprintf("target%d", i+1))
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("--target %w", err))
		case to == "":
			faults = append(faults, fmt.Errorf("--target %s: the DSN is empty. Try: %s=postgres://user@host:5432/database", name, name))
		case dsn.HasPassword(to):
			faults = append(faults, fmt.Errorf("--target %s: the DSN %s has a password in clear, which would be stored. Try: ~/.pgpass of the user that runs cdcd, or ${VAR} for it", name, dsn.Redact(to)))
		default:
			if err := control.CheckName("target", name); err != nil {
				faults = append(faults, err)
			}
			if err := subscribe.CheckDSN(to); err != nil {
				faults = append(faults, fmt.Errorf("--target %s: %w", name, err))
			}
			targets = append(targets, control.Target{Name: name, DSN: to})
		}
	}
	if len(faults) > 0 {
		return nil, cli.UsageError{Err: errors.Join(faults...)}
	}
	return targets, nil
}
