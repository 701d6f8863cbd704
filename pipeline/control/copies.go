package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"shardcdc/pipeline"
)

const copyBucket = "CDC_COPIES"

// CopyKind says why tables are copied.
type CopyKind string

const (
	CopyInitial CopyKind = "initial"   // with the subscription
	CopyAdd     CopyKind = "add-table" // the tables join a running subscription
	CopyResync  CopyKind = "resync"    // the tables are copied anew, in place
)

// CopyState is how far a CopyJob is.
type CopyState string

const (
	CopyRequested CopyState = "requested" // nobody has begun; it may be changed and cancelled
	CopyPlanned   CopyState = "planned"   // Tables and Keyed are known and stay; its begin mark may come any time
	CopyPrepared  CopyState = "prepared"  // its begin mark is in the stream
	CopyCopying   CopyState = "copying"   // chunks are being copied
	CopyDone      CopyState = "done"      // its end mark is in the stream
	CopyCancelled CopyState = "cancelled" // before anybody began
	CopyFailed    CopyState = "failed"    // it cannot be done; nothing of it is in the stream
)

// Ended says that nothing more will be done.
func (s CopyState) Ended() bool {
	return s == CopyDone || s == CopyCancelled || s == CopyFailed
}

// CopyTableName names a table as the shards publish it.
type CopyTableName struct {
	Schema string `json:"schema"`
	Name   string `json:"table"`
}

func (n CopyTableName) String() string { return n.Schema + "." + n.Name }

// CopyJob is an order to copy tables, and what became of it. Its chunks are accounted for in a CopyTable per table and
// shard. What is requested may be changed and cancelled; from then on only the node that
// captures writes it.
type CopyJob struct {
	ID         string          `json:"id"` // rises with time
	Kind       CopyKind        `json:"kind"`
	State      CopyState       `json:"state"`
	Tables     []CopyTableName `json:"tables,omitempty"` // of an initial copy known only once it is prepared
	TargetRows string          `json:"target_rows"`      // see package mark
	By         string          `json:"by"`               // user@host
	Requested  time.Time       `json:"requested"`
	Started    *time.Time      `json:"started,omitempty"`
	Ended      *time.Time      `json:"ended,omitempty"`
	BeginCSN   pipeline.CSN    `json:"begin_csn,omitempty"` // of its begin mark
	EndCSN     pipeline.CSN    `json:"end_csn,omitempty"`   // of its end mark: from here on the tables are as on the source
	Error      string          `json:"error,omitempty"`     // why it failed

	// BeginLSN and EndLSN are where these marks end on shard 0; 0: the begin mark was the stream's first transaction. A stream
	// whose checkpoint is before them has lost them.
	BeginLSN pipeline.LSN `json:"begin_lsn,omitempty"`
	EndLSN   pipeline.LSN `json:"end_lsn,omitempty"`

	// Keyed says of each of Tables whether its rows have a key on every shard that has it.
	Keyed []bool `json:"keyed,omitempty"`
	// Intent is written before the begin or end mark is published.
	Intent *CopyJobIntent `json:"intent,omitempty"`

	Revision uint64 `json:"-"` // that it was read or written at
}

// CopyJobIntent says what a job becomes once its mark that ends at LSN on shard 0 is in the stream; see CopyIntent.
// LSN 0: the mark is the stream's first transaction.
type CopyJobIntent struct {
	LSN   pipeline.LSN `json:"lsn"`
	CSN   pipeline.CSN `json:"csn"`
	State CopyState    `json:"state"` // CopyPrepared, CopyDone
	At    time.Time    `json:"at"`
}

// CopyTable is the ledger of one table on one shard within a job: what is done need not be copied again. The position is
// exact: a chunk is in the stream if and only if the ledger says so, or Intent proves it.
type CopyTable struct {
	Job    string      `json:"job"`
	Shard  string      `json:"shard"`
	Schema string      `json:"schema"`
	Name   string      `json:"table"`
	Keyed  bool        `json:"keyed"`
	Key    []string    `json:"key,omitempty"`    // its columns, if it is keyed
	Order  []string    `json:"order,omitempty"`  // of the ranges: see copier.Table.Order
	Ranges []CopyRange `json:"ranges,omitempty"` // of a table with a key; together they are all keys
	Redo   [][]string  `json:"redo,omitempty"`   // keys whose rows are to be copied once more, before the table is done
	Done   bool        `json:"done"`

	// LSN is where the mark of the last chunk ends that is in the stream. A stream whose checkpoint is before it has lost rows.
	LSN pipeline.LSN `json:"lsn,omitempty"`

	Chunks        int   `json:"chunks"` // in the stream
	Rows          int64 `json:"rows"`   // copied
	Bytes         int64 `json:"bytes"`
	RowsEstimate  int64 `json:"rows_estimate"` // of the whole table, from the statistics of the server
	BytesEstimate int64 `json:"bytes_estimate"`

	// Intent is written before a chunk is published. If the stream's checkpoint has passed it, Then is the ledger.
	Intent *CopyIntent `json:"intent,omitempty"`

	Revision uint64 `json:"-"` // that it was read or written at
}

// CopyIntent says what a ledger becomes once the chunk whose mark ends at LSN, on the ledger's shard, is in the stream. Who
// takes a subscription over settles every intent before it publishes anything: the rows are in the stream if the
// checkpoint's Through has reached LSN, else they never will be under this mark.
type CopyIntent struct {
	LSN   pipeline.LSN `json:"lsn"`
	Chunk string       `json:"chunk"`
	Then  *CopyTable   `json:"then"`
}

