package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/cmd/cli"
	"shardcdc/output/jetstream"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
)

// alteration is what alter-subscription changes: what a flag was given for.
type alteration struct {
	flags                 *pflag.FlagSet
	memory, spill, stream byteSize
	skew, retain          time.Duration
	truncate, ddl         string
	copying               copyFlags
	follow, creates       bool
}

func (a *alteration) add(f *pflag.FlagSet) {
	a.flags = f
	f.Var(&a.memory, "memory-bytes-max", "row data that a node may hold for the subscription")
	f.Var(&a.spill, "spill-bytes-max", "row data of large transactions that a process may keep on its disk for the subscription; then reading waits")
	f.Var(&a.stream, "stream-bytes-max", "size of the stream in JetStream at which publishing waits; 0: as much as the server has")
	f.DurationVar(&a.skew, "max-clock-skew", 0, "the most by which the shards' clocks may differ; more stops the subscription")
	f.DurationVar(&a.retain, "retain", 0, "messages stay in the stream this long at least, and until every target has applied them; 0: for ever")
	f.StringVar(&a.truncate, "truncate", "", "what a target does with a TRUNCATE that not every shard ran: stop, apply or ignore")
	f.StringVar(&a.ddl, "ddl", "", ddlHelp)
	a.copying.add(f)
	f.BoolVar(&a.follow, "follow-new-tables", false, followHelp)
	f.BoolVar(&a.creates, "create-tables", false, createHelp)
	cli.TypedOnly(f, "memory-bytes-max", "spill-bytes-max", "stream-bytes-max", "max-clock-skew", "retain", "truncate", "ddl", "copy-rate", "copy-parallel", "copy-order", "follow-new-tables", "create-tables")
}

// streamChanges says whether the limit of the stream is to change. The stream has it, and nobody else.
func (a *alteration) streamChanges() bool { return a.flags.Changed("stream-bytes-max") }

// said are the flags that were given, as people write them.
func (a *alteration) said() string {
	var said []string
	for _, flag := range []struct {
		name  string
		value any
	}{
		{"memory-bytes-max", &a.memory},
		{"spill-bytes-max", &a.spill},
		{"stream-bytes-max", &a.stream},
		{"max-clock-skew", a.skew},
		{"retain", a.retain},
		{"truncate", a.truncate},
		{"ddl", a.ddl},
		{"copy-rate", &a.copying.rate},
		{"copy-parallel", a.copying.parallel},
		{"copy-order", &a.copying.order},
		{"follow-new-tables", a.follow},
		{"create-tables", a.creates},
	} {
		if a.flags.Changed(flag.name) {
			said = append(said, fmt.Sprintf("--%s %v", flag.name, flag.value))
		}
	}
	return strings.Join(said, " ")
}

// change changes an entry of the catalog, or says why that cannot be.
func (a *alteration) change(sub *control.Subscription) error {
	if a.flags.Changed("memory-bytes-max") {
		sub.MemoryBytesMax = int64(a.memory)
	}
	if a.flags.Changed("spill-bytes-max") {
		sub.SpillBytesMax = int64(a.spill)
	}
	if a.flags.Changed("max-clock-skew") {
		sub.MaxClockSkew = control.Duration(a.skew)
	}
	if a.flags.Changed("retain") {
		sub.Retain = control.Duration(a.retain)
	}
	if a.flags.Changed("truncate") {
		sub.Truncate = a.truncate
	}
	if a.flags.Changed("ddl") {
		sub.DDL = a.ddl
	}
	if a.flags.Changed("follow-new-tables") {
		sub.FollowNewTables = a.follow
		if a.follow && slices.ContainsFunc(sub.Shards, func(s control.Shard) bool { return !s.OwnPublication }) {
			return fmt.Errorf("subscription %s uses publications that were given: who made them says what they hold. Try: ALTER PUBLICATION … ADD TABLE and cdcctl resync, when a table comes", sub.Name)
		}
	}
	if a.flags.Changed("create-tables") {
		sub.CreateTables = a.creates
	}
	a.changeCopy(&sub.Copy)
	if sub.State == control.Dropping {
		return fmt.Errorf("subscription %s is being dropped. Try: cdcctl drop-subscription %s, which goes on", sub.Name, sub.Name)
	}
	if sub.Retain != 0 && len(sub.Targets) == 0 {
		return fmt.Errorf("subscription %s has no target, so nobody here knows what its readers have seen: its messages stay. Try: nats stream purge CDC_%s --seq N, where N is the SEQUENCE that every reader has reached (keep that message)", sub.Name, sub.Name)
	}
	if err := sub.Validate(); err != nil {
		return cli.UsageError{Err: err}
	}
	return nil
}

