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
	if got := leave(t, m); got != "[[1 2 3] [4] [5 6 7] [8] [9]]" {
		t.Errorf("batches %s", got)
	}
}

// BatchMax is of messages; what alone has more is alone.
func TestMessages(t *testing.T) {
	m, err := New(Config{
		Shards: 1, MaxClockSkew: time.Second, GlobalID: func(gid string) string { return gid },
		Start:    pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, 1)},
		BatchMax: 7, Messages: func(tx *pipeline.Transaction) int { return []int{2, 3, 4, 1, 9, 3, 4, 1, 2}[tx.Fragments[0].XID-1] },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := leave(t, m); got != "[[1 2] [3 4] [5] [6 7] [8 9]]" {
		t.Errorf("batches %s", got)
	}
}

// leave offers transactions with the xids 1 to 9, and returns the batches that they leave in.
func leave(t *testing.T, m *Merger) string {
	t.Helper()
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
	return fmt.Sprint(got)
}

// A stream on which nothing happens has its shards asked for the time, and says how far they are; only if that is wanted.
func TestIdle(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		m, err := New(Config{
			Shards: 2, MaxClockSkew: time.Second, GlobalID: func(gid string) string { return gid }, Watermarks: wanted,
			Start: pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, 2)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Idle(); got != wanted {
			t.Errorf("wanted %t: %t", wanted, got)
		}
		probes := m.Probes(nil)
		for i, p := range probes {
			if err := m.Probed(p.Shard, p.ID, pipeline.Timestamp(100+i), 0); err != nil {
				t.Fatal(err)
			}
		}
		b, ok := m.Heartbeat()
		if ok != wanted || ok && b.Checkpoint.Watermark != pipeline.CSNAt(100) {
			t.Errorf("wanted %t: %d probes, %t, %+v", wanted, len(probes), ok, b.Checkpoint)
		}
		if _, again := m.Heartbeat(); again {
			t.Error("the same is said twice")
		}
	}
}
