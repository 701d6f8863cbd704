package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/node"
	"shardcdc/pipeline/subscribe"
)

// healthEvery is how often the embedded server's store is looked at.
const healthEvery = 5 * time.Second

// nodeFlags are the settings of a capture node.
type nodeFlags struct {
	name          string
	lease         time.Duration
	durability    string
	probeInterval time.Duration
	nudge         bool
	spillDir      string
}

func (n *nodeFlags) add(f *pflag.FlagSet) {
	f.StringVar(&n.name, "node-name", "", "name shown in status (default: host name and process number)")
	addLease(f, &n.lease)
	addSpillDir(f, &n.spillDir)
	f.DurationVar(&n.probeInterval, "probe-interval", time.Millisecond, "shortest time between two questions to a shard for its clock and position")
	f.BoolVar(&n.nudge, "nudge", true, "may write a logical message of 100 bytes to a shard whose stream stands still behind an unfinished record")
}

func addLease(f *pflag.FlagSet, lease *time.Duration) {
	f.DurationVar(lease, "lease-ttl", 0, "a dead process's work is taken over after this time (default: 3s, or 12s with a NATS cluster, whose elections block renewals)")
}

func addMovesMax(f *pflag.FlagSet, n *int) {
	f.IntVar(n, "moves-max", 1_000_000, "changes of one transaction that a worker follows in memory (about 150 bytes each) to find rows that move between shards")
}

func addApplyWorkers(f *pflag.FlagSet, n *int) {
	f.IntVar(n, "apply-workers", 4, "connections to each target that replay at the same time while there is a backlog, beside one that is always open; at most 32. 1: no others")
}

func checkApplyWorkers(n int) error {
	if n < 1 || n > 32 {
		return cli.Usagef("--apply-workers %d is out of range. Try: 1 to 32", n)
	}
	return nil
}

func addSpillDir(f *pflag.FlagSet, dir *string) {
	f.StringVar(dir, "spill-dir", "", "folder for what is too large for the memory; empty when the process ends (default: one of this user in the system's temporary folder)")
}

// addDurability is for external servers only; the embedded one is always durable.
func (n *nodeFlags) addDurability(f *pflag.FlagSet) {
	f.StringVar(&n.durability, "nats-durability", string(node.AskServer), `what the NATS server's acknowledgements are worth: "always" (sync_interval: always is set on every server), "lazy" (positions are confirmed to the shards 4 minutes late), or "ask" it; one that does not tell is treated as lazy`)
}

func (n *nodeFlags) config(log *slog.Logger) (node.Config, error) {
	d := node.Durability(n.durability)
	if d != node.DurableAcks && d != node.LazyAcks && d != node.AskServer {
		return node.Config{}, cli.Usagef("--nats-durability %q is unknown. Try: always, lazy or ask", n.durability)
	}
	if n.lease != 0 && n.lease < time.Second {
		return node.Config{}, cli.Usagef("--lease-ttl %s is too short, at least 1s", n.lease)
	}
	return node.Config{
		Name: processName(n.name), Durability: d, LeaseTTL: n.lease, ProbeInterval: n.probeInterval, NoNudge: !n.nudge, SpillDir: n.spillDir, Log: log,
	}, nil
}

// processName tells this process from every other one, also from one that had its number before.
func processName(given string) string {
	if given != "" {
		return given
	}
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	var salt [3]byte
	_, _ = rand.Read(salt[:]) // never fails
	return host + "-" + strconv.Itoa(os.Getpid()) + "-" + hex.EncodeToString(salt[:])
}

func nodeCommand() *cobra.Command {
	var (
		bus     cli.NATS
		flags   nodeFlags
		logging cli.Logging
	)
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Capture: read the shards of every subscription, merge, publish",
		Long: `A capture node. It looks for subscriptions in the catalog and runs those that no other node runs. Any number of
nodes may run; they share the subscriptions by lease.`,
		Example: "  cdcd node --nats nats://nats.example:4222 --nats-durability always",
		Args:    cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.Logger(os.Stderr)
			if err != nil {
				return err
			}
			conf, err := flags.config(log)
			if err != nil {
				return err
			}
			return connected(cmd.Context(), &bus, conf.Name, log, func(ctx context.Context, b *control.Bus) error { return capture(ctx, b, conf) })
		},
	}
	bus.Add(cmd.Flags(), cli.DefaultURL)
	flags.add(cmd.Flags())
	flags.addDurability(cmd.Flags())
	logging.Add(cmd.Flags())
	return cmd
}

