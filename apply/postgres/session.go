package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/textform"
)

// Target is a PostgreSQL database.
type Target struct {
	cfg  Config
	conn *pgconn.Config

	ordered ordered

	name   string        // a random one: what it wrote into cdc.progress.owner begins with it
	owned  atomic.Bool   // the progress was taken over once
	owners atomic.Uint64 // given so far
}

// New checks the configuration; it does not connect.
func New(cfg Config) (*Target, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("target of %s: %w", cfg.Subscription, err)
	}
	cfg.setDefaults()
	conn, err := pgconn.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("target of %s: %w", cfg.Subscription, err)
	}
	conn.RuntimeParams["application_name"] = applicationName(cfg.Subscription)
	conn.RuntimeParams["client_encoding"] = "UTF8"
	conn.DialFunc = dialer()
	if cfg.Dial != nil {
		conn.DialFunc = cfg.Dial
	}
	return &Target{cfg: cfg, conn: conn, name: rand.Text()}, nil
}

// applicationName: PostgreSQL keeps 63 bytes.
func applicationName(subscription string) string { return "cdc apply " + subscription }

var _ apply.Target = (*Target)(nil)

// session is one connection and what it learned. Owned by the caller's goroutine.
type session struct {
	cfg  *Config
	conn *pgconn.PgConn

	tables     map[tableName]*table
	plans      map[*pipeline.Relation]*plan
	plansByRaw map[string]*plan // by the R message behind the OID: shards with equal tables share statements
	statements []*statement     // prepared, the oldest first
	copies     copies
	ddl        ddlLedger
	serial     int // of the last statement's name

	owner   string                          // of the progress, since Progress; see takeOver
	touched map[*pipeline.Relation]*touched // see Touches
	groups  uint64                          // that Touches looked at
	learned atomic.Uint64                   // how often unlearn forgot what was known about tables
	primary *session                        // of a lane: the session that it belongs to
	known   uint64                          // of a lane: primary.learned as of the last group

	gathered []*table    // with changes that were not sent yet; see gather.go
	spares   []*gathered // memory for more
	sets     sets
	walker   pipeline.Walker // of writer.changes

	old, now row    // scratch of one change
	state    []byte // scratch of a statement's key

	target *Target       // for asking about this session on another connection
	beat   atomic.Uint64 // odd while the target is being waited for; see waits
}

// row is a tuple's values.
type row []pipeline.Value

// Open connects.
func (t *Target) Open(ctx context.Context) (apply.Session, error) {
	s, err := t.open(ctx, (*session).settings, (*session).makeTables, (*session).prepareFixed)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Lane is described by apply.Session.
func (s *session) Lane(ctx context.Context) (apply.Lane, error) {
	lane, err := s.target.open(ctx, (*session).settings, (*session).prepareFixed)
	if err != nil {
		return nil, err
	}
	lane.owner, lane.primary, lane.known = s.owner, s, s.learned.Load()
	return lane, nil
}

func (t *Target) open(ctx context.Context, steps ...func(*session, context.Context) error) (*session, error) {
	conn, err := pgconn.ConnectConfig(ctx, t.conn)
	if err != nil {
		return nil, classify(fmt.Errorf("connect to the target: %w", err), nil)
	}
	s := &session{
		cfg: &t.cfg, conn: conn, target: t,
		tables: map[tableName]*table{}, plans: map[*pipeline.Relation]*plan{}, plansByRaw: map[string]*plan{},
		touched: map[*pipeline.Relation]*touched{},
	}
	for _, step := range steps {
		if err := step(s, ctx); err != nil {
			s.Close(ctx)
			return nil, err
		}
	}
	return s, nil
}

// Close ends the connection; the server rolls back what is open.
func (s *session) Close(ctx context.Context) { _ = s.conn.Close(ctx) }

// settings pins everything that the meaning of a value or the fate of a row may depend on.
func (s *session) settings(ctx context.Context) error {
	pinned := append(textform.Settings(), [][2]string{
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"row_security", "off"}, // an error where a policy would hide rows
		{"statement_timeout", "0"},
		{"lock_timeout", strconv.FormatInt(s.cfg.LockTimeout.Milliseconds(), 10)},
		// A connection that hangs must not hold the progress row for hours.
		{"idle_in_transaction_session_timeout", "60000"},
		{"tcp_keepalives_idle", "10"},
		{"tcp_keepalives_interval", "5"},
		{"tcp_keepalives_count", "3"},
		// Every statement finds one row by an index if there is one. A plan made while the table was empty must
		// not stay a sequential scan when it has grown.
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_seqscan", "off"},
		{"jit", "off"},
	}...)
	var sql strings.Builder
	for _, p := range pinned {
		fmt.Fprintf(&sql, "SET %s = %s;\n", p[0], literal(p[1]))
	}
	// As long as a source transaction takes; servers before 17 do not know it.
	sql.WriteString("SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'")
	if _, err := s.conn.Exec(ctx, sql.String()).ReadAll(); err != nil {
		return classify(fmt.Errorf("settings of the target's session: %w", err), nil)
	}
	_, err := s.conn.Exec(ctx, "SET session_replication_role = replica").ReadAll()
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return &apply.Blocked{
			Problem: "the target's triggers would fire a second time", Err: err,
			Try: fmt.Sprintf("GRANT SET ON PARAMETER session_replication_role TO %s (PostgreSQL 15 or later; a superuser before that)",
				quote(s.user())),
		}
	}
	if err != nil {
		return classify(fmt.Errorf("settings of the target's session: %w", err), nil)
	}
	return nil
}

func (s *session) user() string {
	if u := s.conn.ParameterStatus("session_authorization"); u != "" {
		return u
	}
	return "the_user"
}

// query runs one statement outside of the pipeline and returns its rows as text.
func (s *session) query(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	defer s.waits()()
	r := s.conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	return r.Rows, r.Err
}

// Names of the prepared statements that every group needs.
const (
	stBegin    = "cdc_begin"
	stProgress = "cdc_progress"
	stSkip     = "cdc_skip"
	stCheck    = "cdc_check"
	stDefer    = "cdc_defer"
	stCommit   = "cdc_commit"
)

const divisionByZero = "22012"

func (s *session) prepareFixed(ctx context.Context) error {
	for _, p := range [][2]string{
		{stBegin, "BEGIN"},
		// A compare-and-swap that fails when it does not find the row as it should be.
		{stProgress, "WITH moved AS (UPDATE cdc.progress SET stream_id = $2, csn = $3, stream_seq = $4, stream_time = $5, updated = clock_timestamp()" +
			" WHERE subscription = $1 AND stream_seq = $6 AND stream_id = $7 AND owner = $8 RETURNING 1) SELECT 1 / count(*) FROM moved"},
		{stSkip, "INSERT INTO cdc.skipped (subscription, csn, reason, skipped_by, asked, changes, passed) VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp())"},
		{stCheck, "SET CONSTRAINTS ALL IMMEDIATE"},
		{stDefer, "SET CONSTRAINTS ALL DEFERRED"},
		{stCommit, "COMMIT"},
	} {
		if _, err := s.conn.Prepare(ctx, p[0], p[1], nil); err != nil {
			return classify(fmt.Errorf("prepare %s: %w", p[1], err), nil)
		}
	}
	return nil
}
