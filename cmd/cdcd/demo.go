package main

import (
	"os"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/cmd/demo"
)

func demoCommand() *cobra.Command {
	var (
		o       demo.Options
		logging cli.Logging
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A throw-away sharded cluster, a target, traffic, a killed node, proof",
		Long: `Starts three shards and a target as throw-away PostgreSQL servers, NATS, a node and an apply worker; runs transfers
that span shards; kills the node with SIGKILL on the way; compares source and target row by row and prints the proof.
Exit code 0 if nothing differs. Everything is removed at the end.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Log, err = logging.Logger(os.Stderr); err != nil {
				return err
			}
			if o.Cdcd, err = os.Executable(); err != nil {
				return err
			}
			o.Out = cmd.OutOrStdout()
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave everything running at the end, until ctrl-C")
	cmd.Flags().DurationVar(&o.Duration, "duration", 0, "length of the traffic (default 30s)")
	cmd.Flags().StringVar(&o.PGBin, "pg-bin", "", "folder of PostgreSQL's server programs (default: the newest installed)")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 0, "seed of the traffic (default: by chance; it is printed)")
	logging.Add(cmd.Flags())
	level := cmd.Flags().Lookup("log-level") // the demo tells its story itself
	level.DefValue = "warn"
	logging.Level = level.DefValue
	return cmd
}
