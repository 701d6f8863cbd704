package e2e

import (
	"slices"
	"strings"
	"testing"

	"shardcdc/pipeline/bank"
	"shardcdc/test/harness"
	"shardcdc/test/harness/matrix"
)

// matrixRounds of changes: alone, and as distributed transactions.
const matrixRounds = 3

// Every type and every shape of table, live: inserted, updated, deleted, given other keys, over three shards.
func TestMatrix(t *testing.T) {
	m, o := harness.NewMatrix(t)
	c := harness.New(t, o)
	c.Node("node")
	c.Apply()
	c.Running()
	c.Transact(true, func(i int) []string { return m.Fill(i, harness.Shards) })
	c.WaitApplied()
	c.SameTables(m.Tables())
	for round := 1; round <= matrixRounds; round++ {
		c.Transact(round%2 == 0, func(i int) []string { return m.Change(i, harness.Shards, round) })
	}
	c.WaitApplied()
	c.SameTables(m.Tables())
	c.ProvesEqual()
	everyTable(t, c, m)
}

// everyTable: the fixture names every table that is published, so that none is left out of comparisons.
func everyTable(t *testing.T, c *harness.Cluster, m *matrix.Matrix) {
	t.Helper()
	known := m.Tables()
	for _, name := range bank.Tables {
		known = append(known, "public."+name)
	}
	slices.Sort(known)
	text := c.Query(c.ShardDSN(0), "SELECT string_agg(DISTINCT format('%I.%I', schemaname, tablename), E'\\n') FROM pg_publication_tables")
	published := strings.Split(text, "\n")
	slices.Sort(published)
	if !slices.Equal(published, known) {
		t.Errorf("published are %q, and the matrix has %q", published, known)
	}
}
