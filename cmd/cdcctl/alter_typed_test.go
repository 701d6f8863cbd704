package main

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shardcdc/cmd/cli"
)

// What alter-subscription changes is what was typed: the environment is there for other commands as well.
func TestAlterTyped(t *testing.T) {
	t.Setenv("CDC_TRUNCATE", "ignore")
	t.Setenv("CDC_RETAIN", "1h")
	var a alteration
	cmd := &cobra.Command{}
	a.add(cmd.Flags())
	if err := cmd.Flags().Set("max-clock-skew", "7s"); err != nil {
		t.Fatal(err)
	}
	if err := cli.Load(cmd, []*pflag.FlagSet{cmd.Flags()}); err != nil {
		t.Fatal(err)
	}
	if got := a.said(); got != "--max-clock-skew 7s" {
		t.Errorf("changes %q", got)
	}
}
