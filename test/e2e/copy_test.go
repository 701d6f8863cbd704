package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/test/harness"
)

// The rows that are there when a subscription is made are copied under load, and the target is as the source, and obeys the
// bank's laws, from the end of the copy on.
func TestCopy(t *testing.T) {
	s := harness.NewCopied(t, 30_000, harness.Options{})
	s.Churn.Truncates()
	s.Node("node")
	s.Apply()
	s.WatchConsistent()
	s.Finish()
	s.CopiedOnce(1)
}

// Every type and every shape of table, copied, with changes before, during and after the copy.
func TestMatrixCopied(t *testing.T) {
	m, o := harness.NewMatrix(t)
	o.Copy = harness.CopyToEmpty
	o.Before = func(c *harness.Cluster) {
		c.Transact(true, func(i int) []string { return m.Fill(i, harness.Shards) })
		c.Transact(false, func(i int) []string { return m.Change(i, harness.Shards, 1) })
	}
	c := harness.New(t, o)
	c.Node("node")
	c.Apply()
	for round := 2; round <= matrixRounds; round++ { // while it copies
		c.Transact(round%2 == 0, func(i int) []string { return m.Change(i, harness.Shards, round) })
	}
	st := c.Consistent()
	t.Logf("%d rows, %d bytes copied", st.Rows, st.Bytes)
	c.WaitApplied()
	c.SameTables(m.Tables())
	c.Transact(true, func(i int) []string { return m.Change(i, harness.Shards, matrixRounds+1) })
	c.WaitApplied()
	c.SameTables(m.Tables())
	c.ProvesEqual()
	everyTable(t, c, m)
}

// The node is killed at random moments of the copy: it goes on, and copies nothing twice.
func TestCopyNodeKilled(t *testing.T) {
	s := harness.NewCopied(t, 40_000, harness.Options{CopyArgs: []string{"--copy-rate", "2MB"}})
	node := s.Node("node")
	s.Apply()
	dice := rand.New(rand.NewPCG(s.Seed, 0))
	for n := int64(1); s.Copied(dice.Int64N(n * 5000)); n++ {
		s.Kill(node)
		node = s.Node("node")
		if n == 5 {
			break
		}
	}
	s.WatchConsistent()
	s.Finish()
	s.CopiedOnce(1)
}

// Tables join a running subscription, are copied anew, and leave it, all under load.
func TestTablesComeAndGo(t *testing.T) {
	s := harness.NewCopied(t, 15_000, harness.Options{Patterns: []string{"public.*", "-public.rows", "-public.heap", "-public.short"}})
	s.Node("node")
	s.Apply()
	s.Consistent()
	s.Bank.StartWatch()
	name := s.Sub.Name
	target := func(sql string) string { return s.Query(s.TargetDSN(), sql) }
	if n := target("SELECT count(*)::text FROM rows"); n != "0" {
		t.Fatalf("%s rows of a table that is not in the subscription", n)
	}
	t.Log(s.Do("add-table", name, "public.rows", "public.heap", "public.short"))
	s.Consistent()
	s.Churn.Changed(200)
	s.Churn.Stop()
	s.WaitApplied()
	s.SameChurn()
	s.Churn.Start()

	for _, table := range []string{"public.rows", "public.heap"} {
		before := s.Consistent()
		t.Log(s.Do("resync", name, "--table", table))
		if after := s.Consistent(); after.Job == before.Job {
			t.Fatalf("no job copies %s anew: %+v", table, after)
		}
	}
	s.Churn.Stop()
	s.WaitApplied()
	if err := harness.Run(s.Ctx, s.TargetDSN(), "DELETE FROM rows WHERE id % 7 = 0"); err != nil { // a target that was spoilt
		t.Fatal(err)
	}
	t.Log(s.Do("resync", name, "--table", "public.rows"))
	s.Consistent()
	s.Churn.Start()
	s.Churn.Changed(100)
	s.Churn.Stop()
	s.WaitApplied()
	s.SameChurn()
	s.ProvesEqual()

	t.Log(s.Do("remove-table", name, "public.heap"))
	s.Churn.Start()
	s.Churn.Changed(200)
	s.Churn.Stop()
	s.WaitApplied()
	s.SameTables([]string{"public.rows", "public.short"})
	if n := s.Query(s.ShardDSN(0), "SELECT count(*)::text FROM pg_publication_tables WHERE tablename = 'heap'"); n != "0" {
		t.Error("the table that left is published still")
	}
	s.FinishCopied(s.Bank)
}

