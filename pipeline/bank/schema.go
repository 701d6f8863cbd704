package bank

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Tables are the names of the bank's tables, in schema public.
var Tables = []string{"accounts", "history", "journal", "markers", "notes"}

const tablesSQL = `
CREATE TABLE accounts (
	id bigint PRIMARY KEY,          -- lives on shard id modulo the number of shards
	owner text NOT NULL,
	balance bigint NOT NULL,
	updated timestamptz NOT NULL);
CREATE TABLE history (
	id bigint PRIMARY KEY,          -- transfer * 16 + side
	transfer bigint NOT NULL,
	sides int NOT NULL,             -- rows of this transfer, over all shards
	version int NOT NULL,           -- the same on every side
	account bigint NOT NULL,
	amount bigint NOT NULL,
	detail jsonb NOT NULL,
	at timestamptz NOT NULL);
CREATE INDEX ON history (transfer);
CREATE TABLE journal (
	entry bigint NOT NULL,          -- no key: a row too many is not refused
	what text NOT NULL,
	at timestamptz NOT NULL);
ALTER TABLE journal REPLICA IDENTITY FULL;
CREATE TABLE markers (
	id bigint,
	shard int,
	sent timestamptz NOT NULL,
	PRIMARY KEY (id, shard));
CREATE TABLE notes (
	id bigint PRIMARY KEY,
	title text,                     -- NULL and '' are different
	body text,                      -- sometimes large: an update that leaves it alone does not carry it
	tags text[],
	price numeric(20,4),
	ratio double precision,
	raw bytea,
	extra jsonb,
	flag boolean,
	day date,
	took interval,
	at timestamptz NOT NULL);
ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;`

// CreateTables makes the bank's tables, empty, on a shard or on a target.
func CreateTables(ctx context.Context, dsn string) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("create the bank's tables: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, tablesSQL).ReadAll(); err != nil {
		return fmt.Errorf("create the bank's tables: %w", err)
	}
	return nil
}
