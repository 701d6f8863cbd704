package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"shardcdc/output"
	"shardcdc/output/jetstream"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/wire"
)

// A node whose lease was taken, and that hears of it from the stream first, leaves the stream to the new writer.
func TestFencedNodeStaysAway(t *testing.T) {
	r := newRig(t, 1)
	ctx, cancel := context.WithCancel(r.ctx)
	n, err := New(ctx, r.bus, Config{Name: "n1", Durability: DurableAcks, LeaseTTL: time.Minute, SpillDir: t.TempDir(), Log: r.log})
	r.must(err)
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (1, 'ann', 100)")
	r.captured()

	leases, err := r.bus.JS.KeyValue(r.ctx, "CDC_LEASES")
	r.must(err)
	r.must(leases.Purge(r.ctx, "capture.bank"))
	thief, err := n.leases.Acquire(r.ctx, "capture.bank", control.Owner{Node: "n2"})
	r.must(err)
	if thief == nil {
		t.Fatal("the lease was not free")
	}
	pub, _, _, err := jetstream.Open(r.ctx, r.bus.NC, r.bus.JS, jetstream.Config{
		BatchMax:     1000,
		Subscription: "bank", Incarnation: r.sub.Incarnation, Node: "n2", Format: format.Internal, Encoder: output.NewInternal(),
	})
	r.must(err)
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (2, 'bob', 100)")
	stream, err := r.bus.JS.Stream(r.ctx, wire.StreamName("bank"))
	r.must(err)
	for away := false; !away; {
		_, err := control.AskCapture(r.ctx, r.bus.NC, "bank")
		away = errors.Is(err, control.ErrNobody)
		r.must(r.ctx.Err())
		m, err := stream.GetLastMsgForSubject(r.ctx, wire.EpochSubject("bank"))
		r.must(err)
		if m.Sequence != uint64(pub.Epoch()) {
			t.Fatalf("the node took the stream back at sequence %d", m.Sequence)
		}
	}
	r.must(thief.Release(r.ctx))
	r.captured() // now it may
}
