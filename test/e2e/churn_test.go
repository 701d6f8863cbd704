package e2e

import (
	"testing"

	"shardcdc/test/harness"
)

// Rows change in every way, live, in transactions of one shard and of several; a table is emptied everywhere at once.
func TestChurn(t *testing.T) {
	const rows = 3000
	c := harness.New(t, harness.Options{Tables: harness.ChurnDDL})
	c.Node("node")
	c.Apply()
	c.Running()
	c.FillChurn(rows)
	churn := c.OpenChurn(rows, 300)
	churn.Truncates()
	churn.Changed(600)
	churn.Stop()
	c.WaitApplied()
	c.SameChurn()
	c.ProvesEqual()
}
