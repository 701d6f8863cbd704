package chaos

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// A copyStage is a stage whose tables are copied, again and again.
type copyStage struct {
	*stage
	copied *harness.Copied
	last   string // job
	jobs   int    // that copied the churn's tables
}

func openCopyStage(t *testing.T, rows int, o harness.Options) *copyStage {
	t.Helper()
	o.Limit, o.Lease = time.Hour, lease
	s := &copyStage{copied: harness.NewCopied(t, rows, o)}
	s.stage = &stage{t: t, c: s.copied.Cluster, b: s.copied.Bank, dice: rand.New(rand.NewPCG(s.copied.Seed, 0))}
	for i := range 2 {
		s.nodes = append(s.nodes, s.c.Node(fmt.Sprintf("node%d", i)))
		s.workers = append(s.workers, s.c.Worker(fmt.Sprintf("apply%d", i)))
	}
	return s
}

// job is the copy that runs, or the last one.
func (s *copyStage) job() (st control.CopyStatus) {
	s.t.Helper()
	defer s.c.Limit(trialTime, "asking for the copy")()
	harness.Until(s.c.Ctx, s.t, "a node says how far the copy is", func() (bool, string) {
		all, ok := s.c.Capture()
		if !ok || all.Copy == nil {
			return false, all.State + " " + all.Error
		}
		st = *all.Copy
		return true, ""
	})
	if st.State == control.CopyFailed {
		s.t.Fatalf("the copy failed: %s", st.Error)
	}
	if st.Job != s.last {
		s.last = st.Job
		s.jobs++
	}
	return st
}

// copying makes sure that a copy runs. When the first one is done, the laws of the bank hold; its tables are not copied again.
func (s *copyStage) copying() {
	s.t.Helper()
	for s.job().State.Ended() {
		s.settled()
		before := s.last
		s.c.Do("resync", s.c.Sub.Name, "--table", "public.rows,public.heap,public.short", "--no-wait")
		harness.Until(s.c.Ctx, s.t, "the next copy begins", func() (bool, string) { return s.job().Job != before, "" })
	}
}

// settled waits for the end of the copy.
func (s *copyStage) settled() {
	s.t.Helper()
	defer s.c.Limit(2*trialTime, "the end of the copy")()
	if s.b.Watch == nil {
		s.copied.WatchConsistent()
		return
	}
	s.c.Consistent()
}

// During copies everything is killed, paused, restarted, in random order at random moments; tables are emptied, rows get
// other keys and go from shard to shard. Copies go on and copy each row once; from the end of the first one on the bank's
// laws hold on the target, and in the end all is equal.
func TestCopyRandom(t *testing.T) {
	s := openCopyStage(t, 60_000, harness.Options{CopyArgs: []string{"--copy-rate", "2MB"}})
	s.copied.Churn.Truncates()
	for n := range count(4, 40) {
		s.copying()
		s.wait(time.Duration(s.dice.Int64N(int64(1500 * time.Millisecond))))
		at := s.job()
		t.Logf("%d: %s at %d rows of %d, %s", n, s.misbehave(), at.Rows, at.RowsEstimate, at.State)
	}
	s.end()
}

// The node is killed at twenty random moments of a copy.
func TestCopyNodeKilled(t *testing.T) {
	whole(t)
	s := openCopyStage(t, 60_000, harness.Options{CopyArgs: []string{"--copy-rate", "2MB"}})
	for n := range 20 {
		s.copying()
		s.wait(time.Duration(s.dice.Int64N(int64(time.Second))))
		at := s.job()
		s.kill(s.named(s.nodes, s.c.Running()))
		t.Logf("%d: killed at %d rows of %d, %s", n, at.Rows, at.RowsEstimate, at.State)
	}
	s.end()
}

func (s *copyStage) end() {
	s.t.Helper()
	s.job()
	s.settled()
	defer s.c.Limit(3*trialTime, "the end")()
	s.copied.Finish()
	s.copied.CopiedOnce(s.jobs)
}

// One value of 100 MB is copied; it comes, stays as it is while its row changes, changes, and goes with a new key.
func TestLargeValue(t *testing.T) {
	whole(t)
	const large = "repeat('0123456789', 10 * 1024 * 1024)"
	c := harness.New(t, harness.Options{
		Tables: "CREATE TABLE large (id int PRIMARY KEY, v text, n int); ALTER TABLE large ALTER v SET STORAGE EXTERNAL;" +
			"CREATE TABLE heap (v bytea); ALTER TABLE heap ALTER v SET STORAGE EXTERNAL; ALTER TABLE heap REPLICA IDENTITY FULL",
		Copy: harness.CopyToEmpty,
		Before: func(c *harness.Cluster) {
			execute(t, c, c.ShardDSN(0), "INSERT INTO large VALUES (0, "+large+", 0)")
			execute(t, c, c.ShardDSN(1), "INSERT INTO heap VALUES (decode(repeat('00ff', 10 * 1024 * 1024), 'hex')), ('')")
		},
	})
	node, worker := c.Node("node"), c.Apply()
	c.Consistent()
	for step, sql := range []string{
		"UPDATE large SET n = 7", "INSERT INTO large VALUES (1, " + large + ", 1)", "UPDATE large SET n = 2 WHERE id = 1", "UPDATE large SET id = 2 WHERE id = 1",
		"UPDATE large SET v = v || 'x' WHERE id = 2", "UPDATE large SET v = 'small'",
	} {
		execute(t, c, c.ShardDSN(0), sql)
		c.WaitApplied()
		const sum = "SELECT string_agg(format('%s %s %s %s', id, n, length(v), md5(v)), ',' ORDER BY id) FROM large"
		if source, target := c.Query(c.ShardDSN(0), sum), c.Query(c.TargetDSN(), sum); source != target {
			t.Fatalf("after step %d: the source has %s, the target %s", step, source, target)
		}
	}
	for _, p := range []*program.Program{node, worker} {
		u, err := harness.UsageOf(p.PID())
		must(t, err)
		t.Logf("%s: %d MiB resident at most", p.Name(), u.ResidentMost>>20)
	}
	c.SameTables([]string{"public.large", "public.heap"})
	c.ProvesEqual()
}

// Every type and every shape of table: copied while the node is killed, copied anew onto emptied tables, and onto rows that are
// there already.
func TestMatrixCopiedAgain(t *testing.T) {
	whole(t)
	m, o := harness.NewMatrix(t)
	o.Copy = harness.CopyToEmpty
	o.Before = func(c *harness.Cluster) {
		c.Transact(true, func(i int) []string { return m.Fill(i, harness.Shards) })
		c.Transact(true, func(i int) []string { return m.Change(i, harness.Shards, 1) })
	}
	c := harness.New(t, o)
	node, worker := c.Node("node"), c.Apply()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	for n := int64(1); n <= 5 && c.Copied(n*dice.Int64N(2000)); n++ {
		c.Kill(node)
		c.Kill(worker)
		node, worker = c.Node("node"), c.Apply()
		c.Transact(n%2 == 0, func(i int) []string { return m.Change(i, harness.Shards, 1+int(n)) })
	}
	same := func() {
		t.Helper()
		c.Consistent()
		c.WaitApplied()
		c.SameTables(m.Tables())
	}
	same()
	t.Log(c.Do("resync", c.Sub.Name, "--table", `public.*,"s.ch.""q".*`))
	same()
	t.Log(c.Do("resync", c.Sub.Name, "--table", "public.types,public.arrays,public.key_*,public.toast,public.wide,public.by_list,public.by_range", "--if-target-has-rows", "merge"))
	same()
	c.ProvesEqual()
}
