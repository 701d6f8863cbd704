package e2e

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/test/harness"
)

// A transaction that is prepared while a shard's slot is being made, and committed when it is there, comes through: PostgreSQL
// sends its content with the second phase then, and names the place of a PREPARE that lies before the slot's beginning.
func TestPreparedWhileSlotIsMade(t *testing.T) {
	const shard = 1
	made := make(chan error, 1)
	c := harness.New(t, harness.Options{Before: func(c *harness.Cluster) {
		first, second := connect(t, c, shard), connect(t, c, shard)
		begin(t, c, first, -1)
		go func() { made <- prepareMeanwhile(c, shard, first, second) }()
	}})
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	c.Node("node")
	c.Apply()
	if err := harness.Run(c.Ctx, c.ShardDSN(shard), "COMMIT PREPARED 'meanwhile'"); err != nil {
		t.Fatal(err)
	}
	c.WaitApplied()
	// What was committed before the slot was there, entries -1 and -2, is not in the stream.
	if entries := c.Query(c.TargetDSN(), "SELECT coalesce(string_agg(entry::text, ' '), '') FROM journal"); entries != "-3" {
		t.Errorf("entries %q are on the target, want -3", entries)
	}
}

func connect(t *testing.T, c *harness.Cluster, shard int) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(c.Ctx, c.ShardDSN(shard))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

const insertEntry = "INSERT INTO journal VALUES ($1, 'meanwhile', now())"

// begin leaves a transaction open.
func begin(t *testing.T, c *harness.Cluster, conn *pgx.Conn, entry int) {
	t.Helper()
	if _, err := conn.Exec(c.Ctx, "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(c.Ctx, insertEntry, entry); err != nil {
		t.Fatal(err)
	}
}

// prepareMeanwhile leads the making of a slot, which waits for transactions twice, to where another one is prepared: after the
// first wait its content is known to the slot, and before the end of the second one the slot has no beginning.
func prepareMeanwhile(c *harness.Cluster, shard int, first, second *pgx.Conn) error {
	waits := func(other *pgx.Conn) error {
		watch, err := pgx.Connect(c.Ctx, c.ShardDSN(shard))
		if err != nil {
			return err
		}
		defer watch.Close(context.Background())
		for {
			var yes bool
			err := watch.QueryRow(c.Ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_create_logical_replication_slot%' AND $1 = ANY (pg_blocking_pids(pid)))`,
				other.PgConn().PID()).Scan(&yes)
			if err != nil || yes {
				return err
			}
		}
	}
	if err := waits(first); err != nil {
		return err
	}
	for _, sql := range []string{"BEGIN", "INSERT INTO journal VALUES (-2, 'meanwhile', now())"} {
		if _, err := second.Exec(c.Ctx, sql); err != nil {
			return err
		}
	}
	if _, err := first.Exec(c.Ctx, "COMMIT"); err != nil {
		return err
	}
	if err := waits(second); err != nil {
		return err
	}
	if err := harness.Run(c.Ctx, c.ShardDSN(shard), "BEGIN", "INSERT INTO journal VALUES (-3, 'meanwhile', now())", "PREPARE TRANSACTION 'meanwhile'"); err != nil {
		return err
	}
	_, err := second.Exec(c.Ctx, "COMMIT")
	return err
}
