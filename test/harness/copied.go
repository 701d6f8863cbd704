package harness

import (
	"testing"
	"time"

	"shardcdc/pipeline/bank"
)

// Copied is a cluster whose rows, and the traffic on them, are older than its subscription, which copies them.
type Copied struct {
	*Cluster
	Bank  *Bank // not watched yet: see Consistent
	Churn *Churn

	rows int // that Churn began with
}

// NewCopied makes rows, lets the traffic run on them, and then makes the subscription. Nothing of the product runs yet.
func NewCopied(t *testing.T, rows int, o Options) *Copied {
	t.Helper()
	s := &Copied{rows: rows}
	if o.Copy == NoCopy {
		o.Copy = CopyToEmpty
	}
	o.Tables += ChurnDDL
	o.Before = func(c *Cluster) {
		c.FillChurn(rows)
		s.Bank = c.OpenBankUnwatched(bank.Config{PerSecond: 100, AbandonEvery: 100, InDoubt: 500 * time.Millisecond})
		s.Churn = c.OpenChurn(rows, 100)
		s.Bank.Committed(100)
		s.Churn.Changed(100)
	}
	s.Cluster = New(t, o)
	return s
}

// WatchConsistent waits until the target is consistent, and watches from there on that it obeys the bank's laws.
func (s *Copied) WatchConsistent() {
	s.t.Helper()
	st := s.Consistent()
	s.t.Logf("%d rows, %d bytes copied; consistent from csn %s", st.Rows, st.Bytes, st.ConsistentFrom)
	s.Bank.StartWatch()
}

// Finish lets the traffic go on for a while, ends it, and compares everything.
func (s *Copied) Finish() {
	s.t.Helper()
	s.Bank.Committed(200)
	s.Bank.Progressed()
	s.Churn.Stop()
	s.FinishCopied(s.Bank)
	s.SameChurn()
	s.ProvesEqual()
}

// CopiedOnce checks that no row was copied twice, but for those that got another key meanwhile. times: how many jobs copied
// the table.
func (s *Copied) CopiedOnce(times int) {
	s.t.Helper()
	reads := s.Reads()["public.rows"]
	moved, inserted := s.Churn.Moved(), s.Churn.Inserted()
	s.t.Logf("%d rows were copied of %d; %d had got another key, %d were new", reads, s.rows, moved, inserted)
	if most := int64(times)*(int64(s.rows)+inserted) + moved; reads > most {
		s.t.Errorf("%d rows were copied, more than %d: some more than once", reads, most)
	}
}