// connected gives run the connection to NATS, once there is one. To be told to stop while waiting is no failure.
func connected(ctx context.Context, bus *cli.NATS, name string, log *slog.Logger, run func(context.Context, *control.Bus) error) error {
	b, err := cli.Await(ctx, log, func() (*control.Bus, error) { return bus.Connect(ctx, name) })
	if err == nil {
		defer b.Close()
		err = run(ctx, b)
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

func capture(ctx context.Context, b *control.Bus, conf node.Config) error {
	n, err := cli.Await(ctx, conf.Log, func() (*node.Node, error) { return node.New(ctx, b, conf) })
	if err != nil {
		return err
	}
	conf.Log.Info("node is up", "name", conf.Name)
	return n.Run(ctx)
}

func applyCommand() *cobra.Command {
	var (
		bus     cli.NATS
		conf    node.WorkerConfig
		name    string
		logging cli.Logging
	)
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Replay: apply streams to their targets",
		Long: `Apply workers. Without --subscription: one for every target of every subscription in the catalog. Several may run:
one works for a target at a time, the others take over when it dies. Give --subscription alone to replay only that
one, and --target as well to replay it on a database that the catalog does not name.`,
		Example: "  cdcd apply --nats nats://nats.example:4222\n  cdcd apply --subscription bank --target 'postgres://cdc@standby/bank'",
		Args:    cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.Logger(os.Stderr)
			if err != nil {
				return err
			}
			if conf.Target != "" && conf.Subscription == "" {
				return cli.Usagef("--target needs --subscription, to say which stream to replay on it")
			}
			if conf.Target != "" {
				if err := subscribe.CheckDSN(conf.Target); err != nil {
					return cli.Usagef("--target: %w", err)
				}
			}
			if err := checkApplyWorkers(conf.ApplyWorkers); err != nil {
				return err
			}
			conf.Name, conf.Log = processName(name), log
			return connected(cmd.Context(), &bus, conf.Name, log, func(ctx context.Context, b *control.Bus) error { return replay(ctx, b, conf) })
		},
	}
	bus.Add(cmd.Flags(), cli.DefaultURL)
	cmd.Flags().StringVar(&conf.Subscription, "subscription", "", "replay only this subscription")
	cmd.Flags().StringVar(&conf.Target, "target", "", "DSN to replay it on, instead of the targets in the catalog")
	cmd.Flags().StringVar(&name, "node-name", "", "name shown in status (default: host name and process number)")
	addLease(cmd.Flags(), &conf.LeaseTTL)
	addSpillDir(cmd.Flags(), &conf.SpillDir)
	addMovesMax(cmd.Flags(), &conf.MovesMax)
	addApplyWorkers(cmd.Flags(), &conf.ApplyWorkers)
	logging.Add(cmd.Flags())
	return cmd
}

func replay(ctx context.Context, b *control.Bus, conf node.WorkerConfig) error {
	w, err := cli.Await(ctx, conf.Log, func() (*node.Worker, error) { return node.NewWorker(ctx, b, conf) })
	if err != nil {
		return err
	}
	conf.Log.Info("apply is up", "name", conf.Name)
	return w.Run(ctx)
}

func allCommand() *cobra.Command {
	var (
		flags   nodeFlags
		store   embedded.Options
		logging cli.Logging
	)
	var movesMax, workers int
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Node, apply workers and an embedded NATS server in one process",
		Long: `Everything in one process: an embedded NATS server with JetStream, whose acknowledgements are always durable, a
capture node, and apply workers for every target in the catalog. cdcctl finds it at its default address.`,
		Example: "  cdcd all --nats-store /var/lib/shardcdc",
		Args:    cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.Logger(os.Stderr)
			if err != nil {
				return err
			}
			flags.durability = string(node.DurableAcks)
			conf, err := flags.config(log)
			if err != nil {
				return err
			}
			if err := checkApplyWorkers(workers); err != nil {
				return err
			}
			store.Log = log
			return runAll(cmd.Context(), store, conf, node.WorkerConfig{
				Name: conf.Name, LeaseTTL: conf.LeaseTTL, SpillDir: conf.SpillDir, MovesMax: movesMax, ApplyWorkers: workers, Log: log,
			})
		},
	}
	cmd.Flags().StringVar(&store.StoreDir, "nats-store", "shardcdc-data", "folder of the embedded NATS server's data")
	cmd.Flags().StringVar(&store.Listen, "nats-listen", "127.0.0.1:4222", "where the embedded NATS server listens; it has no passwords, so keep it on this machine")
	cmd.Flags().Int64Var(&store.StoreMax, "nats-store-bytes-max", 0, "bytes that the embedded NATS server may use on disk; 0: three quarters of what is free")
	flags.add(cmd.Flags())
	addMovesMax(cmd.Flags(), &movesMax)
	addApplyWorkers(cmd.Flags(), &workers)
	logging.Add(cmd.Flags())
	return cmd
}

func runAll(ctx context.Context, store embedded.Options, conf node.Config, worker node.WorkerConfig) error {
	srv, err := embedded.Start(ctx, store)
	if err != nil {
		return err
	}
	defer srv.Close()
	b, err := control.Connect(ctx, control.Connection{Name: conf.Name, Extra: []nats.Option{srv.InProcess()}})
	if err != nil {
		return err
	}
	defer b.Close()
	conf.Log.Info("embedded NATS is up", "url", srv.URL(), "store", store.StoreDir)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return capture(ctx, b, conf) })
	group.Go(func() error { return replay(ctx, b, worker) })
	group.Go(func() error { return watchHealth(ctx, srv) })
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// watchHealth ends the process when the embedded server's store cannot be written any more: only a new server
// can write it again, and a supervisor (systemd, Kubernetes) starts one. One bad look is not enough (see Healthy).
func watchHealth(ctx context.Context, srv *embedded.Server) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	suspect := false
	for {
		select {
		case <-tick.C:
			err := srv.Healthy()
			if err != nil && suspect {
				return err
			}
			suspect = err != nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
