package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause"
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
	owner text NOT NULL DEFAULT '',
	consistent_from bigint NOT NULL DEFAULT 0,
	updated timestamptz NOT NULL);
COMMENT ON TABLE cdc.progress IS 'How far each subscription is applied; changes together with the data. Do not edit.';
COMMENT ON COLUMN cdc.progress.stream_time IS 'When the stream stored message stream_seq, in ns since 1970';
COMMENT ON COLUMN cdc.progress.owner IS 'The attempt of a worker that may write here';
COMMENT ON COLUMN cdc.progress.consistent_from IS 'CSN at which the last copy of tables was complete here; while cdc.copying has rows, another one is not';
CREATE TABLE IF NOT EXISTS cdc.skipped (
	subscription text NOT NULL,
	csn bigint NOT NULL,
	reason text NOT NULL,
	skipped_by text NOT NULL,
	asked timestamptz NOT NULL,
	changes text NOT NULL,
	passed timestamptz NOT NULL);
COMMENT ON TABLE cdc.skipped IS 'Transactions that were left out on request, with the changes that are missing here.';
CREATE TABLE IF NOT EXISTS cdc.copying (
	subscription text NOT NULL,
	table_schema text NOT NULL,
	table_name text NOT NULL,
	job text NOT NULL,
	keyed boolean NOT NULL,
	merge boolean NOT NULL,
	arrived integer[] NOT NULL,
	PRIMARY KEY (subscription, table_schema, table_name));
