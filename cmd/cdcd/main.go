// Command cdcd captures the transactions of many PostgreSQL shards as one stream, and replays it.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline/garbage"
)

func main() {
	garbage.Pace()
	os.Exit(run())
}

func run() int {
	root := &cobra.Command{
		Use:   "cdcd",
		Short: "Capture transactions of many PostgreSQL shards as one ordered stream, and replay it",
		Long: `cdcd turns the WALs of many PostgreSQL shards into one stream of whole distributed transactions in one global
order, publishes it on NATS JetStream, and replays it on other databases, each transaction once.

Subscriptions are made with cdcctl. Every flag can be set in the environment (--nats-store: CDC_NATS_STORE) and in
the configuration file (nats_store). Exit codes: 0 done, 1 failed, 2 usage.`,
	}
	root.PersistentFlags().String("config", "", "configuration file (YAML); also CDC_CONFIG")
	root.AddCommand(allCommand(), nodeCommand(), applyCommand(), demoCommand())
	return cli.Main(root)
}
