package control

import (
	"time"

	"shardcdc/pipeline"
)

// CopyStatus is how far the copy of tables is: the job that runs, else the last one. A part is one table on one shard.
type CopyStatus struct {
	Job        string       `json:"job"`
	Kind       CopyKind     `json:"kind"`
	State      CopyState    `json:"state"`
	TargetRows string       `json:"target_rows"`
	By         string       `json:"by"`
	Requested  time.Time    `json:"requested"`
	Started    *time.Time   `json:"started,omitempty"`
	Ended      *time.Time   `json:"ended,omitempty"`
	Error      string       `json:"error,omitempty"`   // why the job failed
	Waiting    []string     `json:"waiting,omitempty"` // what holds it up, a sentence each
	Queued     int          `json:"queued"`            // jobs that begin after it
	BeginCSN   pipeline.CSN `json:"begin_csn,omitempty"`
	// ConsistentFrom is the CSN from which on the tables are on a target as they are on the source; 0: not yet.
	ConsistentFrom pipeline.CSN `json:"consistent_from,omitempty"`

	StartIndex   int     `json:"start_index"`   // parts done when this node began
	CurrentIndex int     `json:"current_index"` // parts done
	TotalIndex   int     `json:"total_index"`
	SyncPercent  float64 `json:"sync_percent"`

	CopyProgress
	BytesPerSecond   float64 `json:"bytes_per_second"` // over the last seconds
	RowsPerSecond    float64 `json:"rows_per_second"`
	RemainingSeconds float64 `json:"remaining_seconds"` // 0: not known, or done

	Tables []CopyTableStatus `json:"tables"`
}

// CopyProgress counts what is in the stream. The estimates come from the servers' statistics.
type CopyProgress struct {
	Rows          int64   `json:"rows"`
	RowsEstimate  int64   `json:"rows_estimate"`
	Bytes         int64   `json:"bytes"`
	BytesEstimate int64   `json:"bytes_estimate"`
	Percent       float64 `json:"percent"` // 100 only when it is done
}

// States of a CopyTableStatus.
const (
	CopyTableWaiting = "waiting"
	CopyTableCopying = "copying"
	CopyTableDone    = "done"
)

// CopyTableStatus is how far one table is, over all shards.
type CopyTableStatus struct {
	Schema string `json:"schema"`
	Name   string `json:"table"`
	Keyed  bool   `json:"keyed"`
	State  string `json:"state"`
	CopyProgress
	Parts     int `json:"parts"`
	PartsDone int `json:"parts_done"`
	Again     int `json:"again"` // rows that are to be read once more, because they got another key meanwhile
}
