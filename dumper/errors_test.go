package dumper

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper/pgoutput"
)

func server(code, message string) error {
	return fmt.Errorf("stream: %w", &pgconn.PgError{Severity: "ERROR", Code: code, Message: message})
}

// TestJudge pins what is tried again (empty) and what ends a Dumper, with which words.
func TestJudge(t *testing.T) {
	d := New(Source{Name: "a", Slot: "s"}, nil, Options{})
	again := "cdcctl drop-subscription and create-subscription: the changes in between are gone from this slot, so the target has to be filled again"
	for _, test := range []struct {
		err  error
		want string
	}{
		{io.EOF, ""},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), ""},
		{fmt.Errorf("read: %w", net.ErrClosed), ""},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, ""},
		{syscall.ECONNRESET, ""},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, ""},
		{errEnded, ""},
		{fmt.Errorf("%w: %w", errSilent, errWait), ""},
		{server("57P01", "terminating connection due to administrator command"), ""},
		{server("57P02", "crash of another server process"), ""},
		{server("57P03", "the database system is starting up"), ""},
		{server("53300", "too many clients already"), ""},
		{server("08006", "connection failure"), ""},
		{server("55006", `replication slot "s" is active for PID 7`), ""},
		{server("57014", "canceling statement due to user request"), ""},
		{
			server("28P01", `password authentication failed for user "u"`),
			`shard a: the server does not let us in: stream: ERROR: password authentication failed for user "u" (SQLSTATE 28P01). Try: check user, password and pg_hba.conf`,
		},
		{
			server("42704", `replication slot "s" does not exist`),
			`shard a: slot "s" does not exist: stream: ERROR: replication slot "s" does not exist (SQLSTATE 42704). Try: ` + again,
		},
		{
			server("42704", `publication "p" does not exist`),
			`shard a: a publication does not exist, or did not when the changes were made: stream: ERROR: publication "p" does not exist (SQLSTATE 42704). Try: create it again with the same name and tables; cdcctl drop-subscription and create-subscription if changes were made without it`,
		},
		{
			&pgconn.PgError{Severity: "ВНИМАНИЕ", Code: "55000", Message: `пропущена загрузка публикации "p"`, File: "pgoutput.c"},
			`shard a: a publication does not exist, or did not when the changes were made: ВНИМАНИЕ: пропущена загрузка публикации "p" (SQLSTATE 55000). Try: create it again with the same name and tables; cdcctl drop-subscription and create-subscription if changes were made without it`,
		},
		{
			server("58P01", "requested WAL segment 000000010000000000000001 has already been removed"),
			`shard a: slot "s" lost WAL that is still needed: stream: ERROR: requested WAL segment 000000010000000000000001 has already been removed (SQLSTATE 58P01). Try: ` + again,
		},
		{
			server("55000", `can no longer get changes from replication slot "s"`),
			`shard a: slot "s" lost WAL that is still needed: stream: ERROR: can no longer get changes from replication slot "s" (SQLSTATE 55000). Try: ` + again,
		},
		{
			server("42501", "must be superuser or replication role to start walsender"),
			"shard a: a privilege is missing: stream: ERROR: must be superuser or replication role to start walsender (SQLSTATE 42501). Try: ALTER ROLE <role> REPLICATION; cdcctl check names every one",
		},
		{server("XX000", "boom"), "shard a: the server reports an error: stream: ERROR: boom (SQLSTATE XX000). Try: mend what it says; the server's log may tell more"},
		{errors.New("boom"), "shard a: an unexpected error: boom. Try: report this with the log; the slot was left as it is"},
		{
			fmt.Errorf("connect: %w", x509.UnknownAuthorityError{}),
			"shard a: the server's certificate is not accepted: connect: x509: certificate signed by unknown authority. Try: sslrootcert=<file> with the right authority, and a host name that the certificate names",
		},
		{
			protocolf("empty copy data"),
			"shard a: the replication stream is not what it should be: empty copy data. Try: report this with the server's version and log; the slot was left as it is",
		},
		{
			fmt.Errorf("pgoutput: %w", &pgoutput.SpillError{XID: 7, Err: fmt.Errorf("the disk is full: %w. Try: another one", syscall.ENOSPC)}),
			"shard a: a large transaction has no place: pgoutput: keep the changes of xid 7 outside of memory: the disk is full: no space left on device. Try: another one",
		},
		{&FatalError{What: "w", Try: "t"}, "shard a: w. Try: t"},
	} {
		fatal := d.judge(test.err)
		switch {
		case fatal == nil && test.want != "":
			t.Errorf("%v is tried again", test.err)
		case fatal != nil && fatal.Error() != test.want:
			t.Errorf("%v\n got  %s\n want %s", test.err, fatal, test.want)
		}
	}
}

// TestScrub: whoever puts a DSN into an error, it is not told on, and the cause is still found.
func TestScrub(t *testing.T) {
	err := scrub(fmt.Errorf("dial postgres://u:hunter2@h/d with hunter2: %w", io.EOF), "postgres://u:hunter2@h/d")
	if got, want := err.Error(), "dial postgres://u:xxxxx@h/d with xxxxx: EOF"; got != want || !errors.Is(err, io.EOF) {
		t.Errorf("got %s, want %s", got, want)
	}
}
