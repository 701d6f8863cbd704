package dumper

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline/dsn"
)

// FatalError is a fault that trying again cannot mend.
type FatalError struct {
	Shard string // the shard's name
	What  string // what is wrong
	Try   string // what mends it
	Err   error  // the cause; may be nil
}

func (e *FatalError) Error() string {
	s := "shard " + e.Shard + ": " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Try != "" {
		s += ". Try: " + e.Try
	}
	return s
}

func (e *FatalError) Unwrap() error { return e.Err }

// protocolError is something that the server sent and must not send, or that contradicts what it sent before.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

func protocolf(format string, args ...any) error {
	return &protocolError{fmt.Errorf(format, args...)}
}

// scrubbed is an error whose text holds no password.
type scrubbed struct {
	text string
	err  error
}

func (e *scrubbed) Error() string { return e.text }
func (e *scrubbed) Unwrap() error { return e.err }

func scrub(err error, expanded string) error {
	if err == nil {
		return nil
	}
	return &scrubbed{text: dsn.Scrub(err.Error(), expanded), err: err}
}

// judge returns nil for an error that may pass, else the fatal one. Only what is known to pass is tried again.
func (d *Dumper) judge(err error) *FatalError {
	var fatal *FatalError
	if errors.As(err, &fatal) {
		fatal.Shard = d.src.Name
		return fatal
	}
	fatal = &FatalError{Shard: d.src.Name, Err: err}
	var (
		pg       *pgconn.PgError
		spill    *pgoutput.SpillError
		protocol *protocolError
	)
	switch {
	case errors.As(err, &spill): // its cause says what to try
		fatal.What = "a large transaction has no place"
	case errors.As(err, &protocol):
		fatal.What = "the replication stream is not what it should be"
		fatal.Try = "report this with the server's version and log; the slot was left as it is"
	case errors.As(err, &pg):
		if transientState(pg) {
			return nil
		}
		fatal.What, fatal.Try = d.explain(pg)
	case certificate(err):
		fatal.What = "the server's certificate is not accepted"
		fatal.Try = "sslrootcert=<file> with the right authority, and a host name that the certificate names"
	case network(err):
		return nil
	default:
		fatal.What = "an unexpected error"
		fatal.Try = "report this with the log; the slot was left as it is"
	}
	return fatal
}

// transientState knows the server's errors that pass: lost or refused connections, restarts, too many connections, no
// memory or disk for the moment, a cancelled query, a timeout, a slot in use (its time is limited elsewhere).
func transientState(e *pgconn.PgError) bool {
	switch e.Code {
	case "57P01", "57P02", "57P03", "57P05", "57014", "25P04", "55006", "40001", "40P01", "55P03":
		return true
	}
	return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "53")
}

// pgoutputFile is where an error or warning of pgoutput comes from; unlike its text it is never translated.
const pgoutputFile = "pgoutput.c"

// explain finds words for the server's errors that do not pass.
func (d *Dumper) explain(e *pgconn.PgError) (what, try string) {
	slot := d.src.Slot
	switch {
	case strings.HasPrefix(e.Code, "28"):
		return "the server does not let us in", "check user, password and pg_hba.conf"
	case e.Code == "3D000":
		return "the database does not exist", "correct the DSN"
	case e.Code == "42501":
		return "a privilege is missing", "ALTER ROLE <role> REPLICATION; cdcctl check names every one"
	case e.Code == "42704" && strings.Contains(e.Message, "publication"), e.Code == "55000" && e.File == pgoutputFile:
		return "a publication does not exist, or did not when the changes were made", "create it again with the same name and tables; cdcctl drop-subscription and create-subscription if changes were made without it"
	case e.Code == "42704":
		return fmt.Sprintf("slot %q does not exist", slot), recreate
	case e.Code == "58P01", e.Code == "55000" && strings.Contains(e.Message, "slot"):
		return fmt.Sprintf("slot %q lost WAL that is still needed", slot), recreate
	}
	return "the server reports an error", "mend what it says; the server's log may tell more"
}

// recreate is the remedy when the slot cannot give what is missing.
const recreate = "cdcctl drop-subscription and create-subscription: the changes in between are gone from this slot, so the target has to be filled again"

func certificate(err error) bool {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

// network knows the errors of a connection that broke or could not be made.
func network(err error) bool {
	var (
		netErr  net.Error
		connect *pgconn.ConnectError
		errno   syscall.Errno
	)
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, errEnded) || errors.Is(err, errWait) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.As(err, &netErr) || errors.As(err, &connect) || errors.As(err, &errno) || pgconn.Timeout(err)
}

// errWait marks a condition of the server that is expected to pass.
var errWait = errors.New("waiting")
