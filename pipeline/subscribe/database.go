package subscribe

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline"
	"shardcdc/pipeline/connection"
)

// database is a connection for a few questions. No error of it holds a password.
type database struct {
	*pgx.Conn
	expanded string
}

func open(ctx context.Context, text string) (*database, error) {
	conn, expanded, err := connection.Open(ctx, text, map[string]string{"application_name": "cdcctl", "search_path": ""})
	if err != nil {
		return nil, err
	}
	return &database{Conn: conn, expanded: expanded}, nil
}

func (d *database) hangUp() { connection.HangUp(d.Conn) }

// identity tells databases apart, whatever their DSNs look like.
type identity struct{ system, name string }

func (d *database) identity(ctx context.Context) (id identity, err error) {
	err = d.QueryRow(ctx, "SELECT system_identifier::text, current_database()::text FROM pg_catalog.pg_control_system()").Scan(&id.system, &id.name)
	if err != nil {
		return id, fmt.Errorf("identify the database: %w", err)
	}
	return id, nil
}

// clock is the server's clock minus ours, true to within uncertainty: the best of a few round trips.
func (d *database) clock(ctx context.Context) (offset, uncertainty time.Duration, err error) {
	for range 5 {
		var at time.Time
		sent := time.Now()
		if err := d.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at); err != nil {
			return 0, 0, fmt.Errorf("read the clock: %w", err)
		}
		half := time.Since(sent) / 2
		if uncertainty == 0 || half < uncertainty {
			offset, uncertainty = at.Sub(sent.Add(half)), half
		}
	}
	return offset, uncertainty, nil
}

// Mark returns a WAL position of a shard behind every transaction that was committed there before the call, and flushed: a
// logical message of our own is committed and flushed after them, asynchronous commits included.
func Mark(ctx context.Context, text string) (pipeline.LSN, error) {
	db, err := open(ctx, text)
	if err != nil {
		return 0, err
	}
	defer db.hangUp()
	// Not "on": whether standbys have it does not matter here.
	if _, err := db.Exec(ctx, "SET synchronous_commit = local"); err != nil {
		return 0, fmt.Errorf("mark a position: %w", err)
	}
	var at string
	if err := db.QueryRow(ctx, "SELECT pg_logical_emit_message(true, 'cdc.wait', '')::text").Scan(&at); err != nil {
		return 0, fmt.Errorf("mark a position: %w", err)
	}
	return pipeline.ParseLSN(at)
}
