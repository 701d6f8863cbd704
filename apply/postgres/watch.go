package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/pause"
)

// A target that answers nothing: something on the way (a proxy, a firewall) may go on acknowledging what we send although
// nothing arrives, and then neither keepalives nor TCP_USER_TIMEOUT ever end the wait. A limit of time alone would also
// end a statement that honestly takes hours (a trigger, a TRUNCATE that waits for a lock), again and again. So after
// Config.AskAfter without a result we ask on a second connection what the server is doing for this one: while it works,
// or waits for anything but us, so do we. If it waits for us, does not know us, or cannot be reached either, the session
// is given up.

// silentError is why a session was given up.
type silentError struct{ why string }

func (e *silentError) Error() string {
	return "the target does not answer on this connection: " + e.why
}

// waits notes that the target is being waited for, until the function that it returns is called.
func (s *session) waits() func() {
	s.beat.Add(1)
	return func() { s.beat.Add(1) }
}

// watched runs fn under the watch, which ends its ctx when the session has to be given up.
func (s *session) watched(ctx context.Context, report func(string), fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watch(ctx, cancel, report)
	}()
	err := fn(ctx)
	cancel(nil)
	<-done
	var silent *silentError
	if err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}

// ticks: how often the watch looks within AskAfter.
const ticks = 4

func (s *session) watch(ctx context.Context, giveUp context.CancelCauseFunc, report func(string)) {
	if report == nil {
		report = func(string) {}
	}
	tick := time.NewTicker(max(s.cfg.AskAfter/ticks, time.Millisecond))
	defer tick.Stop()
	quiet, seen, waiting := 0, s.beat.Load(), false
	defer func() {
		if waiting {
			report("")
		}
	}()
	for since := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		beat := s.beat.Load()
		if beat != seen || beat%2 == 0 {
			if waiting {
				report("")
			}
			quiet, seen, waiting, since = 0, beat, false, time.Now()
			continue
		}
		if quiet++; quiet < ticks {
			continue
		}
		quiet = 0
		doing, err := s.ask(ctx)
		if err != nil {
			if s.beat.Load() == seen {
				giveUp(err)
				return
			}
			continue
		}
		waiting = true
		report(fmt.Sprintf("the target has been at one statement for %s: %s", time.Since(since).Round(time.Second), doing))
	}
}

// askTimeout is for connecting and asking, and between two looks at a session that seems idle.
const (
	askTimeout = 15 * time.Second
	lookTwice  = time.Second
)

// ask says what the server is doing for this session, or an error if that is nothing.
func (s *session) ask(ctx context.Context) (doing string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, s.target.conn)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && !strings.HasPrefix(pg.Code, "57") {
		return "unknown, it refuses a second connection: " + pg.Message, nil // it is there, and may be working
	}
	if err != nil {
		return "", &silentError{fmt.Sprintf("a second connection fails as well: %v", err)}
	}
	defer func() { _ = conn.Close(ctx) }()
	// Twice, because it may have been between two statements.
	for look := 0; ; look++ {
		state, works, err := s.look(ctx, conn)
		if err != nil {
			return "", &silentError{fmt.Sprintf("a second connection fails as well: %v", err)}
		}
		if works {
			return state, nil
		}
		if look == 1 {
			// What it holds is locked for the next session otherwise, until the server notices.
			_ = conn.ExecParams(ctx, "SELECT pg_catalog.pg_terminate_backend($1::int)", [][]byte{s.pid()}, nil, nil, nil).Read()
			return "", &silentError{"the server waits for us, or has ended the session: " + state}
		}
		if err := pause.For(ctx, lookTwice); err != nil {
			return "", &silentError{err.Error()}
		}
	}
}

func (s *session) pid() []byte { return strconv.AppendUint(nil, uint64(s.conn.PID()), 10) }

// look reads the session's row of pg_stat_activity.
func (s *session) look(ctx context.Context, conn *pgconn.PgConn) (state string, works bool, err error) {
	r := conn.ExecParams(ctx, `SELECT coalesce(state, ''), coalesce(wait_event_type, ''), coalesce(wait_event, '')
		FROM pg_catalog.pg_stat_activity WHERE pid = $1::int AND application_name = $2`,
		[][]byte{s.pid(), []byte(applicationName(s.cfg.Subscription))}, nil, nil, nil).Read()
	if r.Err != nil {
		return "", false, r.Err
	}
	if len(r.Rows) == 0 {
		return "there is no such session", false, nil
	}
	state, kind, event := string(r.Rows[0][0]), string(r.Rows[0][1]), string(r.Rows[0][2])
	works = state == "active" && kind != "Client"
	switch kind {
	case "":
		return state, works, nil
	case "Lock":
		return fmt.Sprintf("%s, waiting for a lock (%s)", state, event), works, nil
	}
	return fmt.Sprintf("%s, waiting for %s %s", state, kind, event), works, nil
}
