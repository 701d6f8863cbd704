package control

import "shardcdc/pipeline"

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
