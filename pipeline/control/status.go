package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"shardcdc/pipeline"
)

// CaptureStatus is what the node that runs a subscription says about it.
type CaptureStatus struct {
	Subscription string       `json:"subscription"`
	Node         string       `json:"node"`
	State        string       `json:"state"` // starting, running, failed
	Error        string       `json:"error,omitempty"`
	Since        time.Time    `json:"since"` // of the state
	Epoch        pipeline.Seq `json:"epoch"` // the writer's fencing token
	Durability   string       `json:"durability"`
	Stalled      string       `json:"stalled,omitempty"` // why publishing has to be tried again at this moment

	Watermark     pipeline.CSN `json:"watermark"`
	PublishedCSN  pipeline.CSN `json:"published_csn"`
	StreamSeq     pipeline.Seq `json:"stream_seq"` // of the last message published
	Transactions  uint64       `json:"transactions"`
	Distributed   uint64       `json:"distributed"` // of them with more than one fragment
	Changes       uint64       `json:"changes"`
	PublishedTime *time.Time   `json:"published_commit_time,omitempty"` // commit time of the last transaction published
	LagSeconds    float64      `json:"lag_seconds"`                     // since then, while something waits to be published

	Waiting   int `json:"waiting"`    // transactions put together that wait for the watermark, or for NATS while stalled
	Undecided int `json:"undecided"`  // prepared, and neither committed nor rolled back as far as is known
	Decided   int `json:"decided"`    // committed, and waiting for their fragments
	BytesHeld int `json:"bytes_held"` // in memory
	// Spilled is what is in files of large transactions, of Open too: transactions that are being read while they run.
	Spilled   int64     `json:"spilled_bytes"`
	Open      int       `json:"open_transactions"`
	OpenBytes int64     `json:"open_bytes"`
	InDoubt   *Prepared `json:"in_doubt,omitempty"` // the undecided one prepared first
	// Unfinished counts fragments of transactions that are committed whose second phase is missing: their shards hold
	// locks for them. OldestUnfinished is the one prepared first.
	Unfinished       int       `json:"unfinished"`
	OldestUnfinished *Prepared `json:"oldest_unfinished,omitempty"`
	WaitsFor         []string  `json:"waits_for,omitempty"` // a sentence per shard that holds others up

	Catchup

	// Copy is the copy of tables that runs, or the last one; nil: there never was one.
	Copy *CopyStatus `json:"copy,omitempty"`
	// NewTables match the subscription's patterns and are not published, "schema.table" each.
	NewTables []string `json:"new_tables,omitempty"`

	Shards []ShardStatus `json:"shards"`
}

// Prepared is a prepared transaction on a shard.
type Prepared struct {
	GID   string     `json:"gid"`
	Shard string     `json:"shard"`
	Since *time.Time `json:"since,omitempty"` // by the shard's clock; not known after a restart
}

// ShardStatus is one shard's part of CaptureStatus.
type ShardStatus struct {
	Name          string       `json:"name"`
	State         string       `json:"state"`
	Error         string       `json:"error,omitempty"`
	Received      pipeline.LSN `json:"received"`
	Merged        pipeline.LSN `json:"merged"`
	Published     pipeline.LSN `json:"published"` // every commit up to here is durable in the stream
	Confirmed     pipeline.LSN `json:"confirmed"`
	Flushed       pipeline.LSN `json:"flushed"` // the server's own position, when last asked
	LagBytes      int64        `json:"lag_bytes"`
	LagSeconds    float64      `json:"lag_seconds"`
	RetainedWAL   int64        `json:"retained_wal_bytes"`
	WALStatus     string       `json:"wal_status,omitempty"`
	ClockOffset   float64      `json:"clock_offset_seconds"` // of the shard's clock from the node's
	Queued        int          `json:"queued"`
	PausedAt      string       `json:"paused_at,omitempty"` // the transaction that the stream waits for
	Probes        uint64       `json:"probes"`
	Nudges        uint64       `json:"nudges"`
	ServerVersion string       `json:"server_version,omitempty"`
}

