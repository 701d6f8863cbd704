package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/bank"
	"shardcdc/test/harness"
)

// The store of NATS is replaced by an older copy. What the shards were told is durable is gone from the stream and from the
// slots: both sides stop, and say so.
func TestStreamRolledBack(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	copied := c.CopyStore()
	b.Progressed()
	b.StopTraffic()
	c.WaitApplied()
	for i := range c.Servers {
		written := c.Written(i)
		execute(t, c, c.ShardDSN(i), "INSERT INTO journal VALUES (-1, 'behind', now())")
		harness.Until(c.Ctx, t, "the shard is confirmed beyond the copy", func() (bool, string) {
			at := c.Confirmed(i)
			return at >= written, at.String()
		})
	}
	c.WaitApplied()
	rows := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal")
	c.RestoreStore(copied)
	c.CaptureFails("ahead of what was read", mend)
	c.ApplyFails("the stream lost its end", "Try: restore the stream; or copy the data anew")
	execute(t, c, c.ShardDSN(0), "INSERT INTO journal VALUES (-2, 'later', now())")
	stays(t, c, func() {
		if st, _ := c.ApplyStatus(); st.State == "caught up" || st.State == "applying" {
			t.Fatalf("the worker is %q although the stream lost what it has applied", st.State)
		}
	})
	if n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal"); n != rows {
		t.Fatalf("the journal had %s rows, and has %s", rows, n)
	}
}

// stays checks something again and again while the capture is tried some times more.
func stays(t *testing.T, c *harness.Cluster, check func()) {
	t.Helper()
	first := streamEnd(t, c)
	harness.Until(c.Ctx, t, "the capture was tried twice more", func() (bool, string) {
		check()
		return streamEnd(t, c) >= first+2, "" // each try writes an epoch
	})
}

func streamEnd(t *testing.T, c *harness.Cluster) uint64 {
	t.Helper()
	return c.StreamInfo().State.LastSeq
}

// holdSlots leaves a transaction in doubt on every shard, and returns when the stream's last checkpoint knows it: nothing more
// is confirmed from then on.
func holdSlots(t *testing.T, c *harness.Cluster, b *harness.Bank) *bank.InDoubt {
	t.Helper()
	doubt, err := b.Abandon(c.Ctx, 0, 1, 2)
	must(t, err)
	for n := range 2 {
		for i := range c.Servers {
			insert(t, c, i, 10*n+i)
			c.WaitApplied()
		}
	}
	return doubt
}

// A copy that nothing was confirmed beyond: the slots give again what the stream lost, and it goes on by itself, when the
// target has not seen that yet.
func TestStreamRolledBackInReach(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	worker := c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	b.StopTraffic()
	c.WaitApplied()
	doubt := holdSlots(t, c, b)
	c.Kill(worker)
	copied := c.CopyStore()
	execute(t, c, c.ShardDSN(0), "INSERT INTO journal VALUES (-1, 'lost', now())", "INSERT INTO journal VALUES (-2, 'lost', now())")
	execute(t, c, c.ShardDSN(1), "INSERT INTO journal VALUES (-3, 'lost', now())")
	c.WaitPublished()
	c.RestoreStore(copied)
	c.Apply()
	for _, entry := range []string{"-1", "-2", "-3"} {
		arrives(t, c, entry)
	}
	must(t, doubt.Decide(c.Ctx, true))
	c.WaitApplied()
	c.Equal()
	c.Audit()
}

// The same, and the target is ahead of the copy. What the node publishes now has the same sequence numbers as what the target
// has applied, and may be something else: a transaction that was in doubt then and is committed now takes its place among
// those that the target has. Either the worker stops and says so, or nothing is missing.
func TestStreamRolledBackUnderTheTarget(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	b.StopTraffic()
	c.WaitApplied()
	doubt := holdSlots(t, c, b)
	copied := c.CopyStore()
	c.WaitApplied() // the node has taken over again
	for i := range 6 {
		insert(t, c, i%3, 30+i)
		c.WaitApplied()
	}
	c.Kill(node)
	c.RestoreStore(copied)
	c.ApplyFails("the stream lost its end", "Try: restore the stream; or copy the data anew")
	must(t, doubt.Decide(c.Ctx, true))
	c.Node("node")
	c.WaitPublished()
	for i := range 6 {
		insert(t, c, i%3, 40+i)
		c.WaitPublished()
	}
	harness.Until(c.Ctx, t, "the worker stops, or has everything", func() (bool, string) {
		st, _ := c.ApplyStatus()
		entries := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal WHERE entry BETWEEN 40 AND 45")
		return entries == "6" || st.State == "stopped" && contains(st.Error, "Try: restore the stream"), fmt.Sprintf("%s: %s; %s of 6 entries", st.State, st.Error, entries)
	})
	if st, _ := c.ApplyStatus(); st.State != "stopped" {
		c.Equal()
	}
}

// setBytes sets the stream's limit.
func setBytes(t *testing.T, c *harness.Cluster, limit func(jetstream.StreamInfo) int64) {
	t.Helper()
	info := c.StreamInfo()
	conf := info.Config
	conf.MaxBytes = limit(info)
	_, err := c.Bus.JS.UpdateStream(c.Ctx, conf)
	must(t, err)
}

// The stream is at its limit: nothing is lost, nothing confirmed, status says so, and raising the limit is enough. A node
// that starts meanwhile waits as well.
func TestStreamFull(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	setBytes(t, c, func(s jetstream.StreamInfo) int64 { return int64(s.State.Bytes) + 100<<10 })
	c.Says("stalled", "maximum bytes exceeded")
	mark := c.Written(0)
	b.Committed(200)
	if at := c.Confirmed(0); at >= mark {
		t.Fatalf("shard a is confirmed up to %s; %s was written when the stream was full", at, mark)
	}
	c.Kill(node)
	c.Node("node")
	c.Says("maximum bytes exceeded")
	setBytes(t, c, func(jetstream.StreamInfo) int64 { return -1 })
	goesOn(t, b, "limit raised")
	c.Finish(b)
}

// The disk under the embedded server is full: the process ends and says why, and started again with room it goes on.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	if os.Geteuid() != 0 {
		cannot(t, "a file system of its own can be mounted by root only")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64m", "none", disk).CombinedOutput(); err != nil {
		cannot(t, "mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.Background(), "umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	c := harness.New(t, harness.Options{All: true, Store: filepath.Join(disk, "nats")})
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	ballast := filepath.Join(disk, "ballast")
	for range count(1, 3) {
		fill(t, ballast)
		select {
		case <-c.NATS.Done():
		case <-c.Ctx.Done():
			t.Fatalf("cdcd runs on with a full disk: %v\n%s", context.Cause(c.Ctx), c.Cdcctl("status", c.Sub.Name))
		}
		if end := c.NATS.Tail(5); !contains(end, "Try: free disk space, then restart this process") {
			t.Fatalf("its last words: %s", end)
		}
		must(t, os.Remove(ballast))
		c.StartNATS(0)
		goesOn(t, b, "disk has room again")
	}
	c.Finish(b)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(block)
	}
	for err = nil; err == nil; { // to the last page
		_, err = f.Write(block[:4096])
	}
}
