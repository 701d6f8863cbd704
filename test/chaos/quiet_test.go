package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"shardcdc/test/harness"
)

// One shard works; another one changes only tables that are not published; the third does nothing. None holds up the first
// one's transactions, and each one's slot lets go of its WAL.
func TestQuietShards(t *testing.T) {
	c := harness.New(t, harness.Options{})
	execute(t, c, c.ShardDSN(1), "CREATE SCHEMA elsewhere", "CREATE TABLE elsewhere.busy (id int, what text)")
	c.Node("node")
	c.Apply()
	c.Running()
	busy := connect(t, c, c.ShardDSN(1))
	const within = 5 * time.Second // a heartbeat comes every 10 s: to wait for one would be too late
	for i := range count(10, 50) {
		if _, err := busy.Exec(c.Ctx, "INSERT INTO elsewhere.busy SELECT g, repeat('x', 100) FROM generate_series(1, 1000) AS g"); err != nil {
			t.Fatal(err)
		}
		insert(t, c, 0, i)
		ctx, cancel := context.WithTimeoutCause(c.Ctx, within, fmt.Errorf("%s are over", within))
		harness.Until(ctx, t, fmt.Sprintf("row %d is on the target", i), func() (bool, string) {
			st, _ := c.Capture()
			n := c.Query(c.TargetDSN(), fmt.Sprintf("SELECT count(*)::text FROM journal WHERE entry = %d", i))
			return n == "1", fmt.Sprintf("it is not; the node is %s, waits for %v", st.State, st.WaitsFor)
		})
		cancel()
	}
	// Nothing more is published: heartbeats alone move the slots on.
	for i := range c.Servers {
		written := c.Written(i)
		harness.Until(c.Ctx, t, fmt.Sprintf("shard %d lets go of its WAL", i), func() (bool, string) {
			at := c.Confirmed(i)
			return at >= written, fmt.Sprintf("confirmed %s, written %s", at, written)
		})
	}
	c.WaitApplied()
	c.Equal()
}