// CopyRange is a range of keys and how far it is copied.
type CopyRange struct {
	After   []string `json:"after,omitempty"`   // the last key copied, else the one before the range; nil: from the lowest key on
	Through []string `json:"through,omitempty"` // the last key of the range; nil: up to the highest
	Done    bool     `json:"done,omitempty"`
}

// Copies holds the copy jobs and their ledgers. It is no part of the catalog's entries: a change of these restarts the
// capture.
type Copies struct {
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	stream jetstream.Stream // behind kv
}

// OpenCopies opens the copies and makes their bucket if it is not there.
func OpenCopies(ctx context.Context, js jetstream.JetStream, replicas int) (*Copies, error) {
	kv, err := openBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: copyBucket, Description: "copies of tables by shardcdc", History: 1, Replicas: max(replicas, 1),
	})
	var stream jetstream.Stream
	if err == nil {
		stream, err = js.Stream(ctx, "KV_"+copyBucket)
	}
	if err != nil {
		return nil, fmt.Errorf("open the copies: %w", err)
	}
	return &Copies{js: js, kv: kv, stream: stream}, nil
}

// NewCopyJob is an order to copy tables that nobody has begun. Its ID rises with time.
func NewCopyJob(kind CopyKind, tables []CopyTableName, targetRows, by string) *CopyJob {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return &CopyJob{
		ID:   fmt.Sprintf("%s%06d%s", now.Format("20060102150405"), now.Nanosecond()/1000, strings.ToLower(nuid.Next()[18:])),
		Kind: kind, State: CopyRequested, Tables: tables, TargetRows: targetRows, By: by, Requested: now,
	}
}

func jobKey(subscription, job string) string { return subscription + ".job." + job }

// tableKey counts tables, since their names may be too long for a key.
func tableKey(subscription, job, shard string, n int) string {
	return subscription + ".table." + job + "." + shard + "." + strconv.Itoa(n)
}

// ErrTaken says that somebody else wrote a job or a ledger since it was read.
var ErrTaken = errors.New("somebody else wrote it meanwhile")

// PutJob writes a job. It is durable when PutJob returns without an error. It fails with ErrTaken if somebody else wrote it
// since j.Revision (0: it must not be there), and with ErrTooLarge if it has more tables than fit a message.
func (c *Copies) PutJob(ctx context.Context, subscription string, j *CopyJob) error {
	room := 0
	if j.BeginCSN == 0 { // once it has begun it must not be too large any more
		room = jobGrows
	}
	return c.put(ctx, jobKey(subscription, j.ID), j, &j.Revision, room)
}

// jobGrows is more than what a job gets beside its tables from its plan to its end.
const jobGrows = 4 << 10

// PutTable writes the ledger of the n-th table of a job on a shard. It fails with ErrTaken if somebody else wrote it since
// t.Revision (0: it must not be there): a node that lost its lease without knowing must not spoil the ledger of its
// successor.
func (c *Copies) PutTable(ctx context.Context, subscription string, n int, t *CopyTable) error {
	return c.put(ctx, tableKey(subscription, t.Job, t.Shard, n), t, &t.Revision, 0)
}

// Jobs returns every job of a subscription, the oldest first.
func (c *Copies) Jobs(ctx context.Context, subscription string) ([]CopyJob, error) {
	jobs, err := readAll[CopyJob](ctx, c.js, c.kv, jobKey(subscription, "*"))
	slices.SortFunc(jobs, func(a, b CopyJob) int { return cmp.Compare(a.ID, b.ID) })
	return jobs, err
}

// Table returns the ledger of the n-th table of a job on a shard; nil: there is none yet.
func (c *Copies) Table(ctx context.Context, subscription, job, shard string, n int) (*CopyTable, error) {
	return readOne[CopyTable](ctx, c.kv, tableKey(subscription, job, shard, n))
}

// Tables returns every ledger of a job.
func (c *Copies) Tables(ctx context.Context, subscription, job string) ([]CopyTable, error) {
	return readAll[CopyTable](ctx, c.js, c.kv, subscription+".table."+job+".*.*")
}

// Job returns a job; nil: there is none.
func (c *Copies) Job(ctx context.Context, subscription, id string) (*CopyJob, error) {
	return readOne[CopyJob](ctx, c.kv, jobKey(subscription, id))
}

// Watch calls changed once, and again whenever a job of the subscription may have changed, until ctx ends or changed fails.
func (c *Copies) Watch(ctx context.Context, subscription string, changed func() error) error {
	return watch(ctx, c.kv, jobKey(subscription, "*"), changed)
}

func (j *CopyJob) readAt(revision uint64)   { j.Revision = revision }
func (t *CopyTable) readAt(revision uint64) { t.Revision = revision }

// Forget removes every job and ledger of a subscription.
func (c *Copies) Forget(ctx context.Context, subscription string) error {
	return deleteCopies(ctx, c.js, subscription)
}

// DeleteJob removes a job that nobody has begun, so that it has no ledgers.
func (c *Copies) DeleteJob(ctx context.Context, subscription, job string) error {
	if err := c.kv.Purge(ctx, jobKey(subscription, job)); err != nil {
		return fmt.Errorf("delete copy job %s of subscription %s: %w", job, subscription, err)
	}
	return nil
}

// deleteCopies forgets the copies of a subscription that goes away.
func deleteCopies(ctx context.Context, js jetstream.JetStream, subscription string) error {
	if err := purge(ctx, js, copyBucket, subscription+".>"); err != nil {
		return fmt.Errorf("forget the copies of subscription %s: %w", subscription, err)
	}
	return nil
}
