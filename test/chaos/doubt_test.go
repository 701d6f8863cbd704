package chaos

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
	"shardcdc/test/harness"
)

// A transaction stays in doubt: it blocks nothing, status shows the oldest one and the WAL that is kept for it, and a node
// that starts anew knows of it.
func TestInDoubtForLong(t *testing.T) {
	c := harness.New(t, harness.Options{})
	node := c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	doubt, err := b.Abandon(c.Ctx, 0, 2)
	must(t, err)
	later, err := b.Abandon(c.Ctx, 1)
	must(t, err)
	shown := func() control.CaptureStatus {
		t.Helper()
		var st control.CaptureStatus
		harness.Until(c.Ctx, t, "status shows the oldest transaction in doubt", func() (bool, string) {
			st, _ = c.Capture()
			return st.InDoubt != nil && st.InDoubt.GID == doubt.GID(), fmt.Sprintf("%s: %+v", st.State, st.InDoubt)
		})
		c.Says("in doubt", fmt.Sprintf("gid %q", doubt.GID()), "on shard", "Try: COMMIT PREPARED or ROLLBACK PREPARED")
		return st
	}
	shown()
	confirmed := c.Confirmed(0)
	b.Committed(int64(count(300, 2000)))
	b.Progressed()
	c.Kill(node)
	c.Node("node")
	b.Progressed()
	st := shown()
	for _, i := range []int{0, 2} {
		if st.Shards[i].RetainedWAL == 0 {
			t.Errorf("shard %s keeps WAL for the transaction, and status says none", st.Shards[i].Name)
		}
	}
	prepared := c.Written(0)
	must(t, doubt.Decide(c.Ctx, false))
	must(t, later.Decide(c.Ctx, true))
	b.Progressed()
	harness.Until(c.Ctx, t, "the slot lets go", func() (bool, string) {
		st, _ := c.Capture()
		at := c.Confirmed(0)
		return at >= prepared && (st.InDoubt == nil || st.InDoubt.GID != doubt.GID()), fmt.Sprintf("%s, from %s; in doubt: %+v", at, confirmed, st.InDoubt)
	})
	c.Finish(b)
}

// Coordinators that give the same gid again: by the same shards at once, by others when max_clock_skew has passed; after a
// commit, after a rollback, and with a node that starts in between. Each use is a transaction of its own.
func TestGIDUsedAgain(t *testing.T) {
	const skew = 50 * time.Millisecond
	c := harness.New(t, harness.Options{Skew: skew})
	node := c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{PerSecond: 100})
	b.Progressed()
	c.Reused["again"] = true
	uses, used := 0, time.Time{}
	use := func(verb string, shards ...int) {
		uses++
		for _, i := range shards {
			execute(t, c, c.ShardDSN(i), "BEGIN", fmt.Sprintf("INSERT INTO journal VALUES (%d, '%s', now())", -uses*10-i, verb), "PREPARE TRANSACTION 'again'")
		}
		for _, i := range shards {
			execute(t, c, c.ShardDSN(i), verb+" PREPARED 'again'")
		}
		used = time.Now()
	}
	later := func() {
		harness.Until(c.Ctx, t, "max_clock_skew has passed", func() (bool, string) { return time.Since(used) > 2*skew, "" })
	}
	for round := range count(2, 6) {
		use("COMMIT", 0, 1)
		use("COMMIT", 0, 1)
		later()
		use("ROLLBACK", 1, 2)
		later()
		use("COMMIT", 1, 2)
		later()
		use("COMMIT", 2)
		if round%2 == 0 {
			c.Kill(node)
			node = c.Node("node")
		}
		use("ROLLBACK", 2)
		later()
		use("COMMIT", 0, 1, 2)
		b.Progressed()
	}
	b.StopTraffic()
	c.WaitApplied()
	c.Equal()
	c.Audit()
	if n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal WHERE what = 'ROLLBACK'"); n != "0" {
		t.Fatalf("%s rows that were rolled back are on the target", n)
	}
}

// The same gid by other shards before max_clock_skew has passed: near the stream's end positions keep the uses apart; what
// they cannot stops and says so.
func TestGIDUsedAgainAtOnce(t *testing.T) {
	whole(t)
	c := harness.New(t, harness.Options{Limit: time.Minute})
	c.Node("node")
	c.Apply()
	for round := range 20 {
		for _, shards := range [][]int{{0, 1}, {1, 2}, {2}, {0, 1, 2}} {
			for _, i := range shards {
				execute(t, c, c.ShardDSN(i), "BEGIN", fmt.Sprintf("INSERT INTO journal VALUES (%d, 'again', now())", round*10+i), "PREPARE TRANSACTION 'again'")
			}
			for _, i := range shards {
				execute(t, c, c.ShardDSN(i), "COMMIT PREPARED 'again'")
			}
		}
	}
	const rows = 20 * (2 + 2 + 1 + 3)
	stopped := ""
	harness.Until(c.Ctx, t, "everything is applied, or the capture stops", func() (bool, string) {
		if st, ok := c.Capture(); ok && st.State == "failed" {
			stopped = st.Error
			return true, ""
		}
		n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal")
		return n == strconv.Itoa(rows), n
	})
	if stopped != "" {
		if !strings.Contains(stopped, "was used again too soon") && !strings.Contains(stopped, "streams wait for each other") {
			t.Fatal(stopped)
		}
		t.Log(stopped)
		return
	}
	c.Equal()
	c.Audit()
}