// ApplyStatus is what an apply worker says about its target.
type ApplyStatus struct {
	Subscription string       `json:"subscription"`
	Target       string       `json:"target"`
	Node         string       `json:"node"`
	State        string       `json:"state"`
	Error        string       `json:"error,omitempty"`
	Since        time.Time    `json:"since"`
	AppliedCSN   pipeline.CSN `json:"applied_csn"`
	AppliedSeq   pipeline.Seq `json:"applied_seq"`
	Watermark    pipeline.CSN `json:"watermark"`
	LagSeconds   float64      `json:"lag_seconds"`
	Transactions uint64       `json:"transactions"`
	Changes      uint64       `json:"changes"`
	// Blocked is where the target refuses a transaction; nil: it does not.
	Blocked *BlockedAt `json:"blocked,omitempty"`
	// Waiting is what the target does that takes it so long; empty: it answers.
	Waiting string `json:"waiting,omitempty"`
	// Large is a transaction larger than memory that is being applied; nil: there is none.
	Large *Large `json:"large,omitempty"`
	// DDLWaiting are statements of the shards that not every shard has run, oldest first: the oldest hundred at most.
	DDLWaiting []DDLWaiting `json:"ddl_waiting,omitempty"`
	// Skipped counts the transactions that it was told to leave out, ever. The worker does not say it: whoever shows it
	// reads it from Skips.
	Skipped int `json:"skipped"`

	Replay

	// Copying are the tables of which rows may be missing: the target is not consistent before none is left.
	Copying []string `json:"copying,omitempty"`
	// ConsistentFrom is the CSN at which that was so the last time; 0: no table was ever copied.
	ConsistentFrom pipeline.CSN `json:"consistent_from,omitempty"`
}

// DDLWaiting is a statement that some shards have run and others not.
type DDLWaiting struct {
	CSN       pipeline.CSN `json:"csn"` // of the first shard's transaction with it
	Statement string       `json:"statement"`
	Here      string       `json:"here"`   // what became of it on the target
	Shards    []string     `json:"shards"` // that have not run it
}

// Large is how far a target is with a transaction larger than memory. Nobody sees anything of it there before its end.
type Large struct {
	CSN        pipeline.CSN `json:"csn"`
	Spooling   bool         `json:"spooling"` // being read into files; else being sent to the target
	Rows       int          `json:"rows"`
	RowsTotal  int          `json:"rows_total"`
	Bytes      int64        `json:"bytes"`
	BytesTotal int64        `json:"bytes_total"`
}

// BlockedAt is a transaction that a target refuses, and why as far as one row is to blame.
type BlockedAt struct {
	CSN   pipeline.CSN `json:"csn"`
	Table string       `json:"table,omitempty"`
	Row   string       `json:"row,omitempty"` // its key
}

// String names it as far as it is known.
func (b *BlockedAt) String() string {
	text := "csn " + b.CSN.String()
	if b.Table != "" {
		text += ", table " + b.Table
	}
	if b.Row != "" {
		text += ", row " + b.Row
	}
	return text
}

const statusSubject = "_CDC.status."

func captureSubject(subscription string) string { return statusSubject + "capture." + subscription }

func applySubject(subscription, target string) string {
	return statusSubject + "apply." + subscription + "." + target
}

// ServeCapture answers requests for a subscription's capture status until the returned function is called.
func ServeCapture(nc *nats.Conn, subscription string, status func() CaptureStatus) (stop func(), err error) {
	return serve(nc, captureSubject(subscription), func() any { return status() })
}

// ServeApply answers requests for an apply worker's status.
func ServeApply(nc *nats.Conn, subscription, target string, status func() ApplyStatus) (stop func(), err error) {
	return serve(nc, applySubject(subscription, target), func() any { return status() })
}

func serve(nc *nats.Conn, subject string, status func() any) (func(), error) {
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
		b, err := json.Marshal(status())
		if err != nil {
			b = []byte(`{"state":"failed","error":"status cannot be written as JSON"}`)
		}
		_ = m.Respond(b) // whoever asked asks again
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// ErrNobody says that no process works for the subscription, or none answered in time.
var ErrNobody = errors.New("nobody answers")

// AskCapture asks the node that runs the subscription.
func AskCapture(ctx context.Context, nc *nats.Conn, subscription string) (st CaptureStatus, err error) {
	err = ask(ctx, nc, captureSubject(subscription), &st)
	return st, err
}

// AskApply asks the apply worker of a target.
func AskApply(ctx context.Context, nc *nats.Conn, subscription, target string) (st ApplyStatus, err error) {
	err = ask(ctx, nc, applySubject(subscription, target), &st)
	return st, err
}

func ask(ctx context.Context, nc *nats.Conn, subject string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, nil)
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
		return ErrNobody
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, into)
}
