package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"shardcdc/pipeline"
	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/shape"
)

// State is what a subscription is asked to do.
type State string

const (
	Active   State = "active"
	Paused   State = "paused"   // nothing is read or published; the slots keep the WAL
	Dropping State = "dropping" // cdcctl is removing it
)

// Subscription is an entry of the catalog.
type Subscription struct {
	Version     int       `json:"version"` // of this description; see subscriptionVersion
	Name        string    `json:"name"`
	Incarnation string    `json:"incarnation"` // a random name; the stream and the targets' progress carry it too
	Created     time.Time `json:"created"`
	State       State     `json:"state"`
	Format      string    `json:"format"` // see Output
	// JSON, Debezium and SQL are the choices that the format leaves.
	JSON     format.JSONOptions     `json:"json,omitzero"`
	Debezium format.DebeziumOptions `json:"debezium,omitzero"`
	SQL      format.SQLOptions      `json:"sql,omitzero"`
	Tables   []string               `json:"tables,omitempty"` // the patterns it was made with
	Shards   []Shard                `json:"shards"`           // indexed by ShardID
	Targets  []Target               `json:"targets,omitempty"`
	// Imported: the stream came from a file (package archive). No node captures it, and its shards are names only; apply workers
	// replay it.
	Imported bool      `json:"imported,omitempty"`
	GIDRules []GIDRule `json:"gid_rules,omitempty"` // before the built-in ones
	// MaxClockSkew is the most by which the shards' clocks may differ; more stops the subscription.
	MaxClockSkew Duration `json:"max_clock_skew"`
	// MemoryBytesMax bounds the row data that a node holds for the subscription.
	MemoryBytesMax int64 `json:"memory_bytes_max"`
	// SpillBytesMax bounds the row data that a process keeps on its disk for the subscription, because a transaction is
	// too large for its memory; when it is reached, reading waits.
	SpillBytesMax int64 `json:"spill_bytes_max"`
	// Retain is how long messages stay in the stream at least, and until every target has applied them; 0: for ever.
	Retain Duration `json:"retain"`
	// Truncate says what a target does with a TRUNCATE that reached only some shards: stop, apply, ignore.
	Truncate string `json:"truncate"`
	// DDL says what becomes of statements that change tables: DDLCapture, DDLStop, DDLIgnore.
	DDL string `json:"ddl"`
	// FollowNewTables: a new table that matches Tables joins by itself; else it is reported.
	FollowNewTables bool `json:"follow_new_tables,omitempty"`
	// CreateTables: a target makes tables that are missing there from what the stream says of them; else it waits for them.
	CreateTables bool `json:"create_tables,omitempty"`
	// Shape: which columns and rows of the tables are in the stream, under which names, and what is masked; nil: all as they are.
	Shape *shape.Shape `json:"shape,omitempty"`
	// Copy says how tables are copied.
	Copy CopyOptions `json:"copy"`
}

// Output is what the stream looks like.
func (s *Subscription) Output() format.Format {
	return format.Format{Name: s.Format, JSON: s.JSON, Debezium: s.Debezium, SQL: s.SQL}
}

// Captured is nil if shards of the subscription are read here, else the error of what needs them: an imported one has none.
func (s *Subscription) Captured() error {
	if s.Imported {
		return fmt.Errorf("subscription %s was imported: its shards are elsewhere. Try: the same on the machine that captures it, then cdcctl export there and cdcctl import here", s.Name)
	}
	return nil
}

// CopyOptions bound the load that copying puts on the shards.
type CopyOptions struct {
	Rate     int64 `json:"rate,omitempty"` // bytes of rows per second, over all shards; 0: no limit
	Parallel int   `json:"parallel"`       // connections per shard that read
	// Order are patterns of tables that are copied first, in this order; the rest follows, small ones first.
	Order []string `json:"order,omitempty"`
}

// What becomes of statements that change tables.
const (
	DDLCapture = "capture" // event triggers on the shards put them into the stream; targets run them at their place
	DDLStop    = "stop"    // the same, but a target stops there and says what to run
	DDLIgnore  = "ignore"  // nothing is installed; a target stops when a row does not fit its table
)

// Defaults and limits of CopyOptions.
const (
	DefaultCopyParallel = 2
	copyParallelMax     = 32
)

const subscriptionVersion = 1

// Shard is one PostgreSQL database that is read.
type Shard struct {
	Name           string       `json:"name"`
	DSN            string       `json:"dsn"` // never with a password; ${VAR} is expanded where it is used
	SystemID       string       `json:"system_id"`
	Timeline       int32        `json:"timeline"`
	Slot           string       `json:"slot"`
	OwnSlot        bool         `json:"own_slot"` // made by us, and dropped with the subscription
	Publications   []string     `json:"publications"`
	OwnPublication bool         `json:"own_publication"`
	Start          pipeline.LSN `json:"start"` // where the slot was made
	// Ruled are the tables that rules of the shape were for when they were captured first.
	Ruled []shape.Ruled `json:"ruled,omitempty"`
}

// Target is a database that the stream is replayed on.
type Target struct {
	Name string `json:"name"`
	DSN  string `json:"dsn"`
}

// GIDRule maps the gids that Pattern matches to Template; see package joiner/gid.
type GIDRule struct {
	Pattern  string `json:"pattern"`
	Template string `json:"template"`
}

