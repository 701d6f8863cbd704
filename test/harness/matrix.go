package harness

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"shardcdc/test/harness/matrix"
)

// NewMatrix is the fixture of every type and shape on the tests' servers, and the options of a cluster for it.
func NewMatrix(t *testing.T) (*matrix.Matrix, Options) {
	t.Helper()
	const limit = 5 * time.Minute
	m, err := matrix.New(Context(t, limit), shared.servers[0].DSN())
	if err != nil {
		t.Fatal(err)
	}
	return m, Options{Tables: m.DDL(matrix.Source), OnTarget: m.DDL(matrix.Target), Patterns: matrix.Patterns(), Limit: limit}
}

// Transact runs statements on every shard. In a distributed transaction all of them are one; else each is one of its own.
func (c *Cluster) Transact(distributed bool, statements func(shard int) []string) {
	c.t.Helper()
	gid := fmt.Sprintf("matrix_%s_%d", c.database, c.gids.Add(1))
	group, ctx := errgroup.WithContext(c.Ctx)
	for i, dsn := range c.ShardDSNs() {
		group.Go(func() error {
			all := statements(i)
			if distributed {
				all = append(append([]string{"BEGIN"}, all...), "PREPARE TRANSACTION '"+gid+"'")
			}
			return Run(ctx, dsn, all...)
		})
	}
	if err := group.Wait(); err != nil {
		c.t.Fatal(err)
	}
	if !distributed {
		return
	}
	for _, dsn := range c.ShardDSNs() {
		if err := Run(c.Ctx, dsn, "COMMIT PREPARED '"+gid+"'"); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Run runs statements, one after the other, on a connection of their own.
func Run(ctx context.Context, dsn string, statements ...string) error {
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
