package merge

import (
	"fmt"
	"testing"
	"time"

	"shardcdc/pipeline"
)

// A transaction that must be alone in its batch neither follows others into one, nor do others follow it.
func TestAlone(t *testing.T) {
	m, err := New(Config{
		Shards: 1, MaxClockSkew: time.Second, GlobalID: func(gid string) string { return gid },
		Start: pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, 1)},
		Alone: func(tx *pipeline.Transaction) bool { return tx.Fragments[0].XID%4 == 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	var records []pipeline.Record
	for xid := pipeline.XID(1); xid <= 9; xid++ {
		f := &pipeline.Fragment{XID: xid, Start: pipeline.LSN(xid) * 100, End: pipeline.LSN(xid)*100 + 50, Time: pipeline.Timestamp(xid)}
		f.Append([]byte("Mabcd"))
		records = append(records, pipeline.Record{Kind: pipeline.Commit, Fragment: f, XID: xid, Start: f.Start, End: f.End, Time: f.Time})
	}
	if err := m.Offer(0, records, 1000); err != nil {
		t.Fatal(err)
	}
	var got [][]pipeline.XID
	for {
		b, ok := m.Take(1 << 20)
		if !ok {
			break
		}
		var xids []pipeline.XID
		for _, tx := range b.Transactions {
			xids = append(xids, tx.Fragments[0].XID)
		}
		got = append(got, xids)
		if last := b.Transactions[len(b.Transactions)-1]; b.Checkpoint.Last != last.CSN || b.Checkpoint.Shards[0].Through < last.Fragments[0].End {
			t.Errorf("the checkpoint %+v is not that after xid %d", b.Checkpoint, last.Fragments[0].XID)
		}
		m.Durable(&b.Checkpoint)
	}
	if want := "[[1 2 3] [4] [5 6 7] [8] [9]]"; fmt.Sprint(got) != want {
		t.Errorf("batches %v, want %s", got, want)
	}
}
