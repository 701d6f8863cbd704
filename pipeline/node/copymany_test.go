package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/subscribe"
)

// A copy of more tables than a job can name fails with a sentence; the capture goes on without it.
func TestCopyOfTooManyTables(t *testing.T) {
	for _, initial := range []bool{true, false} {
		t.Run(fmt.Sprintf("fresh stream %v", initial), func(t *testing.T) {
			t.Parallel()
			c := newCopyRig(t, 1, nil)
			srv := natstest.Configured(t, fmt.Sprintf("listen: \"127.0.0.1:-1\"\nmax_payload: 128KB\njetstream { store_dir: %q }", t.TempDir()))
			c.bus = natstest.Connect(t, control.Connection{URL: srv.ClientURL(), Extra: []nats.Option{nats.Name("test")}})
			for i := range 6 {
				_, err := c.shards[0].Exec(c.ctx, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE 'CREATE TABLE t' || md5(i || '.%d') || left(md5(i || ':%[1]d'), 28) || ' (n int)'; END LOOP; END $$`, i))
				c.must(err)
			}
			c.exec(c.shards[0], "CREATE PUBLICATION everything FOR ALL TABLES")
			var err error
			c.sub, _, err = subscribe.Create(c.ctx, c.bus, subscribe.Spec{
				Name: "bank", Publications: []string{"everything"}, CopyData: initial, TargetRows: "merge",
				Shards: []subscribe.Shard{{Name: "a", DSN: c.dsns[0]}},
			})
			c.must(err)
			c.node("n1")
			if !initial {
				c.exec(c.shards[0], "INSERT INTO items VALUES (1)")
				c.captured()
				c.order(control.CopyInitial)
			}
			copies := c.copies()
			pausetest.Until(c.ctx, t, "the copy has failed", func() bool {
				jobs, err := copies.Jobs(c.ctx, "bank")
				c.must(err)
				if jobs[0].State != control.CopyFailed {
					return false
				}
				for _, part := range []string{"6003 tables are too many for one job: ", "compressed", "Try: a larger max_payload"} {
					if !strings.Contains(jobs[0].Error, part) {
						t.Errorf("%q does not say %q", jobs[0].Error, part)
					}
				}
				return true
			})
			c.exec(c.shards[0], "INSERT INTO items VALUES (2)")
			c.replayed(newReplay(t, false), "items")
		})
	}
}
