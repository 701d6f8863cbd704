// Package connection opens databases by the DSNs of the catalog, for commands that a person started: with an error that
// says what to do, and never holds a password. (The dumper and the apply worker connect in ways of their own.)
package connection

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/dsn"
)

const (
	connectTimeout = 10 * time.Second // when the DSN gives none
	closeTimeout   = 2 * time.Second
)

// Open connects. References to the environment are filled in here; expanded is the DSN with them, to scrub errors with.
// params are settings of the session.
func Open(ctx context.Context, text string, params map[string]string) (conn *pgx.Conn, expanded string, err error) {
	if expanded, err = dsn.Expand(text, os.LookupEnv); err != nil {
		return nil, "", err
	}
	config, err := pgx.ParseConfig(expanded)
	if err != nil {
		return nil, "", fmt.Errorf("the DSN cannot be used: %s. Try: postgres://user@host:5432/database, or host=… dbname=…", dsn.Scrub(err.Error(), expanded))
	}
	maps.Copy(config.RuntimeParams, params)
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, "", fmt.Errorf("no connection: %s. Try: check host, port, database, user, password and pg_hba.conf", strings.TrimSuffix(once(dsn.Scrub(err.Error(), expanded)), "."))
	}
	return conn, expanded, nil
}

// once takes out what pgx says again for each way to connect, with TLS and without: lines that were there before.
func once(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

// HangUp closes a connection. It is given up whatever the goodbye says.
func HangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
	<-conn.PgConn().CleanupDone()
}
