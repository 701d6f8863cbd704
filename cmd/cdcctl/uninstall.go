package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
)

func uninstallCommand() *cobra.Command {
	var (
		nats    cli.NATS
		out     output
		options subscribe.Options
		dryRun  bool
	)
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove everything that was ever made for any subscription",
		Long: `Drops every subscription as drop-subscription does, and removes what that keeps: on the targets the table cdc.skipped, in
NATS the buckets and streams whose names begin with CDC_, the history too. Look first with --dry-run. What was given
(slots, publications) and the targets' rows stay; so does what another installation keeps in the schema cdc of a target.

When a shard or a target cannot be reached it fails before anything in NATS is removed that is needed to go on; repeat it. With
--force it forgets what cannot be reached and lists what is left behind, and where. Where nothing is installed it
does nothing. With --output json: removed and left; with --dry-run would_remove, would_keep and unknown.

Exit codes: 0 nothing is left but what it says; 1 not everything was removed; 2 called in a wrong way.`,
		Example: "  cdcctl uninstall --dry-run\n  cdcctl uninstall",
		Args:    cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			bus, err := nats.Connect(ctx, clientName())
			if err != nil {
				return err
			}
			defer bus.Close()
			if dryRun {
				p, err := subscribe.PreviewUninstall(ctx, bus)
				return shownPreview(cmd, p, asJSON, err)
			}
			dropped, err := subscribe.Uninstall(ctx, bus, options)
			result := dropResult{Dropped: dropped}
			if printed := result.print(cmd, asJSON); err == nil {
				err = printed
			}
			if err != nil || asJSON {
				return err
			}
			return printUninstalled(ctx, cmd.OutOrStdout(), bus, len(dropped.Removed))
		},
	}
	addLeaving(cmd, &options, &dryRun)
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

// addLeaving adds the flags of commands that remove what was made.
func addLeaving(cmd *cobra.Command, o *subscribe.Options, dryRun *bool) {
	cmd.Flags().BoolVar(dryRun, "dry-run", false, "only list what would be removed, and what would stay")
	cmd.Flags().BoolVar(&o.Force, "force", false, "forget shards and targets that cannot be reached")
	cmd.Flags().DurationVar(&o.Wait, "timeout", 30*time.Second, "how long nodes and workers may take to let go")
}

func printUninstalled(ctx context.Context, w io.Writer, bus *control.Bus, removed int) error {
	if removed == 0 {
		_, err := fmt.Fprintln(w, "Nothing is installed.")
		return err
	}
	processes, err := control.AskProcesses(ctx, bus.NC)
	if err != nil {
		return err
	}
	var names []string
	for _, p := range processes {
		names = append(names, fmt.Sprintf("%s (%s, pid %d on %s)", p.Name, p.Role, p.PID, p.Host))
	}
	if len(names) > 0 {
		fmt.Fprintf(w, "These processes have nothing left to do; stop them now: %s\n", strings.Join(names, ", "))
	}
	_, err = fmt.Fprintln(w, "Everything is removed.")
	return err
}

// shownPreview shows what would be removed.
func shownPreview(cmd *cobra.Command, p subscribe.Preview, asJSON bool, err error) error {
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	switch {
	case asJSON:
		if p.Remove == nil {
			p.Remove = []string{}
		}
		err = writeJSON(w, p)
	case len(p.Remove)+len(p.Keep)+len(p.Unknown) == 0:
		_, err = fmt.Fprintln(w, "Nothing is installed.")
	default:
		err = printPreview(w, p)
	}
	if err == nil && len(p.Unknown) > 0 {
		return cli.ErrReported
	}
	return err
}

func printPreview(w io.Writer, p subscribe.Preview) error {
	for _, part := range []struct {
		what  string
		lines []string
	}{{"would remove", p.Remove}, {"would keep", p.Keep}, {"CANNOT LOOK AT", p.Unknown}} {
		for _, line := range part.lines {
			if _, err := fmt.Fprintln(w, part.what, oneLine(line)); err != nil {
				return err
			}
		}
	}
	return nil
}
