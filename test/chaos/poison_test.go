package chaos

import (
	"testing"

	"shardcdc/pipeline/bank"
	"shardcdc/test/harness"
)

// The target refuses a row. Everything before it arrives, nothing behind it; status says which transaction, table and row,
// and when the target is mended it goes on, with nothing missing.
func TestPoison(t *testing.T) {
	c := harness.New(t, harness.Options{})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	execute(t, c, c.TargetDSN(), "ALTER TABLE notes ADD CONSTRAINT no_poison CHECK (title IS DISTINCT FROM 'poison')")
	execute(t, c, c.ShardDSN(1), "INSERT INTO journal VALUES (-1, 'before', now())")
	arrives(t, c, "-1") // a unit is applied whole, so it must not be in the same one
	execute(t, c, c.ShardDSN(1),
		"INSERT INTO notes (id, title, at) VALUES (-7, 'poison', now())",
		"INSERT INTO journal VALUES (-2, 'behind', now())")
	c.Extra += 3
	c.ApplyFails("csn ", "notes", "-7", "no_poison", "Try: drop or correct the constraint on the target; it goes on by itself")
	b.Committed(200)
	st, _ := c.ApplyStatus()
	csn := st.AppliedCSN
	if got := c.Query(c.TargetDSN(), "SELECT string_agg(entry::text, ' ' ORDER BY entry) FROM journal WHERE entry < 0"); got != "-1" {
		t.Fatalf("on the target are %q, want -1 alone: it came before", got)
	}
	b.Committed(100)
	if st, _ := c.ApplyStatus(); st.AppliedCSN != csn || st.State != "blocked" {
		t.Fatalf("the worker is %s at csn %s, and was blocked at %s", st.State, st.AppliedCSN, csn)
	}
	execute(t, c, c.TargetDSN(), "ALTER TABLE notes DROP CONSTRAINT no_poison")
	arrives(t, c, "-2")
	goesOn(t, b, "mended")
	c.Finish(b)
}
