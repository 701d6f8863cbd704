package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/bank"
	"shardcdc/test/harness"
	"shardcdc/test/harness/matrix"
)

const harnessTime = 3 * time.Minute

// newMatrix is the fixture on the tests' servers, and the options of a cluster for it.
func newMatrix(t *testing.T) (*matrix.Matrix, harness.Options) {
	t.Helper()
	m, err := matrix.New(harness.Context(t, harnessTime), harness.AnyDSN())
	if err != nil {
		t.Fatal(err)
	}
	return m, harness.Options{Tables: m.DDL(matrix.Source), OnTarget: m.DDL(matrix.Target), Patterns: matrix.Patterns(), Limit: harnessTime}
}

// transact runs statements on every shard. In a distributed transaction all of them are one; else each is one of its own.
func transact(t *testing.T, c *harness.Cluster, distributed bool, statements func(shard int) []string) {
	t.Helper()
	gid := fmt.Sprintf("matrix_%d", gids.Add(1))
	group, ctx := errgroup.WithContext(c.Ctx)
	for i, dsn := range c.ShardDSNs() {
		group.Go(func() error {
			all := statements(i)
			if distributed {
				all = append(append([]string{"BEGIN"}, all...), "PREPARE TRANSACTION '"+gid+"'")
			}
			return run(ctx, dsn, all...)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if !distributed {
		return
	}
	for _, dsn := range c.ShardDSNs() {
		if err := run(c.Ctx, dsn, "COMMIT PREPARED '"+gid+"'"); err != nil {
			t.Fatal(err)
		}
	}
}

func run(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql[:min(len(sql), 300)], err)
		}
	}
	return nil
}

// sameMatrix compares, without the product and with it.
func sameMatrix(t *testing.T, c *harness.Cluster, m *matrix.Matrix) {
	t.Helper()
	d, err := m.Compare(c.Ctx, c.ShardDSNs(), c.TargetDSN())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range d.Examples {
		t.Error(e)
	}
	if d.Count > 0 {
		t.Fatalf("%d differences in %d rows of %d tables", d.Count, d.Rows, d.Tables)
	}
	t.Logf("%d rows of %d tables are equal", d.Rows, d.Tables)
}

var gids atomic.Int64

// matrixRounds of changes: alone, and as distributed transactions.
const matrixRounds = 4

// Every type and every shape of table, live: inserted, updated, deleted, given other keys, over three shards.
func TestMatrix(t *testing.T) {
	m, o := newMatrix(t)
	c := harness.New(t, o)
	c.Node("node")
	c.Apply()
	c.Running()
	transact(t, c, true, func(i int) []string { return m.Fill(i, harness.Shards) })
	c.WaitApplied()
	sameMatrix(t, c, m)
	for round := 1; round <= matrixRounds; round++ {
		transact(t, c, round%2 == 0, func(i int) []string { return m.Change(i, harness.Shards, round) })
	}
	c.WaitApplied()
	sameMatrix(t, c, m)
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
	text := c.Query(c.ShardDSN(0), "SELECT string_agg(DISTINCT format('%I.%I', schemaname, tablename), E'\n') FROM pg_publication_tables")
	published := strings.Split(text, "\n")
	slices.Sort(published)
	if !slices.Equal(published, known) {
		t.Errorf("published are %q, and the matrix has %q", published, known)
	}
}
