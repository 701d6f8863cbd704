package mysql

import (
	"errors"
	"fmt"
	"time"
)

// Policies for what the shards do to whole tables; the words are those of a subscription.
const (
	Stop   = "stop"   // block, and say what to do. The default for TRUNCATE
	Apply  = "apply"  // TRUNCATE only: empty the whole table
	Ignore = "ignore" // do nothing. The default for DDL
)

// Config of a Target.
type Config struct {
	// DSN of the target, with passwords already filled in; see ParseDSN.
	DSN          string
	Subscription string
	// Shards is the number of shards that feed the target.
	Shards int
	// Truncate says what a TRUNCATE means that not every shard ran in the same transaction: Stop (default), Apply, Ignore.
	Truncate string
	// DDL says what becomes of statements that change tables: Ignore (default), Stop.
	DDL string
	// CreateTables: a table that is missing is made from what the stream says of it. Default: it blocks.
	CreateTables bool
	// LockTimeout: a statement that waits longer for a lock fails, and the group is tried again. Whole seconds; default 60 s.
	LockTimeout time.Duration
	// ChunkBytes is how much is sent before results are read. One row may exceed it, up to the server's max_allowed_packet.
	// Default 256 KiB.
	ChunkBytes int
	// MovesMax is how many changes of one transaction may be remembered to find out which rows move between shards (package
	// moves). A transaction with more is Blocked. Default 1,000,000, some 150 MB.
	MovesMax int
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
	case "", Stop, Apply, Ignore:
	default:
		errs = append(errs, fmt.Errorf("truncate: %q, want stop, apply or ignore", c.Truncate))
	}
	switch c.DDL {
	case "", Stop, Ignore:
	default:
		errs = append(errs, fmt.Errorf("ddl: %q, want stop or ignore: statements of PostgreSQL do not run on MySQL", c.DDL))
	}
	if c.ChunkBytes < 0 || c.LockTimeout < 0 || c.MovesMax < 0 {
		errs = append(errs, errors.New("chunk bytes, lock timeout, moves max: must not be negative"))
	}
	if _, err := ParseDSN(c.DSN); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.Truncate == "" {
		c.Truncate = Stop
	}
	if c.DDL == "" {
		c.DDL = Ignore
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = time.Minute
	}
	c.LockTimeout = max(c.LockTimeout, time.Second)
	if c.MovesMax == 0 {
		c.MovesMax = 1_000_000
	}
	if c.ChunkBytes == 0 {
		c.ChunkBytes = 256 << 10
	}
}
