package copier

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper"
)

// ErrGone is wrapped when a table is not there any more, or not published.
var ErrGone = errors.New("the table is not there")

// ErrKey is wrapped when a table has not the key any more that it had when its copy began: what ranges mean is not known.
var ErrKey = errors.New("the table has another key now")

// SQLSTATEs.
const (
	undefinedSchema   = "3F000"
	undefinedTable    = "42P01"
	privilegeMissing  = "42501"
	lockNotAvailable  = "55P03"
	queryCanceled     = "57014"
	programLimit      = "54000"
	outOfMemory       = "53200"
	rowTooLargeAsText = "XX000"
)

// code is the SQLSTATE of an error; empty: it has none.
func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// Error is what went wrong with a shard, or with a table of it.
type Error struct {
	Shard string
	Table string // quoted, as SQL; empty: no single table's matter
	What  string
	Try   string
	Err   error
}

func (e *Error) Error() string {
	b := strings.Builder{}
	fmt.Fprintf(&b, "shard %s: ", e.Shard)
	if e.Table != "" {
		fmt.Fprintf(&b, "table %s: ", e.Table)
	}
	b.WriteString(e.What)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Try != "" {
		b.WriteString(". Try: " + e.Try)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// fail names what failed; nil stays nil.
func (s *Session) fail(what string, t *Table, err error) error {
	if err == nil {
		return nil
	}
	var named *Error
	if errors.As(err, &named) {
		return err
	}
	var fatal *dumper.FatalError
	if errors.As(err, &fatal) {
		fatal.Shard = s.src.Name
		return err
	}
	e := &Error{Shard: s.src.Name, What: what, Err: err}
	if t != nil {
		e.Table = t.quoted()
	}
	switch code(err) {
	case privilegeMissing:
		e.Try = "ask the database's owner for the right"
		if t != nil {
			e.Try = fmt.Sprintf("GRANT SELECT ON %s TO %s; GRANT USAGE ON SCHEMA %s TO %s; ALTER ROLE %s BYPASSRLS if a policy hides rows",
				t.quoted(), s.role, identifier(t.Schema), s.role, s.role)
		}
	case undefinedTable, undefinedSchema:
		e.Err = fmt.Errorf("%w: %w", ErrGone, err)
		e.Try = "cdcctl remove-table, if it was dropped for good"
	case lockNotAvailable:
		e.Try = "wait until that ends, or end it; the copy goes on then"
	case programLimit, outOfMemory, rowTooLargeAsText:
		e.Try = "look into the server's log; a row whose text is larger than 1 GB cannot be copied, nor can its changes be"
	default:
		e.Try = "mend what it says; the server's log may tell more"
	}
	return e
}
