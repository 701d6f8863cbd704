// Command cdcctl makes subscriptions, shows what they do, and takes them away again.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
)

func main() { os.Exit(cli.Main(newRoot())) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cdcctl",
		Short: "Make subscriptions, watch them, take them away",
		Long: `cdcctl works on the subscriptions that cdcd runs: each turns the WALs of many PostgreSQL shards into one stream of
whole distributed transactions in one global order.

Every flag can be set in the environment (--nats: CDC_NATS) and in the configuration file (nats). Data goes to
standard output, everything else to standard error.

Exit codes: 0 done, 1 failed, 2 called in a wrong way.`,
		Example: `  cdcctl check --shard a=postgres://cdc@db1/bank --shard b=postgres://cdc@db2/bank
  cdcctl create-subscription bank --shard a=postgres://cdc@db1/bank --shard b=postgres://cdc@db2/bank
  cdcctl status bank`,
	}
	root.PersistentFlags().String("config", "", "configuration file (YAML); also CDC_CONFIG")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		createCommand(), alterCommand(), dropCommand(), pauseCommand(), resumeCommand(), skipCommand(),
		addTableCommand(), removeTableCommand(), resyncCommand(),
		listCommand(), statusCommand(), nodesCommand(), historyCommand(), tailCommand(), showCommand(), durationsCommand(), exportCommand(), importCommand(), waitCommand(), verifyCommand(), checkCommand(), uninstallCommand(),
	)
	return root
}
