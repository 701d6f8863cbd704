package mysql

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	sqldriver "database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"shardcdc/apply"
	"shardcdc/apply/schedule"
	"shardcdc/pipeline"
	"shardcdc/pipeline/moves"
)

// Target is a database of MySQL or MariaDB.
type Target struct {
	cfg  Config
	conn *driver.Config

	name   string        // a random one: what it wrote into cdc_progress.owner begins with it
	owned  atomic.Bool   // the progress was taken over once
	owners atomic.Uint64 // given so far
}

var _ apply.Target = (*Target)(nil)

// New checks the configuration; it does not connect.
func New(cfg Config) (*Target, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("target of %s: %w", cfg.Subscription, err)
	}
	cfg.setDefaults()
	conn, err := ParseDSN(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("target of %s: %w", cfg.Subscription, err)
	}
	return &Target{cfg: cfg, conn: conn, name: rand.Text()}, nil
}

// session is one connection and what it learned. Owned by the caller's goroutine.
type session struct {
	cfg    *Config
	target *Target
	db     *sql.DB // of this one connection
	conn   *sql.Conn

	packetMax int    // bytes of a statement
	chunk     int    // Config.ChunkBytes, or less where packets are small
	lock      string // the name of the lock that a session holds while it works; see progress.go
	owner     string // of the progress, since Progress
	database  string

	foldsNames bool                    // of tables and databases: lower_case_table_names
	sources    map[tableName]tableName // by the names on the target

	tables map[tableName]*table
	plans  map[*pipeline.Relation]*plan
	copies copies
}

// Open connects.
func (t *Target) Open(ctx context.Context) (apply.Session, error) {
	s, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.makeTables(ctx); err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

func (t *Target) open(ctx context.Context) (*session, error) {
	connector, err := driver.NewConnector(t.conn)
	if err != nil {
		return nil, fmt.Errorf("target of %s: %w", t.cfg.Subscription, err)
	}
	s := &session{
		cfg: &t.cfg, target: t, db: sql.OpenDB(connector), database: t.conn.DBName,
		sources: map[tableName]tableName{}, tables: map[tableName]*table{}, plans: map[*pipeline.Relation]*plan{},
	}
	s.lock = lockName(t.conn.DBName, t.cfg.Subscription)
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return nil, errors.Join(classify(fmt.Errorf("connect to the target: %w", err), nil), s.db.Close())
	}
	if err := s.settings(ctx); err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// lockName fits into the 64 characters that such a name may have. Locks are the server's, not the database's.
func lockName(database, subscription string) string {
	sum := sha256.Sum256([]byte(database + "\x00" + subscription))
	return "cdc_apply_" + hex.EncodeToString(sum[:20])
}

// Close ends the connection; the server rolls back what is open.
func (s *session) Close(context.Context) {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	_ = s.db.Close()
}

// settings pins everything that the meaning of a value or the fate of a row may depend on.
func (s *session) settings(ctx context.Context) error {
	var version string
	if err := s.conn.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return classify(fmt.Errorf("ask the target's version: %w", err), nil)
	}
	pinned := []string{
		"SET NAMES utf8mb4",
		// Strict: a value that does not fit is an error; a zero in an AUTO_INCREMENT column is a zero. Nothing else: no ANSI_QUOTES,
		// no PAD_CHAR_TO_FULL_LENGTH.
		"SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
		"SET SESSION time_zone = '+00:00'",
		"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
		"SET SESSION TRANSACTION READ WRITE",
		"SET SESSION autocommit = 1",
		// Rows come in the order of the source's transactions, where a child may stand before its parent until the transaction ends.
		"SET SESSION foreign_key_checks = 0, unique_checks = 1, sql_safe_updates = 0, sql_auto_is_null = 0",
		fmt.Sprintf("SET SESSION innodb_lock_wait_timeout = %[1]d, lock_wait_timeout = %[1]d", int(s.cfg.LockTimeout.Seconds())),
		// A process that stands still before it has the session's lock cannot be found by it; see alone.
		"SET SESSION wait_timeout = 60, net_write_timeout = 600, net_read_timeout = 600",
	}
	if isMariaDB(version) {
		pinned = append(pinned,
			"SET SESSION max_statement_time = 0, idle_transaction_timeout = 60, idle_write_transaction_timeout = 60",
			"SET SESSION explicit_defaults_for_timestamp = ON", // else NULL would become now()
		)
	}
	for _, text := range pinned {
		if _, err := s.conn.ExecContext(ctx, text); err != nil {
			return classify(fmt.Errorf("settings of the target's session: %s: %w", text, err), nil)
		}
	}
	if err := s.conn.QueryRowContext(ctx, "SELECT @@max_allowed_packet, @@lower_case_table_names <> 0").Scan(&s.packetMax, &s.foldsNames); err != nil {
		return classify(fmt.Errorf("ask the target's settings: %w", err), nil)
	}
	if s.foldsNames {
		s.database = strings.ToLower(s.database)
	}
	s.chunk = min(s.cfg.ChunkBytes, s.packetMax/4) // the last row of a piece may be as large as the others, and twice as large when it is written
	return nil
}

// query calls fn with every row. fn scans.
func (s *session) query(ctx context.Context, text string, fn func(scan func(...any) error) error, args ...any) error {
	rows, err := s.conn.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// exec runs one statement and returns how many rows it found.
func (s *session) exec(ctx context.Context, text string, args ...any) (int64, error) {
	result, err := s.conn.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// execAll runs several statements in one piece and returns how many rows each found.
func (s *session) execAll(ctx context.Context, text string) (found []int64, err error) {
	err = s.conn.Raw(func(c any) error {
		execer, ok := c.(sqldriver.ExecerContext)
		if !ok {
			return fmt.Errorf("%T runs no statements", c)
		}
		result, err := execer.ExecContext(ctx, text, nil)
		if err != nil {
			return err
		}
		all, ok := result.(driver.Result)
		if !ok {
			return fmt.Errorf("%T does not tell the rows of each statement", result)
		}
		found = all.AllRowsAffected()
		return nil
	})
	return found, err
}

// Statements is described by apply.Session: DDL of the shards does not run here.
func (s *session) Statements() []apply.Statement { return nil }

// Streams is described by apply.Session: what has to be known before the first row are TRUNCATEs and moves.
func (s *session) Streams(tx *pipeline.Transaction) bool { return !truncates(tx) && !moves.May(tx) }

// Touches is described by apply.Session. There is one lane.
func (s *session) Touches(_ context.Context, _ *apply.Group, keys []schedule.Key) ([]schedule.Key, bool) {
	return keys, true
}

// Lane is described by apply.Session. Nobody asks, since every group is alone.
func (s *session) Lane(context.Context) (apply.Lane, error) {
	return nil, errors.New("MySQL is applied to on one connection")
}

// Held is described by apply.Session.
func (s *session) Held(context.Context, apply.Lane, []apply.Lane) (bool, error) { return false, nil }

// lockEvery is the time between two tries to lock the progress.
const lockEvery = 100 * time.Millisecond

func isMariaDB(version string) bool { return strings.Contains(version, "MariaDB") }