// Duration is a time.Duration that JSON shows as "5s".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Limits and defaults of a Subscription.
const (
	NameBytesMax          = 40
	ShardsMax             = 1000
	DefaultMaxClockSkew   = 5 * time.Second
	DefaultMemoryBytesMax = 256 << 20
	DefaultSpillBytesMax  = 64 << 30
	memoryBytesMin        = 1 << 20
)

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// CheckName says whether a subscription's, shard's or target's name is usable: it becomes part of slots,
// subjects and keys.
func CheckName(kind, name string) error {
	if len(name) > NameBytesMax || !nameRule.MatchString(name) {
		return fmt.Errorf("%s name %q: want a lower-case letter, then lower-case letters, digits and _, at most %d characters", kind, name, NameBytesMax)
	}
	return nil
}

// Validate lists everything that is wrong at once.
func (s *Subscription) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Version != subscriptionVersion {
		add("subscription %s has version %d of its description, this build knows %d. Try: upgrade", s.Name, s.Version, subscriptionVersion)
	}
	if err := CheckName("subscription", s.Name); err != nil {
		errs = append(errs, err)
	}
	if len(s.Shards) == 0 {
		add("subscription %s has no shard. Try: --shard NAME=DSN", s.Name)
	}
	if len(s.Shards) > ShardsMax {
		add("subscription %s has %d shards, at most %d are possible", s.Name, len(s.Shards), ShardsMax)
	}
	seen := map[string]bool{}
	for _, sh := range s.Shards {
		if err := CheckName("shard", sh.Name); err != nil {
			errs = append(errs, err)
		}
		if seen[sh.Name] {
			add("shard %q is given twice. Try: give every --shard a name of its own", sh.Name)
		}
		seen[sh.Name] = true
	}
	seen = map[string]bool{}
	for _, t := range s.Targets {
		if err := CheckName("target", t.Name); err != nil {
			errs = append(errs, err)
		}
		if seen[t.Name] {
			add("target %q is given twice", t.Name)
		}
		seen[t.Name] = true
	}
	if err := s.Output().Validate(); err != nil {
		errs = append(errs, err)
	}
	if s.Format != format.Internal && len(s.Targets) > 0 {
		add("targets are fed from the internal format only, not from %q. Try: make a second subscription for the consumers of %s", s.Format, s.Format)
	}
	if s.MaxClockSkew < Duration(time.Millisecond) {
		add("max_clock_skew %s is too small, at least 1ms", s.MaxClockSkew)
	}
	if s.MemoryBytesMax < memoryBytesMin {
		add("memory_bytes_max %d is too small, at least %d", s.MemoryBytesMax, memoryBytesMin)
	}
	if s.SpillBytesMax < s.MemoryBytesMax {
		add("spill_bytes_max %d is too small, at least memory_bytes_max (%d): what does not fit the memory goes there", s.SpillBytesMax, s.MemoryBytesMax)
	}
	if s.Retain < 0 {
		add("retain %s is negative", s.Retain)
	}
	switch s.Truncate {
	case "stop", "apply", "ignore":
	default:
		add("truncate %q is unknown. Try: stop, apply or ignore", s.Truncate)
	}
	switch s.DDL {
	case DDLCapture, DDLStop, DDLIgnore:
	default:
		add("ddl %q is unknown. Try: capture, stop or ignore", s.DDL)
	}
	for _, t := range s.Targets {
		if s.DDL == DDLCapture && dsn.KindOf(t.DSN) == dsn.MySQL {
			add("ddl capture: target %s is MySQL, where statements of PostgreSQL do not run. Try: --ddl stop or ignore", t.Name)
		}
	}
	errs = append(errs, s.shapeFaults()...)
	if s.Copy.Rate < 0 {
		add("copy rate %d is negative. Try: 0 for no limit", s.Copy.Rate)
	}
	if s.Copy.Parallel < 1 || s.Copy.Parallel > copyParallelMax {
		add("copy parallel %d is out of range, 1 to %d connections per shard", s.Copy.Parallel, copyParallelMax)
	}
	return errors.Join(errs...)
}

// shapeFaults: statements that change tables speak of these as the shards have them, and only rows have subjects of their own.
func (s *Subscription) shapeFaults() (errs []error) {
	if s.Shape == nil {
		return nil
	}
	switch err := s.Shape.Validate().(type) {
	case nil:
	case interface{ Unwrap() []error }:
		errs = err.Unwrap()
	default:
		errs = []error{err}
	}
	if s.DDL != DDLIgnore && s.Shape.Rewrites() {
		errs = append(errs, fmt.Errorf("ddl %s: statements speak of the tables as the shards have them, and the shape leaves out, renames or masks some of it. Try: --ddl ignore", s.DDL))
	}
	if s.Shape.Routes() && (s.Format != format.JSON || s.JSON.Layout != format.ByRow) {
		errs = append(errs, errors.New("the shape has a route, and only rows that are published one by one have subjects of their own. Try: --format json --json-layout row"))
	}
	return errs
}

// NewSubscription is a description with the defaults.
func NewSubscription(name, incarnation string, created time.Time) *Subscription {
	return &Subscription{
		Version: subscriptionVersion, Name: name, Incarnation: incarnation, Created: created,
		State: Active, Format: format.Internal, MaxClockSkew: Duration(DefaultMaxClockSkew),
		MemoryBytesMax: DefaultMemoryBytesMax, SpillBytesMax: DefaultSpillBytesMax, Truncate: "stop", DDL: DDLIgnore, Copy: CopyOptions{Parallel: DefaultCopyParallel},
	}
}

func decodeSubscription(b []byte) (*Subscription, error) {
	s := &Subscription{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("subscription: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}
