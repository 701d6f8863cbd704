package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/shape"
	"shardcdc/pipeline/subscribe"
)

// specFlags say what subscription is wanted; create-subscription has all of them, check some.
type specFlags struct {
	shards, targets, gidRules []string
	tables, publications      nameList
	slot, truncate, shape     string
	format                    format.Format
	ddl                       string
	slotTimeout, maxClockSkew time.Duration
	retain                    time.Duration
	memory, spill, stream     byteSize
	copyData                  bool
	targetRows                string
	copying                   copyFlags
	followNewTables           bool
	createTables              bool
}

// copyFlags bound the load that copying puts on the shards.
type copyFlags struct {
	rate     byteSize
	parallel int
	order    nameList
}

const ddlHelp = "statements that change tables: capture (event triggers on the shards, made by a superuser, put them into the stream, and targets run them), stop (a target stops there and says what to run) or ignore (nothing is installed)"

const createHelp = "targets make tables that are missing there from what the stream says of them: columns, types and key; no defaults, no other constraints and indexes"

const followHelp = "a new table that matches --tables joins by itself within seconds, and is copied; else cdcctl status names it"

func (c *copyFlags) add(f *pflag.FlagSet) {
	f.Var(&c.rate, "copy-rate", "rows copied per second, in bytes over all shards, like 20MB; 0: no limit")
	f.IntVar(&c.parallel, "copy-parallel", control.DefaultCopyParallel, "connections per shard that read rows to copy")
	f.Var(&c.order, "copy-order", "patterns of tables to copy first, in this order; the rest follows, small ones first")
}

// addTargetRows adds the flag that says what becomes of rows that a target holds.
func addTargetRows(f *pflag.FlagSet, value *string, fallback string) {
	f.StringVar(value, "if-target-has-rows", fallback, "what a target does with rows that the tables hold there: fail (it waits until they are gone), truncate, or merge (copied rows take the place of those with the same key, others stay)")
}

// defaultRetain is time to look at what was applied, or to apply it once more elsewhere.
const defaultRetain = 24 * time.Hour

// addSources adds the flags that say what is read and where it goes.
func (s *specFlags) addSources(f *pflag.FlagSet) {
	f.StringArrayVar(&s.shards, "shard", nil, "NAME=DSN of a shard (repeatable); no password in it: use a passfile or ${VAR}")
	f.Var(&s.tables, "tables", "tables to capture, as patterns like public.* or app.order_*; a leading - excludes (default public.*)")
	f.Var(&s.publications, "publication", "use this publication of every shard instead of making one for --tables (repeatable)")
	f.StringVar(&s.slot, "slot", "", "use this slot of every shard instead of making one; it must be of pgoutput with two_phase")
	f.StringArrayVar(&s.targets, "target", nil, "DSN, or NAME=DSN, of a database to replay on (postgres://…, mysql://…), or of a folder of files (file:///…) (repeatable)")
	f.BoolVar(&s.copyData, "copy-data", true, "copy the rows that the tables hold already; false: the stream begins with the transactions from now on")
	addTargetRows(f, &s.targetRows, mark.TargetFail)
	f.BoolVar(&s.createTables, "create-tables", false, createHelp)
	f.StringVar(&s.shape, "shape", "", "file of rules in YAML: which columns and rows of the tables are in the stream, under which names, and what is masked (docs/shaping.md)")
	f.StringVar(&s.ddl, "ddl", control.DDLIgnore, ddlHelp)
	f.DurationVar(&s.maxClockSkew, "max-clock-skew", control.DefaultMaxClockSkew, "the most by which the shards' clocks may differ; more stops the subscription")
}

