package node

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/wire"
)

// A shard that waits for room outside of memory does not keep a capture that has failed from ending: another takes over.
func TestFencedWhileAShardWaitsForRoom(t *testing.T) {
	r := newRig(t, 1)
	catalog, err := control.OpenCatalog(r.ctx, r.bus.JS, 1)
	r.must(err)
	_, err = catalog.Change(r.ctx, "bank", func(s *control.Subscription) error {
		s.MemoryBytesMax, s.SpillBytesMax = 1<<20, 12<<20
		return nil
	})
	r.must(err)
	r.start("n1")
	r.exec(r.shards[0], "INSERT INTO accounts VALUES (1, 'ann', 1)")
	r.applied()

	s, err := r.bus.JS.Stream(r.ctx, wire.StreamName("bank"))
	r.must(err)
	limit := func(bytes int64) {
		conf := s.CachedInfo().Config
		conf.MaxBytes = bytes
		_, err := r.bus.JS.UpdateStream(r.ctx, conf)
		r.must(err)
	}
	limit(int64(s.CachedInfo().State.Bytes) + 1<<20)
	large := "INSERT INTO accounts SELECT g, repeat('x', 1000000), 1 FROM generate_series(%d, %d) AS g"
	r.exec(r.shards[0], fmt.Sprintf(large, 10, 17))
	status := func() control.CaptureStatus {
		st, err := control.AskCapture(r.ctx, r.bus.NC, "bank")
		if errors.Is(err, control.ErrNobody) {
			return control.CaptureStatus{}
		}
		r.must(err)
		return st
	}
	r.eventually("the stream is full", func() bool { return status().Stalled != "" })
	r.exec(r.shards[0], fmt.Sprintf(large, 20, 27))
	r.eventually("the shard waits for room", func() bool {
		st := status()
		return len(st.Shards) == 1 && st.Shards[0].State == "waiting for room"
	})
	epoch := status().Epoch
	limit(-1)
	fence := nats.NewMsg(wire.EpochSubject("bank"))
	_, err = r.bus.JS.PublishMsg(r.ctx, fence)
	r.must(err)
	r.eventually("the stream is taken over again", func() bool { return status().Epoch > epoch })
	r.applied()
}
