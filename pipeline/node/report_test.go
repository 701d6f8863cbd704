package node

import (
	"testing"
	"time"

	"shardcdc/pipeline"
)

func TestLag(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	minute, hour := pipeline.TimestampOf(now.Add(-time.Minute)), pipeline.TimestampOf(now.Add(-time.Hour))
	for _, c := range []struct {
		name                string
		publishing, waiting pipeline.Timestamp
		want                float64
	}{
		{"nothing waits", 0, 0, 0},
		{"a batch is on its way", minute, 0, 60},
		{"one waits for a shard", 0, hour, 3600},
		{"one waits behind the batch", hour, minute, 3600},
		{"the shard's clock is ahead", pipeline.TimestampOf(now.Add(time.Second)), 0, 0},
	} {
		if got := lag(c.publishing, c.waiting, now); got != c.want {
			t.Errorf("%s: lag %gs, want %gs", c.name, got, c.want)
		}
	}
}
