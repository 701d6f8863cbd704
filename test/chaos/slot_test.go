package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// mend is what every slot that lost something needs.
const mend = "Try: cdcctl drop-subscription and create-subscription"

// unread ends the replication of shard 0 and keeps the node from coming back, so that the slot can be changed.
func unread(t *testing.T, c *harness.Cluster, node *program.Program) {
	t.Helper()
	must(t, node.Pause())
	slot := c.Sub.Shards[0].Slot
	harness.Until(c.Ctx, t, "slot "+slot+" is free", func() (bool, string) {
		active := c.Query(c.ShardDSN(0), "SELECT coalesce(pg_terminate_backend(active_pid), false)::text FROM pg_replication_slots WHERE slot_name = $1", slot)
		return active == "false", active
	})
}

func insert(t *testing.T, c *harness.Cluster, shard, entry int) {
	t.Helper()
	execute(t, c, c.ShardDSN(shard), fmt.Sprintf("INSERT INTO journal VALUES (%d, 'entry', now())", entry))
}

// The slot is dropped, then made again by hand: where it stands now, something is missing, and the node never reads from
// it. A new subscription goes on.
func TestSlotDropped(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	insert(t, c, 0, 1)
	arrives(t, c, "1")
	slot := c.Sub.Shards[0].Slot
	unread(t, c, node)
	execute(t, c, c.ShardDSN(0), "SELECT pg_drop_replication_slot('"+slot+"')")
	insert(t, c, 0, 2)
	must(t, node.Resume())
	c.CaptureFails("shard a:", "slot \""+slot+"\" does not exist", mend)
	for _, twoPhase := range []bool{false, true} {
		execute(t, c, c.ShardDSN(0), fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput', false, %v)", slot, twoPhase))
		insert(t, c, 0, 3)
		if twoPhase {
			c.CaptureFails("shard a:", "ahead of what was read", "somebody else has moved it", mend)
		} else {
			c.CaptureFails("shard a:", "was made without two_phase", "Try:")
			execute(t, c, c.ShardDSN(0), "SELECT pg_drop_replication_slot('"+slot+"')")
		}
	}
	if n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal"); n != "1" {
		t.Fatalf("%s rows are on the target, want 1: what was lost may not be passed over", n)
	}
	c.Resubscribe()
	insert(t, c, 0, 4)
	arrives(t, c, "4")
}

// The server throws away WAL that the slot still needs, as max_slot_wal_keep_size tells it to.
func TestSlotInvalidated(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	insert(t, c, 0, 1)
	arrives(t, c, "1")
	t.Cleanup(func() {
		execute(t, c, c.Servers[0].DSN(), "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
	})
	unread(t, c, node)
	execute(t, c, c.Servers[0].DSN(), "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'", "SELECT pg_reload_conf()")
	harness.Until(c.Ctx, t, "the slot is lost", func() (bool, string) {
		insert(t, c, 0, 2)
		execute(t, c, c.ShardDSN(0), "SELECT pg_switch_wal()", "CHECKPOINT")
		status := c.Query(c.ShardDSN(0), "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1", c.Sub.Shards[0].Slot)
		return status == "lost", status
	})
	must(t, node.Resume())
	c.CaptureFails("shard a:", "is invalid (wal_status lost", mend)
}

// Another server answers behind the DSN: here another shard's, with a database of the same name.
func TestAnotherServer(t *testing.T) {
	c := harness.New(t, harness.Options{Proxied: true})
	c.Node("node")
	c.Apply()
	insert(t, c, 0, 1)
	arrives(t, c, "1")
	c.ShardProxies[0].Redirect(fmt.Sprintf("127.0.0.1:%d", c.Servers[1].Port()))
	c.CaptureFails("shard a:", "another server answers", "Try: correct the DSN")
	insert(t, c, 0, 2)
	c.ShardProxies[0].Redirect(fmt.Sprintf("127.0.0.1:%d", c.Servers[0].Port()))
	arrives(t, c, "2")
	c.WaitApplied()
	c.Equal()
}

// A shard's server comes back promoted, on another timeline.
func TestShardPromoted(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	insert(t, c, 0, 1)
	arrives(t, c, "1")
	must(t, c.Servers[0].Stop(c.Ctx, throwaway.Fast))
	promoteAtStart(t, c.Servers[0])
	must(t, c.Servers[0].Start(c.Ctx))
	c.CaptureFails("shard a:", "on timeline 2, the subscription on 1", mend)
}

// promoteAtStart lets a stopped server begin as if it were restored from an archive: it ends on a new timeline.
func promoteAtStart(t *testing.T, s *throwaway.Server) {
	t.Helper()
	data := filepath.Join(s.Dir(), "data")
	own := func(name, text string) {
		f, err := os.OpenFile(filepath.Join(data, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		must(t, err)
		_, err = f.WriteString(text)
		must(t, err)
		must(t, f.Close())
	}
	own("postgresql.auto.conf", "restore_command = 'false'\n")
	own("recovery.signal", "")
	if os.Geteuid() == 0 {
		run(t, "chown", "--reference="+filepath.Join(data, "PG_VERSION"), filepath.Join(data, "recovery.signal"), filepath.Join(data, "postgresql.auto.conf"))
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// A shard's server is replaced by an older copy of its files: same identifier, same timeline, and what was read of it since
// the copy never happened. Its new commits have positions that were read before, and would be passed over.
func TestShardRestored(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	insert(t, c, 0, 1)
	arrives(t, c, "1")
	s := c.Servers[0]
	data := filepath.Join(s.Dir(), "data")
	must(t, s.Stop(c.Ctx, throwaway.Fast))
	run(t, "cp", "-a", data, data+".copy")
	must(t, s.Start(c.Ctx))
	execute(t, c, c.ShardDSN(0), "INSERT INTO journal SELECT -g, 'entry', now() FROM generate_series(1, 2000) AS g")
	c.WaitApplied()
	for _, restartNode := range []bool{false, true} {
		must(t, s.Stop(c.Ctx, throwaway.Immediate))
		run(t, "rm", "-r", data)
		run(t, "cp", "-a", data+".copy", data)
		must(t, s.Start(c.Ctx))
		if restartNode {
			c.Kill(node)
			c.Node("node")
		}
		insert(t, c, 0, 2)
		c.CaptureFails("shard a:", "its WAL ends at", "restored from an older copy", mend)
	}
	if n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal WHERE entry = 2"); n != "0" {
		t.Fatal("the row of the restored server is on the target")
	}
}

// Tables or publications that somebody drops: no silence either.
func TestPublicationDropped(t *testing.T) {
	whole(t)
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	insert(t, c, 0, 1)
	arrives(t, c, "1")
	publication := pgx.Identifier{c.Sub.Shards[0].Publications[0]}.Sanitize()
	execute(t, c, c.ShardDSN(0), "DROP PUBLICATION "+publication)
	insert(t, c, 0, 2)
	c.CaptureFails("shard a:", "publication", "does not exist", "Try: create it again")
	execute(t, c, c.ShardDSN(0), "CREATE PUBLICATION "+publication+" FOR TABLE journal")
	c.Kill(node)
	c.Node("node")
	began := time.Now()
	// The row was written while the publication was not there: pgoutput looks at the catalog of that moment.
	c.CaptureFails("shard a:", "publication")
	t.Logf("still refused after %s", time.Since(began).Round(time.Millisecond))
}