COMMENT ON TABLE cdc.copying IS 'Tables that are being copied, by their names on the shards: rows are still missing here. Do not edit.';
COMMENT ON COLUMN cdc.copying.merge IS 'The table kept rows from before the copy';
COMMENT ON COLUMN cdc.copying.arrived IS 'Of a table without a key: the shards whose rows are here';
`

// makeTables creates what is absent: a role without the right to create may use what is there.
func (s *session) makeTables(ctx context.Context) error {
	there, err := s.query(ctx, "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'cdc' AND c.relname IN ('progress', 'skipped', 'copying', 'ddl', 'ddl_done')")
	if err != nil {
		return classify(fmt.Errorf("look for cdc.progress: %w", err), nil)
	}
	if len(there) < 5 {
		// The lock is for two workers that begin at the same time; CREATE IF NOT EXISTS does not see the other.
		_, err := s.conn.Exec(ctx, "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('cdc.progress', 0));"+makeTablesSQL+makeDDLTablesSQL+"COMMIT").ReadAll()
		if err != nil {
			return blockedIfRight(fmt.Errorf("create the tables of schema cdc on the target: %w", err),
				fmt.Sprintf("as its owner: GRANT CREATE ON DATABASE … TO %[1]s; GRANT CREATE ON SCHEMA cdc TO %[1]s, if that is there", quote(s.user())))
		}
	}
	return s.makeRow(ctx)
}

// makeRow begins a subscription's progress. Copies of an earlier one of this name do not go on. It looks first: an INSERT
// waits for a transaction that changes the row, though it would do nothing.
func (s *session) makeRow(ctx context.Context) error {
	there, err := s.query(ctx, "SELECT 1 FROM cdc.progress WHERE subscription = $1", s.cfg.Subscription)
	if err == nil && len(there) == 0 {
		_, err = s.query(ctx, `WITH made AS (INSERT INTO cdc.progress (subscription, stream_id, csn, stream_seq, stream_time, updated)
				VALUES ($1, '', 0, 0, 0, now()) ON CONFLICT DO NOTHING RETURNING subscription)
			DELETE FROM cdc.copying AS c USING made WHERE c.subscription = made.subscription`, s.cfg.Subscription)
	}
	if err != nil {
		return blockedIfRight(fmt.Errorf("write cdc.progress on the target: %w", err), fmt.Sprintf(
			"GRANT USAGE ON SCHEMA cdc TO %[1]s; GRANT SELECT, INSERT, UPDATE ON cdc.progress TO %[1]s; GRANT SELECT, INSERT, UPDATE, DELETE ON cdc.copying TO %[1]s", quote(s.user())))
	}
	return nil
}

// Progress is described by apply.Session. It makes this session the row's owner, under the row's lock. So
//
//   - a transaction that has done its compare-and-swap holds the lock: it is over before we read;
//   - one that has not will not find its owner in the row, and cannot commit any more.
//
// The locks that the latter hold on rows of the data end with their sessions, which are ended here: they are of an older attempt,
// or of another worker, whose process may stand still.
func (s *session) Progress(ctx context.Context) (p apply.Progress, err error) {
	rows, err := s.takeOver(ctx)
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
	if s.copies.consistentFrom, err = pipeline.ParseCSN(string(rows[0][4])); err != nil {
		return p, fmt.Errorf("read cdc.progress: %w", err)
	}
	if err := s.evict(ctx, "xact_start IS NOT NULL"); err != nil {
		return p, fmt.Errorf("end older sessions on the target: %w", err)
	}
	if err := s.readCopies(ctx); err != nil {
		return p, err
	}
	return p, s.readDDL(ctx)
}

// lockEvery is the time between two tries to lock the progress.
const lockEvery = 100 * time.Millisecond

// takeOver makes the session the owner, and returns the row.
func (s *session) takeOver(ctx context.Context) ([][][]byte, error) {
	rows, err := s.lockProgress(ctx)
	if err != nil || len(rows) != 1 {
		return rows, err
	}
	// Who was overtaken sees another owner than the last one of its own. It must not take over in turn, again and again.
	if before := string(rows[0][5]); s.target.owned.Load() && before != "" && !strings.HasPrefix(before, s.target.name) {
		return nil, s.fenced()
	}
	s.owner = fmt.Sprintf("%s/%d", s.target.name, s.target.owners.Add(1))
	s.target.owned.Store(true)
	if _, err := s.query(ctx, "UPDATE cdc.progress SET owner = $2 WHERE subscription = $1", s.cfg.Subscription, s.owner); err != nil {
		return nil, err
	}
	return rows, s.exec(ctx, "COMMIT")
}

// lockProgress begins a transaction that holds the row.
func (s *session) lockProgress(ctx context.Context) ([][][]byte, error) {
	began := time.Now()
	for {
		if err := s.exec(ctx, "BEGIN"); err != nil {
			return nil, err
		}
		rows, err := s.query(ctx, "SELECT stream_id, csn::text, stream_seq::text, stream_time::text, consistent_from::text, owner FROM cdc.progress WHERE subscription = $1 FOR UPDATE NOWAIT", s.cfg.Subscription)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55P03" || time.Since(began) > s.cfg.LockTimeout {
			return rows, err
		}
		if err := s.exec(ctx, "ROLLBACK"); err != nil {
			return nil, err
		}
		// The server waits for its client: that is a frozen process, or one that is cut off, and the server alone would wait
		// for a minute, and in the middle of a pipeline for ever.
		if err := s.evict(ctx, "wait_event_type = 'Client' AND state_change < pg_catalog.clock_timestamp() - interval '1 second'"); err != nil {
			return nil, err
		}
		if err := pause.For(ctx, lockEvery); err != nil {
			return nil, fmt.Errorf("%w: %w", err, pg)
		}
	}
}

// evict ends other sessions of this subscription's workers: whoever opens a session has the lease. Ending a session undoes its
// transaction; a worker that was not frozen after all begins anew, and the progress keeps the two apart.
func (s *session) evict(ctx context.Context, which string) error {
	_, err := s.query(ctx, `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
		WHERE application_name = $1 AND datname = pg_catalog.current_database() AND usename = current_user AND pid <> pg_catalog.pg_backend_pid()
		AND `+which, applicationName(s.cfg.Subscription))
	return err
}