// addFormat adds the flags that say what the stream looks like.
func addFormat(f *pflag.FlagSet, v *format.Format) {
	f.StringVar(&v.Name, "format", format.Internal, "of the stream: internal (for targets), json or sql (for consumers of your own)")
	f.StringVar(&v.JSON.Layout, "json-layout", "", "transaction (one message per transaction; the default), or row (one per row, on cdc.NAME.SCHEMA.TABLE)")
	f.StringVar(&v.JSON.Flavour, "json-flavour", "", "native (the default), or debezium (what consumers of Debezium's connector for PostgreSQL read)")
	f.BoolVar(&v.JSON.Types, "json-types", false, "every row tells the types of its columns")
	f.BoolVar(&v.JSON.FillUnchanged, "json-fill-unchanged", false, "take a TOAST value that an update did not touch from the old row, where REPLICA IDENTITY FULL has it")
	f.BoolVar(&v.JSON.CloudEvents, "json-cloudevents", false, "the attributes of CloudEvents 1.0 as headers of every row's message")
	f.BoolVar(&v.Debezium.Schema, "debezium-schema", false, "schemas.enable: every message holds its schema")
	f.StringVar(&v.Debezium.Decimal, "debezium-decimal", "", "decimal.handling.mode: string (the default), precise, double")
	f.StringVar(&v.Debezium.Binary, "debezium-binary", "", "binary.handling.mode: bytes (the default), base64, base64-url-safe, hex")
	f.StringVar(&v.Debezium.Time, "debezium-time", "", "time.precision.mode: adaptive (the default), adaptive_time_microseconds, connect, microseconds, nanoseconds, isostring")
	f.StringVar(&v.Debezium.Interval, "debezium-interval", "", "interval.handling.mode: numeric (the default), string")
	f.StringVar(&v.Debezium.HStore, "debezium-hstore", "", "hstore.handling.mode: json (the default), map")
	f.BoolVar(&v.Debezium.Tombstones, "debezium-tombstones", false, "tombstones.on.delete: an empty message behind each delete")
	f.BoolVar(&v.Debezium.Truncate, "debezium-truncate", false, "publish TRUNCATE as op t, which not every consumer knows")
	f.StringVar(&v.SQL.Dialect, "sql-dialect", "", "postgresql (the default), or mysql (also for MariaDB)")
	f.BoolVar(&v.SQL.Idempotent, "sql-idempotent", false, "statements that may be run again")
	f.BoolVar(&v.SQL.CreateTables, "sql-create-tables", false, "CREATE TABLE IF NOT EXISTS in front of a table's first change")
}

func (s *specFlags) addRest(f *pflag.FlagSet) {
	addFormat(f, &s.format)
	s.memory = control.DefaultMemoryBytesMax
	f.Var(&s.memory, "memory-bytes-max", "row data that a node may hold for the subscription")
	s.spill = control.DefaultSpillBytesMax
	f.Var(&s.spill, "spill-bytes-max", "row data of large transactions that a process may keep on its disk for the subscription; then reading waits")
	f.StringArrayVar(&s.gidRules, "gid-rule", nil, "'PATTERN=>TEMPLATE': maps gids of PREPARE TRANSACTION to the id that the parts of a distributed transaction share; before the built-in rules (repeatable)")
	f.StringVar(&s.truncate, "truncate", "stop", "what a target does with a TRUNCATE that not every shard ran: stop, apply or ignore")
	f.Var(&s.stream, "stream-bytes-max", "size of the stream in JetStream at which publishing waits; 0: as much as the server has")
	f.DurationVar(&s.retain, "retain", defaultRetain, "messages stay in the stream this long at least, and until every target has applied them; 0, and without a --target: for ever")
	f.DurationVar(&s.slotTimeout, "slot-timeout", subscribe.DefaultSlotTimeout, "how long making a slot may wait for open and prepared transactions")
	s.copying.add(f)
	f.BoolVar(&s.followNewTables, "follow-new-tables", false, followHelp)
}

// spec puts the flags together; its error is a usage error that lists every fault.
func (s *specFlags) spec(name string) (subscribe.Spec, error) {
	spec := subscribe.Spec{
		Name: name, Tables: s.tables, Publications: s.publications, Slot: s.slot, SlotTimeout: s.slotTimeout, Format: s.format,
		MaxClockSkew: s.maxClockSkew, MemoryBytesMax: int64(s.memory), SpillBytesMax: int64(s.spill), Truncate: s.truncate, StreamBytesMax: int64(s.stream),
		CopyData: s.copyData, TargetRows: s.targetRows, By: person(), FollowNewTables: s.followNewTables, DDL: s.ddl, CreateTables: s.createTables,
		Copy: control.CopyOptions{Rate: int64(s.copying.rate), Parallel: s.copying.parallel, Order: s.copying.order},
	}
	if len(s.targets) > 0 {
		spec.Retain = s.retain // without targets nobody here knows what consumers have read
	}
	var faults subscribe.Faults
	fault := func(err error) {
		faults = append(faults, subscribe.FaultOf("", err))
	}
	if err := s.readShape(&spec); err != nil {
		faults = append(faults, err...)
	}
	for _, text := range s.shards {
		n, d, err := subscribe.ParseNamed(text, "")
		if err != nil {
			fault(fmt.Errorf("--shard %w", err))
			continue
		}
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: n, DSN: d})
	}
	for i, text := range s.targets {
		n, d, err := subscribe.ParseNamed(text, fmt.Sprintf("target%d", i+1))
		if err != nil {
			fault(fmt.Errorf("--target %w", err))
			continue
		}
		spec.Targets = append(spec.Targets, control.Target{Name: n, DSN: d})
	}
	for _, text := range s.gidRules {
		pattern, template, ok := strings.Cut(text, "=>")
		if !ok {
			fault(fmt.Errorf("--gid-rule %q has no \"=>\". Try: 'PATTERN=>TEMPLATE', as in '^app-(.*)-[0-9]+$=>$1'", text))
			continue
		}
		spec.GIDRules = append(spec.GIDRules, control.GIDRule{Pattern: strings.TrimSpace(pattern), Template: strings.TrimSpace(template)})
	}
	if missing := len(faults) > 0 && len(spec.Shards) == 0; !missing {
		faults = append(faults, subscribe.FaultsOf(spec.Validate())...)
	}
	if len(faults) > 0 {
		return spec, cli.UsageError{Err: faults}
	}
	return spec, nil
}

