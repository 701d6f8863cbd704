package node

import (
	"testing"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
)

// TestLag: a node that was restarted while NATS takes nothing has published nothing itself, and lags all the same.
func TestLag(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	minute, hour := now.Add(-time.Minute), now.Add(-time.Hour)
	at := pipeline.CSNAt(pipeline.TimestampOf(hour))
	for _, c := range []struct {
		name string
		st   control.CaptureStatus
		want float64
	}{
		{"a new stream", control.CaptureStatus{Waiting: 1}, 0},
		{"nothing waits", control.CaptureStatus{PublishedCSN: at, PublishedTime: &minute}, 0},
		{"published by this node", control.CaptureStatus{PublishedCSN: at, PublishedTime: &minute, Waiting: 1}, 60},
		{"published before", control.CaptureStatus{PublishedCSN: at, Decided: 1}, 3600},
	} {
		if got := lag(&c.st, now); got != c.want {
			t.Errorf("%s: lag %gs, want %gs", c.name, got, c.want)
		}
	}
}
