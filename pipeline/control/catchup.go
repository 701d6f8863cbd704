package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"shardcdc/pipeline"
)

// Kinds of Catchup.
const (
	CatchupFull        = "full"        // tables are copied, or were since the subscription was made or they joined
	CatchupIncremental = "incremental" // only what the shards had written while nobody captured
)

// Catchup is how far a capture is with what was there when it began. It stays at 100 percent once it got there.
type Catchup struct {
	Type    string  `json:"catchup_type"`
	Percent float64 `json:"catchup_percent"`
	// RemainingSeconds at the present speed; nil: it is not known, because nothing falls.
	RemainingSeconds *float64 `json:"catchup_remaining_seconds"`
	RemainingTime    string   `json:"catchup_remaining_time"` // the same for people: "3m20s", "unknown", "0s"
}

// Replay is how far a worker is with what the stream held when it began, as sequences of the stream. It stays as it was
// when it got there.
type Replay struct {
	Start   pipeline.Seq `json:"replay_start"`
	Current pipeline.Seq `json:"replay_current"`
	End     pipeline.Seq `json:"replay_end"`
	Percent float64      `json:"replay_percent"`
}

// NewCopyJob is an order to copy tables that nobody has begun. Its ID rises with time.
func NewCopyJob(kind CopyKind, tables []CopyTableName, targetRows, by string) *CopyJob {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return &CopyJob{
		ID:   fmt.Sprintf("%s%06d%s", now.Format("20060102150405"), now.Nanosecond()/1000, strings.ToLower(nuid.Next()[18:])),
		Kind: kind, State: CopyRequested, Tables: tables, TargetRows: targetRows, By: by, Requested: now,
	}
}

// Forget removes every job and ledger of a subscription.
func (c *Copies) Forget(ctx context.Context, subscription string) error {
	keys, err := keysOf(ctx, c.js, copyBucket, subscription+".>")
	if err != nil {
		return fmt.Errorf("list the copies of subscription %s: %w", subscription, err)
	}
	for _, key := range keys {
		if err := c.kv.Purge(ctx, key); err != nil {
			return fmt.Errorf("forget copy %s: %w", key, err)
		}
	}
	return nil
}

// DeleteJob removes a job that nobody has begun, so that it has no ledgers.
func (c *Copies) DeleteJob(ctx context.Context, subscription, job string) error {
	if err := c.kv.Purge(ctx, jobKey(subscription, job)); err != nil {
		return fmt.Errorf("delete copy job %s of subscription %s: %w", job, subscription, err)
	}
	return nil
}
