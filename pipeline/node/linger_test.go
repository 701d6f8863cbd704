package node

import (
	"testing"
	"time"

	"shardcdc/pipeline"
)

// Nothing lingers that is young, or that others wait behind.
func TestLinger(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	batch := func(ages ...time.Duration) *pipeline.Batch {
		b := &pipeline.Batch{}
		for _, age := range ages {
			b.Transactions = append(b.Transactions, &pipeline.Transaction{CommitTime: pipeline.TimestampOf(now.Add(-age))})
		}
		return b
	}
	for name, c := range map[string]struct {
		b    *pipeline.Batch
		full bool
		want time.Duration
	}{
		"a checkpoint alone":       {batch(), false, 0},
		"caught up":                {batch(time.Hour, lingerBehind-time.Microsecond), false, 0},
		"a clock ahead":            {batch(-time.Hour), false, 0},
		"behind":                   {batch(time.Minute, lingerBehind), false, lingerTime},
		"behind, and there's more": {batch(time.Minute), true, 0},
	} {
		if got := linger(c.b, c.full, now); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
