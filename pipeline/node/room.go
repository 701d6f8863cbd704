package node

import (
	"context"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
	"shardcdc/pipeline/spill"
)

// A subscription's memory_bytes_max is for what the merge holds, and a quarter of it, shared by the shards, for what is
// half received. A body that is as large as bodyBytes leaves memory in any case.
const (
	halfReceivedShare = 4
	bodyBytes         = 4 << 20
)

// Limits of what one shard's dumper keeps of transactions until they end.
func Limits(memoryBytesMax int64, shards int) pgoutput.Limits {
	return pgoutput.Limits{SpillAfter: bodyBytes, OpenMax: max(1, int(memoryBytesMax)/halfReceivedShare/shards)}
}

// file is a place for bodies of a shard. A write to it that waits for room ends with ctx.
func (c *capture) file(ctx context.Context, shard pipeline.ShardID) (*spill.File, error) {
	return c.spill.Create(func(released <-chan struct{}) error { return c.awaitRoom(ctx, shard, released) })
}

// awaitRoom holds the reading of a shard back until spilled bodies were released, or says why that would be for ever.
func (c *capture) awaitRoom(ctx context.Context, shard pipeline.ShardID, released <-chan struct{}) error {
	waiting, stop := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-released:
			stop()
		case <-waiting.Done():
		}
	}()
	err := c.joiner.AwaitRoom(waiting, shard)
	stop()
	<-watching
	select {
	case <-released:
		return nil
	default:
		return err
	}
}

// moveOut is the joiner's spill.
func (c *capture) moveOut(ctx context.Context, shard pipeline.ShardID, bodies [][]byte) (pipeline.Content, error) {
	file, err := c.file(ctx, shard)
	if err != nil {
		return nil, err
	}
	if err := fill(file, bodies); err != nil {
		file.Release()
		return nil, err
	}
	return file, nil
}

func fill(file *spill.File, bodies [][]byte) error {
	for _, b := range bodies {
		if _, err := file.Write(b); err != nil {
			return err
		}
	}
	return file.Seal()
}
