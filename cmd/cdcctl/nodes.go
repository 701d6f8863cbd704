package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
)

// nodes is the JSON form of the result.
type nodes struct {
	Processes []control.Process `json:"processes"` // that answered
	Leases    []lease           `json:"leases"`
}

// lease is who does what; nobody does when its node is empty.
type lease struct {
	control.Held
	// Answers is false when the holder does not answer now: it is frozen, cut off, or dead since a moment.
	Answers bool `json:"answers"`
}

func nodesCommand() *cobra.Command {
	var (
		nats cli.NATS
		out  output
	)
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Show the processes that take part, who runs what, since when, and why it moved",
		Long: `Asks the nodes and apply workers for themselves, and shows who captures and who replays each subscription: since when,
when it was last heard, who did so before, and why it moved. A process that is frozen, cut off or dead does not
answer; what it held it keeps until its lease expires. Older moves are in cdcctl history. With --output json: an
object with processes and leases.

Exit codes: 0 shown; 1 NATS cannot be reached; 2 called in a wrong way.`,
		Example: "  cdcctl nodes\n  cdcctl nodes -o json | jq -r '.leases[] | select(.answers | not) | .key'",
		Args:    cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				n, err := askNodes(ctx, bus, catalog)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), n)
				}
				return n.print(cmd, time.Now())
			})
		},
	}
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

// leaseTTL is asked for when leases are opened to be read; nothing is acquired.
const leaseTTL = time.Second

func askNodes(ctx context.Context, bus *control.Bus, catalog *control.Catalog) (*nodes, error) {
	n := &nodes{Leases: []lease{}}
	var err error
	if n.Processes, err = control.AskProcesses(ctx, bus.NC); err != nil {
		return nil, err
	}
	leases, err := control.OpenLeases(ctx, bus.JS, bus.Replicas, leaseTTL)
	if err != nil {
		return nil, err
	}
	held, err := leases.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		n.Leases = append(n.Leases, lease{Held: h, Answers: slices.ContainsFunc(n.Processes, func(p control.Process) bool { return p.Name == h.Node })})
	}
	entries, err := catalog.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.State == control.Active {
			n.missing(e.Subscription)
		}
	}
	slices.SortFunc(n.Leases, func(a, b lease) int { return cmp.Compare(a.Key, b.Key) })
	return n, nil
}

// missing adds what somebody should do and nobody does.
func (n *nodes) missing(sub *control.Subscription) {
	add := func(key, target string) {
		if !slices.ContainsFunc(n.Leases, func(l lease) bool { return l.Key == key }) {
			n.Leases = append(n.Leases, lease{Held: control.Held{Key: key, Subscription: sub.Name, Target: target}})
		}
	}
	add(control.CaptureLease(sub.Name), "")
	for _, t := range sub.Targets {
		add(control.ApplyLease(sub.Name, t.Name), t.Name)
	}
}

func (n *nodes) print(cmd *cobra.Command, now time.Time) error {
	w := cmd.OutOrStdout()
	if len(n.Processes) == 0 {
		fmt.Fprintln(w, "No process answers. Try: cdcd node and cdcd apply, or cdcd all")
	} else {
		lines := []string{cells("PROCESS", "ROLE", "HOST", "PID", "VERSION", "UP SINCE", "RUNS", "STANDS BY FOR")}
		for _, p := range n.Processes {
			lines = append(lines, cells(p.Name, p.Role, p.Host, p.PID, p.Version, moment(p.Since), works(p.Work, true), works(p.Work, false)))
		}
		if err := table(w, lines...); err != nil {
			return err
		}
	}
	if len(n.Leases) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	lines := []string{cells("SUBSCRIPTION", "WORK", "RUN BY", "SINCE", "LAST HEARD", "BEFORE", "WHY IT MOVED")}
	for _, l := range n.Leases {
		lines = append(lines, l.line(now))
	}
	return table(w, lines...)
}

func (l *lease) line(now time.Time) string {
	work := "capture"
	if l.Target != "" {
		work = "apply to " + l.Target
	}
	if l.Node == "" {
		return cells(l.Subscription, work, "nobody", "", "", "", "")
	}
	heard := seconds(max(0, now.Sub(l.Renewed).Seconds())) + " ago"
	if !l.Answers {
		heard += ", does not answer"
	}
	return cells(l.Subscription, work, l.Node, moment(l.Since), heard, l.From, oneLine(l.Why))
}

func works(all []control.Work, running bool) string {
	var names []string
	for _, w := range all {
		if w.Running != running {
			continue
		}
		name := w.Subscription
		if w.Target != "" {
			name += "→" + w.Target
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