// The copy waits for transactions that were open when it began, and says for whom.
func TestCopyWaitsForWriters(t *testing.T) {
	c := harness.New(t, harness.Options{Copy: harness.CopyToEmpty, Tables: harness.ChurnDDL, Before: func(c *harness.Cluster) { c.FillChurn(900) }})
	open, err := pgx.Connect(c.Ctx, c.ShardDSN(1))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close(context.Background())
	for _, sql := range []string{"BEGIN", "INSERT INTO rows VALUES (-1, 1, 'open'); UPDATE rows SET v = 5 WHERE id < 300; DELETE FROM heap WHERE v = 1"} {
		if _, err := open.Exec(c.Ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := harness.Run(c.Ctx, c.ShardDSN(2), "BEGIN", "INSERT INTO rows VALUES (-2, 1, 'prepared'); UPDATE rows SET id = -id WHERE id = 302; INSERT INTO heap VALUES (2, 2, 'prepared')", "PREPARE TRANSACTION 'long_one'"); err != nil {
		t.Fatal(err)
	}
	c.Node("node")
	c.Apply()
	waiting := func(shard, who string) {
		t.Helper()
		harness.Until(c.Ctx, t, "the copy waits for "+who+" on shard "+shard, func() (bool, string) {
			st, ok := c.Capture()
			if !ok || st.Copy == nil {
				return false, "no node answers: " + st.Error
			}
			if st.Copy.State.Ended() {
				t.Fatalf("the copy did not wait for %s: %+v", who, st.Copy)
			}
			text := strings.Join(st.Copy.Waiting, "; ")
			return strings.Contains(text, "shard "+shard) && strings.Contains(text, who), text
		})
	}
	waiting("b", fmt.Sprint(open.PgConn().PID()))
	waiting("c", "long_one")
	if said := c.Says("not yet consistent"); strings.Contains(said, "consistent from csn") {
		t.Errorf("cdcctl status names a csn from which on the target is consistent while it is being copied:\n%s", said)
	}
	if !strings.Contains(c.Cdcctl("status", c.Sub.Name), "long_one") {
		t.Errorf("cdcctl status does not say for whom the copy waits:\n%s", c.Cdcctl("status", c.Sub.Name))
	}
	if err := harness.Run(c.Ctx, c.ShardDSN(2), "COMMIT PREPARED 'long_one'"); err != nil {
		t.Fatal(err)
	}
	waiting("b", fmt.Sprint(open.PgConn().PID()))
	if _, err := open.Exec(c.Ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	st := c.Consistent()
	c.Says("consistent from csn " + st.ConsistentFrom.String())
	c.WaitApplied()
	c.SameChurn()
	c.ProvesEqual()
}

// A target that holds rows already: nothing is changed, or they go, or they stay, as was asked for.
func TestTargetHasRows(t *testing.T) {
	fill := func(c *harness.Cluster) {
		c.FillChurn(900)
		if err := harness.Run(c.Ctx, c.TargetDSN(), "INSERT INTO rows SELECT g, -5, 'of the target' FROM generate_series(100, 200) AS g; INSERT INTO rows VALUES (-77, 0, 'more')"); err != nil {
			t.Fatal(err)
		}
	}
	extra := func(c *harness.Cluster) string {
		return c.Query(c.TargetDSN(), "SELECT format('%s %s', count(*) FILTER (WHERE id = -77), count(*) FILTER (WHERE v = -5)) FROM rows")
	}
	for copying, want := range map[harness.Copy]string{harness.CopyTruncate: "0 0", harness.CopyMerge: "1 0"} {
		t.Run(string(copying), func(t *testing.T) {
			c := harness.New(t, harness.Options{Copy: copying, Tables: harness.ChurnDDL, Before: fill})
			c.Node("node")
			c.Apply()
			c.Consistent()
			c.WaitApplied()
			if got := extra(c); got != want {
				t.Errorf("rows of the target's own, and such that were to be replaced: %s, want %s", got, want)
			}
			if copying == harness.CopyMerge {
				if err := harness.Run(c.Ctx, c.TargetDSN(), "DELETE FROM rows WHERE id = -77"); err != nil {
					t.Fatal(err)
				}
			}
			c.SameChurn()
		})
	}
	t.Run("fail", func(t *testing.T) {
		c := harness.New(t, harness.Options{Tables: harness.ChurnDDL, Before: fill})
		args := []string{"create-subscription", c.Sub.Name + "_2", "--copy-data=true", "--target", harness.TargetName + "=" + c.TargetDSN()}
		for i, dsn := range c.ShardDSNs() {
			args = append(args, "--shard", harness.ShardName(i)+"="+dsn)
		}
		out, err := c.Try(args...)
		for _, want := range []string{"public.rows", "TRUNCATE", "merge"} {
			if err == nil || !strings.Contains(out, want) {
				t.Fatalf("want a refusal with %q: %v %s", want, err, out)
			}
		}
	})
}