// readShape reads the file of rules.
func (s *specFlags) readShape(spec *subscribe.Spec) (faults subscribe.Faults) {
	if s.shape == "" {
		return nil
	}
	data, err := os.ReadFile(s.shape)
	if err == nil {
		spec.Shape, err = shape.Parse(s.shape, data)
	}
	if err == nil {
		return nil
	}
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return subscribe.Faults{subscribe.FaultOf("", err)}
	}
	for _, e := range many.Unwrap() {
		faults = append(faults, subscribe.FaultOf("", e))
	}
	return faults
}

func createCommand() *cobra.Command {
	var (
		nats  cli.NATS
		flags specFlags
		out   output
		wait  bool
	)
	cmd := &cobra.Command{
		Use:   "create-subscription NAME",
		Short: "Make a subscription: slots and publications on the shards, the stream, the catalog entry",
		Long: `Makes a subscription. A running cdcd takes it up at once. First everything is checked that can be checked (see
cdcctl check) and all faults are listed; nothing is changed then. Each shard gets a publication and a replication
slot, both named cdc_NAME, unless they are given. Whatever fails later, or a ctrl-C, takes back what was made.

The rows that the tables hold are copied through the stream, in chunks, while everything else flows (--copy-data). A node
does it; this command returns when the copy is ordered, or with --wait when every target has all rows. Until then
the targets are not consistent, which cdcctl status says. The tables have to be there, with their columns and keys, and empty
unless --if-target-has-rows says otherwise. Without --copy-data the stream begins with the transactions from now on.

Passwords never stand in a DSN that is stored. Put them into the passfile of the user that runs cdcd, or write
${VAR} in the DSN and set VAR in the environment of cdcd and cdcctl.

Exit codes: 0 made; 1 not made, nothing is left behind unless the message names it; 2 called in a wrong way.`,
		Example: `  cdcctl create-subscription bank --shard a=postgres://cdc@db1/bank --shard b=postgres://cdc@db2/bank
  cdcctl create-subscription bank --shard 'a=host=db1 dbname=bank user=cdc password=${BANK_PASSWORD}' \
      --tables 'public.*,-public.audit' --target replica=postgres://cdc@replica/bank
  cdcctl create-subscription feed --shard a=postgres://cdc@db1/bank --format json --publication orders`,
		Args: cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			spec, err := flags.spec(args[0])
			if err != nil {
				return err
			}
			return session(cmd, &nats, func(ctx context.Context, bus *control.Bus, _ *control.Catalog) error {
				sub, notes, err := subscribe.Create(ctx, bus, spec)
				printNotes(cmd, notes)
				if err != nil {
					return err
				}
				if err := record(ctx, bus, sub, control.Event{Kind: control.Created}); err != nil {
					return err
				}
				if asJSON {
					err = writeJSON(cmd.OutOrStdout(), shown(sub))
				} else {
					err = printCreated(cmd, sub)
				}
				if err != nil || !wait || !spec.CopyData {
					return err
				}
				return awaitCopy(ctx, cmd, bus, sub, "", asJSON)
			})
		},
	}
	flags.addSources(cmd.Flags())
	flags.addRest(cmd.Flags())
	cmd.Flags().BoolVar(&wait, "wait", false, "show how far the copy is, and return when every target has all rows; ctrl-C ends the waiting only")
	out.add(cmd.Flags())
	nats.Add(cmd.Flags(), cli.DefaultURL)
	return cmd
}

// printNotes shows what the checks found and did not mind.
func printNotes(cmd *cobra.Command, notes subscribe.Notes) {
	for _, n := range notes {
		if n.Severity != subscribe.Info {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", n.Severity, n)
		}
	}
}

func printCreated(cmd *cobra.Command, sub *control.Subscription) error {
	lines := []string{cells("SHARD", "SLOT", "PUBLICATIONS", "STARTS AFTER")}
	for _, s := range sub.Shards {
		lines = append(lines, cells(s.Name, s.Slot, strings.Join(s.Publications, ","), s.Start))
	}
	w := cmd.OutOrStdout()
	if err := table(w, lines...); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "Subscription %s is made. See: cdcctl status %s\n", sub.Name, sub.Name)
	return err
}
