package postgres

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
)

// classify makes an error of the target Blocked, unless it is one that passes by itself: the server or the
// connection is in trouble, or another session was in the way. Those are returned as they are. at, if not nil, says
// what was being done.
func classify(err error, at *apply.Blocked) error {
	var pg *pgconn.PgError
	if err == nil || !errors.As(err, &pg) || passes(pg.Code) {
		return err
	}
	blocked := &apply.Blocked{}
	if at != nil {
		*blocked = *at
	}
	blocked.Err = err
	if blocked.Table == "" && pg.TableName != "" {
		blocked.Table = tableName{pg.SchemaName, pg.TableName}.String()
	}
	if blocked.Try == "" {
		blocked.Try = advice(pg)
	}
	if blocked.Problem == "" && pg.ConstraintName != "" {
		blocked.Problem = "constraint " + quote(pg.ConstraintName)
	}
	return blocked
}

// passes: transient by SQLSTATE (appendix "PostgreSQL Error Codes").
func passes(code string) bool {
	switch code {
	case "40001", // serialization_failure
		"40P01", // deadlock_detected
		"55P03", // lock_not_available
		"57014", // query_canceled
		"25P03", // idle_in_transaction_session_timeout
		"25P04", // transaction_timeout
		"25006": // read_only_sql_transaction: a standby, until it is promoted
		return true
	}
	switch code[:min(2, len(code))] {
	case "08", // connection
		"53", // resources: connections, memory, disk
		"57", // shutdown, starting up
		"58": // I/O of the server
		return true
	}
	return false
}

// advice by kind of error.
func advice(pg *pgconn.PgError) string {
	switch {
	case pg.Code == "23505":
		return "find out who else writes to this table; DELETE the row that is in the way, and it goes on by itself"
	case strings.HasPrefix(pg.Code, "23"):
		return "drop or correct the constraint on the target; it goes on by itself"
	case pg.Code == "42501":
		return "GRANT the right that is missing to the user of apply; it goes on by itself"
	case strings.HasPrefix(pg.Code, "42"):
		return "make the target's table fit the source's (ALTER TABLE); it goes on by itself"
	case strings.HasPrefix(pg.Code, "22"):
		return "make the target's column as wide as the source's (ALTER TABLE … ALTER COLUMN … TYPE …); it goes on by itself"
	case strings.HasPrefix(pg.Code, "28"):
		return "correct the target's user or password; it goes on by itself"
	}
	return "mend it on the target; it goes on by itself"
}

// blockedIfRight adds what to grant when a right is missing.
func blockedIfRight(err error, try string) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return &apply.Blocked{Err: err, Try: try}
	}
	return classify(err, nil)
}
