package bank

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// statementTime bounds one statement; a server that stands still longer is taken for gone.
const statementTime = 30 * time.Second

// A session is a connection to one database, made when it is needed and again when it broke.
type session struct {
	name, dsn string
	conn      *pgconn.PgConn
}

// exec runs statements in one round trip. It does not end with its caller's context: a statement that is cut off in the
// middle would leave its outcome unknown.
func (s *session) exec(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTime)
	defer cancel()
	if s.conn == nil {
		config, err := pgconn.ParseConfig(s.dsn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		for name, value := range map[string]string{
			"application_name": "bank", "TimeZone": "UTC", "extra_float_digits": "3", "DateStyle": "ISO, MDY",
			"lock_timeout": "150ms", "statement_timeout": "20s",
		} {
			config.RuntimeParams[name] = value
		}
		if s.conn, err = pgconn.ConnectConfig(ctx, config); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err == nil {
		return results, nil
	}
	if broken(err) || s.conn.IsClosed() {
		s.close()
		return nil, fmt.Errorf("%s: %w", s.name, &brokenError{err})
	}
	if s.conn.TxStatus() != 'I' {
		if _, undo := s.conn.Exec(ctx, "ROLLBACK").ReadAll(); undo != nil {
			s.close()
			return nil, fmt.Errorf("%s: %w", s.name, &brokenError{errors.Join(err, undo)})
		}
	}
	return nil, fmt.Errorf("%s: %w", s.name, err)
}

func (s *session) close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // Given up, whatever the goodbye says.
	s.conn = nil
}

// brokenError: the connection is gone, and whether the statements took effect is unknown.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// broken knows the errors of a connection that cannot be used any more, or could not be made.
func broken(err error) bool {
	var (
		already *brokenError
		connect *pgconn.ConnectError
		network net.Error
		errno   syscall.Errno
		pg      *pgconn.PgError
	)
	if errors.As(err, &pg) {
		switch pg.Code {
		case "57P01", "57P02", "57P03", "57P05":
			return true
		}
		return strings.HasPrefix(pg.Code, "08")
	}
	return errors.As(err, &already) || errors.As(err, &connect) || errors.As(err, &network) || errors.As(err, &errno) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.Timeout(err)
}

// gaveWay knows the errors of a transaction that waited too long for another one, and was rolled back.
func gaveWay(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "55P03", "40P01", "40001", "57014":
		return true
	}
	return false
}

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}
