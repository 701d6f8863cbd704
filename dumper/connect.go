package dumper

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/dsn"
	"shardcdc/pipeline/textform"
)

// connectTimeout is used when the DSN gives none.
const connectTimeout = 10 * time.Second

// pins are settings that decide what the server sends: text forms of values follow the session, and a warning may say
// that changes were left out (see notice). A user's or database's own settings must not change them, and search_path
// keeps functions and operators from being shadowed.
var pins = append(textform.Settings(), [][2]string{
	{"client_encoding", "UTF8"},
	{"client_min_messages", "warning"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
}...)

// dial connects. No error holds a password.
func dial(ctx context.Context, rawDSN, slot string, replication bool) (*pgconn.PgConn, error) {
	expanded, err := dsn.Expand(rawDSN, os.LookupEnv)
	if err != nil {
		return nil, &FatalError{What: "the DSN cannot be used", Err: err}
	}
	config, err := pgconn.ParseConfig(expanded)
	if err != nil {
		// The parser's error keeps the whole DSN, so only its text goes on.
		text := dsn.Scrub(err.Error(), expanded)
		return nil, &FatalError{What: "the DSN cannot be used: " + text, Try: "postgres://user@host:5432/database, or host=… dbname=…"}
	}
	for _, p := range pins {
		name, value := p[0], p[1]
		for had := range config.RuntimeParams {
			if strings.EqualFold(had, name) {
				delete(config.RuntimeParams, had)
			}
		}
		config.RuntimeParams[name] = value
	}
	config.RuntimeParams["application_name"] = applicationName(slot)
	if replication {
		config.RuntimeParams["replication"] = "database"
	} else {
		config.RuntimeParams["synchronous_commit"] = "local" // a nudge must not wait for standbys
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
	}}).DialContext
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, scrub(err, expanded)
	}
	// A server before 17 would refuse the connection for a parameter that it does not know.
	if _, err := query(ctx, conn, "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'"); err != nil {
		hangUp(conn)
		return nil, fmt.Errorf("settings of the session: %w", err)
	}
	return conn, nil
}

// Connect opens an ordinary session on a shard, named after the slot, with the settings that every session has here. The
// caller ends it with end, which does not wait for long.
func Connect(ctx context.Context, rawDSN, slot string) (conn *pgconn.PgConn, end func(), err error) {
	if conn, err = dial(ctx, rawDSN, slot, false); err != nil {
		return nil, nil, err
	}
	return conn, func() { hangUp(conn) }, nil
}

// applicationName is cut as PostgreSQL cuts it (NAMEDATALEN), so that it compares with what the server shows.
func applicationName(slot string) string {
	name := "cdc " + slot
	return name[:min(len(name), 63)]
}

// closeTimeout bounds the goodbye.
const closeTimeout = 2 * time.Second

func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	conn.Close(ctx) // the connection is given up whatever the goodbye says
	<-conn.CleanupDone()
}

// query runs statements in one round trip and returns the last one's rows as text; NULL is "".
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	return text(results[len(results)-1]), nil
}

func text(result *pgconn.Result) [][]string {
	rows := make([][]string, len(result.Rows))
	for i, row := range result.Rows {
		rows[i] = make([]string, len(row))
		for j, value := range row {
			rows[i][j] = string(value)
		}
	}
	return rows
}

// queryRow wants exactly one row of n columns.
func queryRow(ctx context.Context, conn *pgconn.PgConn, n int, sql string) ([]string, error) {
	rows, err := query(ctx, conn, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) != n {
		return nil, fmt.Errorf("%d rows, want one of %d columns", len(rows), n)
	}
	return rows[0], nil
}

// literal quotes a string for SQL and for replication commands.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// identifier quotes a name.
func identifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func list(names []string, quote func(string) string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quote(name)
	}
	return strings.Join(quoted, ", ")
}