func (a *alteration) changeCopy(o *control.CopyOptions) {
	if a.flags.Changed("copy-rate") {
		o.Rate = int64(a.copying.rate)
	}
	if a.flags.Changed("copy-parallel") {
		o.Parallel = a.copying.parallel
	}
	if a.flags.Changed("copy-order") {
		o.Order = a.copying.order
	}
}

// apply changes the stream and the entry, after it made sure that nothing is wrong with either.
func (a *alteration) apply(ctx context.Context, bus *control.Bus, catalog *control.Catalog, name string) (*control.Subscription, error) {
	e, err := catalog.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := a.change(e.Subscription); err != nil {
		return nil, err
	}
	if e.Imported && a.flags.Changed("ddl") { // the triggers are elsewhere
		return nil, fmt.Errorf("subscription %s was imported: what its targets do with statements is said to import. Try: cdcctl import FILE --ddl %s, with a file that was imported already", name, e.DDL)
	}
	if a.streamChanges() {
		if err := jetstream.SetBytesMax(ctx, bus.JS, name, e.Incarnation, int64(a.stream)); err != nil {
			return nil, err
		}
	}
	if a.flags.Changed("ddl") { // statements are in the stream before targets look for them
		if err := subscribe.InstallDDL(ctx, e.Subscription); err != nil {
			return nil, err
		}
	}
	e, err = catalog.Change(ctx, name, a.change)
	if err == nil && a.flags.Changed("ddl") && e.DDL == control.DDLIgnore {
		err = subscribe.UninstallDDL(ctx, e.Subscription)
	}
	return e.Subscription, err
}

func alterCommand() *cobra.Command {
	var (
		nats  cli.NATS
		wants alteration
	)
	cmd := &cobra.Command{
		Use:   "alter-subscription NAME",
		Short: "Change the limits and policies of a subscription while it runs",
		Long: `Changes what is given; the rest stays. Its node and its apply workers begin anew with it at once, which takes a moment
and loses nothing; a publisher that waits for room in the stream just goes on after --stream-bytes-max. A lower limit of
the stream removes nothing from it: publishing waits.

Exit codes: 0 changed; 1 not changed; 2 called in a wrong way.`,
		Example: `  cdcctl alter-subscription bank --memory-bytes-max 1GiB --spill-bytes-max 200GiB
  cdcctl alter-subscription bank --stream-bytes-max 500GiB --retain 6h
  cdcctl alter-subscription bank --truncate ignore
  cdcctl alter-subscription bank --ddl capture`,
		Args: cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			said := wants.said()
			if said == "" {
				return cli.Usagef("nothing to change. Try: %s --help", cmd.CommandPath())
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, catalog *control.Catalog) error {
				sub, err := wants.apply(ctx, bus, catalog, args[0])
				if err != nil {
					return err
				}
				if err := record(ctx, bus, sub, control.Event{Kind: control.Altered, Why: said}); err != nil {
					return err
				}
				if wants.flags.Changed("follow-new-tables") || wants.flags.Changed("ddl") {
					printNotes(cmd, subscribe.FollowNotes(sub.FollowNewTables, sub.CreateTables, sub.DDL, sub.Targets))
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Subscription %s is changed: %s\n", args[0], said)
				return err
			})
		},
	}
	wants.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}
