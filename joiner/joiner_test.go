package joiner

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/joiner/merge"
	"shardcdc/pipeline"
)

const second = pipeline.Timestamp(1_000_000)

func config(bytesMax int) merge.Config {
	return merge.Config{
		Shards: 2, MaxClockSkew: time.Second, GlobalID: func(gid string) string { return gid }, BytesMax: bytesMax,
		Start: pipeline.Checkpoint{Shards: make([]pipeline.ShardCheckpoint, 2)},
	}
}

func commit(shard pipeline.ShardID, end pipeline.LSN, at pipeline.Timestamp) []pipeline.Record {
	f := &pipeline.Fragment{Shard: shard, Start: end - 1, End: end, Time: at}
	f.Append([]byte("ten bytes."))
	return []pipeline.Record{{Kind: pipeline.Commit, Fragment: f, Start: f.Start, End: end, Time: at}}
}

type asked struct {
	shard pipeline.ShardID
	probe uint64
}

// A batch comes as soon as the idle shard has answered its probe; its checkpoint frees the slot when durable.
func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probes := make(chan asked, 10)
		j, err := New(config(0), func(s pipeline.ShardID, p uint64) { probes <- asked{s, p} })
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		got := make(chan pipeline.Batch)
		go func() {
			for range 2 {
				b, err := j.Next(ctx, 1<<20, 10*time.Second)
				if err != nil {
					t.Error(err)
				}
				got <- b
			}
		}()
		if err := j.Offer(ctx, 0, commit(0, 100, 5*second), 100); err != nil {
			t.Fatal(err)
		}
		if a := <-probes; a.shard != 1 {
			t.Fatalf("probed shard %d", a.shard)
		}
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("left before the idle shard answered")
		default:
		}
		if err := j.Probed(1, 1, 6*second, 0); err != nil {
			t.Fatal(err)
		}
		b := <-got
		if len(b.Transactions) != 1 {
			t.Fatalf("%d transactions", len(b.Transactions))
		}
		if st := j.Status(); st.Published[0] != 0 {
			t.Fatalf("published %s before it is durable", st.Published[0])
		}
		if l := j.Durable(&b.Checkpoint); l[0] != 100 {
			t.Fatalf("confirm %s", l[0])
		}
		if st := j.Status(); st.Published[0] != 100 {
			t.Fatalf("published %s", st.Published[0])
		}
		// Then only positions move: after the idle time a checkpoint alone.
		if err := j.Offer(ctx, 1, nil, 500); err != nil {
			t.Fatal(err)
		}
		if b = <-got; len(b.Transactions) != 0 || b.Checkpoint.Shards[1].Through != 500 {
			t.Fatalf("heartbeat %+v", b)
		}
	})
}

// A full joiner holds back the shard that nothing waits for, and lets the other one through.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, err := New(config(1), func(pipeline.ShardID, uint64) {})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if err := j.Offer(ctx, 0, commit(0, 100, 5*second), 100); err != nil {
			t.Fatal(err)
		}
		offered := make(chan error, 1)
		go func() { offered <- j.Offer(ctx, 0, commit(0, 200, 6*second), 200) }()
		synctest.Wait()
		select {
		case err := <-offered:
			t.Fatal("shard 0 was not held back:", err)
		default:
		}
		if err := j.Offer(ctx, 1, commit(1, 100, 7*second), 100); err != nil {
			t.Fatal("shard 1, which shard 0 waits for:", err)
		}
		b, err := j.Next(ctx, 1, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		j.Durable(&b.Checkpoint)
		synctest.Wait()
		// Shard 1's commit still fills the joiner, and waits for shard 0, which is let through therefore.
		if err := <-offered; err != nil {
			t.Fatal(err)
		}
		go func() { offered <- j.Offer(ctx, 1, commit(1, 300, 9*second), 300) }()
		synctest.Wait()
		cancel()
		if err := <-offered; err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

// A fatal error of the merge reaches everyone.
func TestFailure(t *testing.T) {
	j, err := New(config(0), func(pipeline.ShardID, uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	bad := []pipeline.Record{{Kind: pipeline.RollbackPrepared, GID: "g", XID: 7, End: 100}, {Kind: pipeline.RollbackPrepared, GID: "h", XID: 8, End: 100}}
	if err := j.Offer(ctx, 0, bad, 100); err == nil || !strings.Contains(err.Error(), "positions must rise") {
		t.Fatal(err)
	}
	if _, err := j.Next(ctx, 1, time.Hour); err == nil {
		t.Fatal("Next goes on")
	}
	if err := j.Offer(ctx, 1, nil, 1); err == nil {
		t.Fatal("Offer goes on")
	}
}
