package postgres

import (
	"context"
	"fmt"
	"strconv"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// The tables of our own on the target.
const makeTablesSQL = `
CREATE SCHEMA IF NOT EXISTS cdc;
CREATE TABLE IF NOT EXISTS cdc.progress (
	subscription text PRIMARY KEY,
	stream_id text NOT NULL,
	csn bigint NOT NULL,
	stream_seq bigint NOT NULL,
	stream_time bigint NOT NULL,
	updated timestamptz NOT NULL);
COMMENT ON TABLE cdc.progress IS 'How far each subscription is applied; changes together with the data. Do not edit.';
COMMENT ON COLUMN cdc.progress.stream_time IS 'When the stream stored message stream_seq, in ns since 1970';
CREATE TABLE IF NOT EXISTS cdc.skipped (
	subscription text NOT NULL,
	csn bigint NOT NULL,
	reason text NOT NULL,
	skipped_by text NOT NULL,
	asked timestamptz NOT NULL,
	changes text NOT NULL,
	passed timestamptz NOT NULL);
COMMENT ON TABLE cdc.skipped IS 'Transactions that were left out on request, with the changes that are missing here.';
`

// makeTables creates what is absent: a role without the right to create may use what is there.
func (s *session) makeTables(ctx context.Context) error {
	there, err := s.query(ctx, "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'cdc' AND c.relname IN ('progress', 'skipped')")
	if err != nil {
		return classify(fmt.Errorf("look for cdc.progress: %w", err), nil)
	}
	if len(there) < 2 {
		// The lock is for two workers that begin at the same time; CREATE IF NOT EXISTS does not see the other.
		_, err := s.conn.Exec(ctx, "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('cdc.progress', 0));"+makeTablesSQL+"COMMIT").ReadAll()
		if err != nil {
			return blockedIfRight(fmt.Errorf("create cdc.progress and cdc.skipped on the target: %w", err),
				fmt.Sprintf("as its owner: GRANT CREATE ON DATABASE … TO %[1]s; GRANT CREATE ON SCHEMA cdc TO %[1]s, if that is there", quote(s.user())))
		}
	}
	_, err = s.query(ctx, "INSERT INTO cdc.progress (subscription, stream_id, csn, stream_seq, stream_time, updated) VALUES ($1, '', 0, 0, 0, now()) ON CONFLICT DO NOTHING", s.cfg.Subscription)
	if err != nil {
		return blockedIfRight(fmt.Errorf("write cdc.progress on the target: %w", err), fmt.Sprintf(
			"GRANT USAGE ON SCHEMA cdc TO %[1]s; GRANT SELECT, INSERT, UPDATE ON cdc.progress TO %[1]s", quote(s.user())))
	}
	return nil
}

// Progress reads the row under its lock, so it waits for an older session that may still commit.
func (s *session) Progress(ctx context.Context) (p apply.Progress, err error) {
	rows, err := s.query(ctx, "SELECT stream_id, csn::text, stream_seq::text, stream_time::text FROM cdc.progress WHERE subscription = $1 FOR UPDATE", s.cfg.Subscription)
	if err != nil {
		return p, classify(fmt.Errorf("read cdc.progress: %w", err), nil)
	}
	if len(rows) != 1 {
		return p, fmt.Errorf("read cdc.progress: the row of subscription %s is gone", s.cfg.Subscription)
	}
	p.StreamID = string(rows[0][0])
	if p.CSN, err = pipeline.ParseCSN(string(rows[0][1])); err != nil {
		return p, fmt.Errorf("read cdc.progress: %w", err)
	}
	seq, err := strconv.ParseUint(string(rows[0][2]), 10, 64)
	if err != nil {
		return p, fmt.Errorf("read cdc.progress: %w", err)
	}
	p.Seq = pipeline.Seq(seq)
	if p.Stamp, err = strconv.ParseInt(string(rows[0][3]), 10, 64); err != nil {
		return p, fmt.Errorf("read cdc.progress: %w", err)
	}
	return p, nil
}
