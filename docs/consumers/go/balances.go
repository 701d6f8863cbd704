package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// What this consumer is for: the balances of the table public.accounts.
const schema = `
CREATE TABLE IF NOT EXISTS balances (id bigint PRIMARY KEY, shard text NOT NULL, balance numeric NOT NULL);
CREATE TABLE IF NOT EXISTS consumed (stream text PRIMARY KEY, csn text NOT NULL, seq bigint NOT NULL)`

type change struct {
	Op, Shard, Schema, Table string
	Key, After               json.RawMessage
	Tables                   []struct{ Schema, Table string } // of a truncate
}

// account is a row, or its key. A json.Number takes a number or a string: a numeric is a string, and so is a bigint beyond 2^53.
type account struct{ ID, Balance json.Number }

// load makes the tables, and reads the position; the first one is told by first.
func (c *consumer) load(ctx context.Context, first func() (position, error)) error {
	if _, err := c.db.Exec(ctx, schema); err != nil {
		return err
	}
	err := c.db.QueryRow(ctx, "SELECT csn, seq FROM consumed WHERE stream = $1", c.stream).Scan(&c.csn, &c.seq)
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if c.position, err = first(); err != nil {
		return err
	}
	_, err = c.db.Exec(ctx, "INSERT INTO consumed VALUES ($1, $2, $3)", c.stream, c.csn, int64(c.seq))
	return err
}

// commit writes what a unit does, and the position behind it, in one transaction.
func (c *consumer) commit(ctx context.Context, seq uint64) error {
	batch, csn := &pgx.Batch{}, c.csn
	for i := range c.unit {
		tx := &c.unit[i]
		if tx.Previous != csn {
			return fmt.Errorf("transaction %s follows %s, and the last one here is %s: some are missing, or the stream is another one. Begin anew", tx.CSN, tx.Previous, csn)
		}
		csn = tx.CSN
		number, err := strconv.ParseUint(csn, 10, 64)
		if err != nil {
			return fmt.Errorf("csn: %w", err)
		}
		if number <= c.behind {
			continue
		}
		for j := range tx.Changes {
			if err := queue(batch, &tx.Changes[j]); err != nil {
				return fmt.Errorf("transaction %s: %w", tx.CSN, err)
			}
		}
	}
	err := pgx.BeginFunc(ctx, c.db, func(to pgx.Tx) error {
		if err := to.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		tag, err := to.Exec(ctx, "UPDATE consumed SET csn = $1, seq = $2 WHERE stream = $3 AND csn = $4", csn, int64(seq), c.stream, c.csn)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("the position is not %s any more: another consumer is at work", c.csn)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("transactions up to %s: %w", csn, err)
	}
	c.position, c.unit = position{csn, seq}, nil
	return nil
}

// queue adds the statements for a change.
func queue(batch *pgx.Batch, ch *change) error {
	switch ch.Op {
	case "insert", "update", "delete", "read":
		if ch.Schema != "public" || ch.Table != "accounts" {
			return nil
		}
	case "truncate":
		for _, table := range ch.Tables {
			if table.Schema == "public" && table.Table == "accounts" {
				batch.Queue("DELETE FROM balances WHERE shard = $1", ch.Shard)
			}
		}
		return nil
	case "relation", "message", "ddl", "copy":
		return nil // nothing for this consumer: consumers.md says what they tell
	default:
		return fmt.Errorf("unknown op %q", ch.Op)
	}
	var key, after account
	if ch.Key != nil {
		if err := json.Unmarshal(ch.Key, &key); err != nil {
			return err
		}
	}
	if ch.After != nil {
		if err := json.Unmarshal(ch.After, &after); err != nil {
			return err
		}
	}
	if ch.Op != "insert" && ch.Op != "read" && key.ID != after.ID { // a delete, or the old key; not of a row that came from another shard
		batch.Queue("DELETE FROM balances WHERE id = $1 AND shard = $2", key.ID.String(), ch.Shard)
	}
	if ch.After != nil {
		batch.Queue("INSERT INTO balances VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET shard = excluded.shard, balance = excluded.balance",
			after.ID.String(), ch.Shard, after.Balance.String())
	}
	return nil
}
