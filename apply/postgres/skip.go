package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// skip leaves a transaction out, and writes down what is missing now. Rows that cannot be read are a reason to skip, so
// they are no error here. The marks of a copy count all the same: else what comes later would not be understood.
func (w *writer) skip(tx *pipeline.Transaction, skip apply.Skip) error {
	var missing apply.Missing
	var marks []func(context.Context) error
	for _, f := range tx.Fragments {
		err := f.Walk(func(c *pipeline.Change) error {
			missing.Count(c)
			if d, ok, err := mark.DDLOf(c); ok && err == nil {
				marks = append(marks, func(ctx context.Context) error { return w.s.ddlMark(ctx, tx, f.Shard, &d, true) })
			}
			m, ok, err := mark.CopyOf(c)
			if ok && err == nil {
				marks = append(marks, func(ctx context.Context) error { return w.s.copyMark(ctx, tx.CSN, f.Shard, &m, true) })
			}
			return err
		})
		var read *apply.ReadError
		if errors.As(err, &read) {
			return err
		}
		if err != nil {
			missing.Unreadable(err)
		}
	}
	w.send(stSkip, [][]byte{
		[]byte(w.s.cfg.Subscription), number(uint64(tx.CSN)), []byte(skip.Reason), []byte(skip.By),
		[]byte(skip.At.UTC().Format(time.RFC3339Nano)), []byte(missing.String()),
	}, expected{what: skipping, change: change{csn: tx.CSN}})
	for _, m := range marks {
		if err := w.aside(m); err != nil {
			return err
		}
	}
	return nil
}

// Skipped lists what was left out on the target, the oldest first.
func (t *Target) Skipped(ctx context.Context) ([]apply.Skipped, error) {
	conn, err := pgconn.ConnectConfig(ctx, t.conn)
	if err != nil {
		return nil, classify(fmt.Errorf("connect to the target: %w", err), nil)
	}
	defer func() { _ = conn.Close(ctx) }()
	there := conn.ExecParams(ctx, "SELECT 1 WHERE pg_catalog.to_regclass('cdc.skipped') IS NOT NULL", nil, nil, nil, nil).Read()
	if there.Err != nil || len(there.Rows) == 0 {
		return nil, classify(there.Err, nil)
	}
	rows := conn.ExecParams(ctx, `SELECT csn::text, reason, skipped_by, changes,
			(extract(epoch FROM asked) * 1000000)::bigint::text, (extract(epoch FROM passed) * 1000000)::bigint::text
		FROM cdc.skipped WHERE subscription = $1 ORDER BY csn, passed`, [][]byte{[]byte(t.cfg.Subscription)}, nil, nil, nil).Read()
	if rows.Err != nil {
		return nil, classify(fmt.Errorf("read cdc.skipped: %w", rows.Err), &apply.Blocked{Try: "GRANT USAGE ON SCHEMA cdc, and SELECT ON cdc.skipped, to this user"})
	}
	var list []apply.Skipped
	for _, r := range rows.Rows {
		s := apply.Skipped{Skip: apply.Skip{Reason: string(r[1]), By: string(r[2])}, Changes: string(r[3])}
		if s.CSN, err = pipeline.ParseCSN(string(r[0])); err == nil {
			if s.At, err = micros(r[4]); err == nil {
				s.Passed, err = micros(r[5])
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read cdc.skipped: %w", err)
		}
		list = append(list, s)
	}
	return list, nil
}

// micros reads microseconds since 1970.
func micros(text []byte) (time.Time, error) {
	n, err := strconv.ParseInt(string(text), 10, 64)
	return time.UnixMicro(n).UTC(), err
}
