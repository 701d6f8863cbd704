package postgres

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TruncatePolicy says what a TRUNCATE means that not every shard ran in the same transaction.
type TruncatePolicy string

const (
	// TruncateStop blocks: the target's table would lose the other shards' rows. The default.
	TruncateStop TruncatePolicy = "stop"
	// TruncateApply truncates the whole table on the target.
	TruncateApply TruncatePolicy = "apply"
	// TruncateIgnore leaves the table as it is.
	TruncateIgnore TruncatePolicy = "ignore"
)

// Config of a Target.
type Config struct {
	// DSN of the target, with passwords already filled in; a libpq URL or keyword string.
	DSN          string
	Subscription string
	// Shards is the number of shards that feed the target.
	Shards int
	// Truncate: default TruncateStop.
	Truncate TruncatePolicy
	// DDL: default DDLIgnore.
	DDL DDLPolicy
	// CreateTables: a table that is missing is made from what the stream says of it; see create.go. Default: it blocks.
	CreateTables bool
	// Map gives the target's name of a source's table; nil: the same name. Tables that share a target must not
	// share keys.
	Map func(schema, table string) (targetSchema, targetTable string)
	// LockTimeout: a statement that waits longer for a lock fails, and the group is tried again. Default 60 s.
	LockTimeout time.Duration
	// Statements is the limit of prepared statements on a session; the oldest goes first. Default 2000. Each
	// takes some 10 to 50 kB of the server's memory.
	Statements int
	// ChunkBytes is how much is sent before results are read; up to two chunks are on their way. One row may
	// exceed it. Default 256 KiB.
	ChunkBytes int
	// MovesMax is how many changes of one transaction may be remembered to find out which rows move between shards; only
	// changes of fragments that delete as well as insert or update. A transaction with more is Blocked. Default
	// 1,000,000, some 150 MB.
	MovesMax int
	// AskAfter: when the target gives no result for so long, a second connection asks what it is doing; see watch.go.
	// Default 60 s.
	AskAfter time.Duration
	// Dial replaces the dialer.
	Dial pgconn.DialFunc

	mapped bool // Map was given
}

// Validate lists everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.Subscription == "" {
		errs = append(errs, errors.New("subscription: is empty"))
	}
	if c.Shards < 1 {
		errs = append(errs, fmt.Errorf("shards: %d, want at least 1", c.Shards))
	}
	switch c.Truncate {
	case "", TruncateStop, TruncateApply, TruncateIgnore:
	default:
		errs = append(errs, fmt.Errorf("truncate: %q, want stop, apply or ignore", c.Truncate))
	}
	switch c.DDL {
	case "", DDLIgnore, DDLCapture, DDLStop:
	default:
		errs = append(errs, fmt.Errorf("ddl: %q, want capture, stop or ignore", c.DDL))
	}
	if c.Statements < 0 || c.ChunkBytes < 0 || c.LockTimeout < 0 || c.MovesMax < 0 || c.AskAfter < 0 {
		errs = append(errs, errors.New("statements, chunk bytes, lock timeout, moves max, ask after: must not be negative"))
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.Truncate == "" {
		c.Truncate = TruncateStop
	}
	if c.DDL == "" {
		c.DDL = DDLIgnore
	}
	c.mapped = c.Map != nil
	if c.Map == nil {
		c.Map = func(schema, table string) (string, string) { return schema, table }
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = time.Minute
	}
	if c.Statements == 0 {
		c.Statements = 2000
	}
	if c.MovesMax == 0 {
		c.MovesMax = 1_000_000
	}
	if c.AskAfter == 0 {
		c.AskAfter = time.Minute
	}
	if c.ChunkBytes == 0 {
		c.ChunkBytes = 256 << 10
	}
}
