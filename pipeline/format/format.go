// Package format is what a subscription's stream can look like: its format, and the choices that each format leaves.
// What the choices mean for a reader stands in docs/formats.md.
package format

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Formats of a stream.
const (
	Internal = "internal"
	JSON     = "json"
	SQL      = "sql"
)

// Format is a stream's format with its choices. The zero value of a choice is its default.
type Format struct {
	Name     string
	JSON     JSONOptions
	Debezium DebeziumOptions
	SQL      SQLOptions
}

// Layouts of JSON.
const (
	ByTransaction = "transaction" // one message per transaction
	ByRow         = "row"         // one per row, on its table's subject, and one per transaction behind them
)

// Flavours of JSON.
const (
	Native   = "native"
	Debezium = "debezium"
)

// JSONOptions are the choices of the format json.
type JSONOptions struct {
	Layout  string `json:"layout,omitempty"`  // ByTransaction, ByRow; default ByTransaction
	Flavour string `json:"flavour,omitempty"` // Native, Debezium; default Native
	// Types, of Native: every row tells the types of its columns.
	Types bool `json:"types,omitempty"`
	// FillUnchanged, of Native: a TOAST value that an update did not touch is taken from the old row, where that has it (REPLICA
	// IDENTITY FULL). Debezium always does that.
	FillUnchanged bool `json:"fill_unchanged,omitempty"`
	// CloudEvents, of Native and ByRow: the attributes of CloudEvents 1.0 in binary mode, as headers.
	CloudEvents bool `json:"cloudevents,omitempty"`
}

// DebeziumOptions are the choices of the flavour debezium, under Debezium's own names and with its values; only the defaults are
// chosen for readers without a schema.
type DebeziumOptions struct {
	Schema     bool   `json:"schema,omitempty"`     // schemas.enable
	Decimal    string `json:"decimal,omitempty"`    // decimal.handling.mode; default string
	Binary     string `json:"binary,omitempty"`     // binary.handling.mode; default bytes
	Time       string `json:"time,omitempty"`       // time.precision.mode; default adaptive
	Interval   string `json:"interval,omitempty"`   // interval.handling.mode; default numeric
	HStore     string `json:"hstore,omitempty"`     // hstore.handling.mode; default json
	Tombstones bool   `json:"tombstones,omitempty"` // tombstones.on.delete
	Truncate   bool   `json:"truncate,omitempty"`   // op t, which Debezium leaves out unless skipped.operations says otherwise
}

// Dialects of SQL.
const (
	PostgreSQL = "postgresql"
	MySQL      = "mysql" // and MariaDB
)

// SQLOptions are the choices of the format sql.
type SQLOptions struct {
	Dialect      string `json:"dialect,omitempty"`       // PostgreSQL, MySQL; default PostgreSQL
	Idempotent   bool   `json:"idempotent,omitempty"`    // statements that may be run again
	CreateTables bool   `json:"create_tables,omitempty"` // CREATE TABLE IF NOT EXISTS in front of a table's first change
}

// What each choice can be; the first is the default.
var (
	layouts   = []string{ByTransaction, ByRow}
	flavours  = []string{Native, Debezium}
	decimals  = []string{"string", "precise", "double"}
	binaries  = []string{"bytes", "base64", "base64-url-safe", "hex"}
	times     = []string{"adaptive", "adaptive_time_microseconds", "connect", "microseconds", "nanoseconds", "isostring"}
	intervals = []string{"numeric", "string"}
	hstores   = []string{"json", "map"}
	dialects  = []string{PostgreSQL, MySQL}
)

// WithDefaults fills in what is left open, of the format's own choices.
func (f Format) WithDefaults() Format {
	def := func(v *string, of []string) {
		if *v == "" {
			*v = of[0]
		}
	}
	def(&f.Name, []string{Internal})
	switch f.Name {
	case JSON:
		def(&f.JSON.Layout, layouts)
		def(&f.JSON.Flavour, flavours)
		if f.JSON.Flavour == Debezium {
			def(&f.Debezium.Decimal, decimals)
			def(&f.Debezium.Binary, binaries)
			def(&f.Debezium.Time, times)
			def(&f.Debezium.Interval, intervals)
			def(&f.Debezium.HStore, hstores)
		}
	case SQL:
		def(&f.SQL.Dialect, dialects)
	}
	return f
}

// Validate lists everything that is wrong at once. The choices are named as the flags of cdcctl are. A choice of another format
// than the chosen one is an error, too: it would be without effect.
func (f Format) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	one := func(flag, v string, of []string) {
		if v != "" && !slices.Contains(of, v) {
			add("%s %q is unknown. Try: %s", flag, v, strings.Join(of, ", "))
		}
	}
	one("format", f.Name, []string{Internal, JSON, SQL})
	one("--json-layout", f.JSON.Layout, layouts)
	one("--json-flavour", f.JSON.Flavour, flavours)
	one("--debezium-decimal", f.Debezium.Decimal, decimals)
	one("--debezium-binary", f.Debezium.Binary, binaries)
	one("--debezium-time", f.Debezium.Time, times)
	one("--debezium-interval", f.Debezium.Interval, intervals)
	one("--debezium-hstore", f.Debezium.HStore, hstores)
	one("--sql-dialect", f.SQL.Dialect, dialects)
	debezium := f.Name == JSON && f.JSON.Flavour == Debezium
	if f.Name != JSON && f.JSON != (JSONOptions{}) {
		add("the choices of JSON (--json-…) are for --format json. Try: --format json, or none of them")
	}
	if f.Name != SQL && f.SQL != (SQLOptions{}) {
		add("the choices of SQL (--sql-…) are for --format sql. Try: --format sql, or none of them")
	}
	if !debezium && f.Debezium != (DebeziumOptions{}) {
		add("the choices of Debezium (--debezium-…) are for --format json --json-flavour debezium. Try: these, or none of them")
	}
	if debezium && f.JSON.Layout != ByRow {
		add("Debezium's messages are rows. Try: --json-layout row")
	}
	if debezium && f.JSON.Types {
		add("--json-types is for --json-flavour native. Try: --debezium-schema")
	}
	if debezium && f.JSON.FillUnchanged {
		add("--json-fill-unchanged is for --json-flavour native: Debezium's events always take what the old row has. Try: leave it out")
	}
	if debezium && f.JSON.CloudEvents {
		add("--json-cloudevents is for --json-flavour native")
	}
	if f.JSON.CloudEvents && f.JSON.Layout != ByRow {
		add("--json-cloudevents is for --json-layout row")
	}
	return errors.Join(errs...)
}
