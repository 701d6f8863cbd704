package apply

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/pipeline"
)

// TestStatusOfCopies: what the target says about copies is shown with the progress that it belongs to, from the start on;
// the sequence at which the worker began stays, whatever happens.
func TestStatusOfCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{info: StreamInfo{ID: "a", First: 1, Last: 9}}
		failures := 1
		target := &fakeTarget{
			progress: Progress{StreamID: "a", CSN: 4, Seq: 7}, copies: Copies{Tables: []string{"public.t"}, ConsistentFrom: 3},
			failLate: func(Group) error {
				if failures--; failures >= 0 {
					return errors.New("the answer was lost")
				}
				return nil
			},
		}
		w := start(t, target, source, nil)
		if s := w.worker.Status(); !s.Incomplete || !slices.Equal(s.Copying, target.copies.Tables) || s.ConsistentFrom != 3 || s.StartSeq != 7 || s.StreamSeq != 9 {
			t.Errorf("got %+v", s)
		}
		pass()
		target.copies = Copies{ConsistentFrom: 10}
		source.more <- unit(8, 4, 5)
		after(time.Second)
		rows := unit(9, 5, 10)
		rows.Transactions[0].Fragments[0].Ops = pipeline.OpsOf(pipeline.Message) | pipeline.OpsOf(pipeline.Read)
		rows.Transactions[0].Fragments[0].Changes = 5
		rows.Pending = 12
		source.more <- rows
		after(time.Second)
		if s := w.worker.Status(); s.Incomplete || s.Copying != nil || s.ConsistentFrom != 10 || s.CopiedRows != 4 || s.StartSeq != 7 || s.Applied.Seq != 9 || s.StreamSeq != 21 {
			t.Errorf("got %+v", s)
		}
		_ = w.end(t)
	})
}
