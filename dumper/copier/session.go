package copier

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper"
	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
)

// Source is the shard to read.
type Source struct {
	Shard        pipeline.ShardID
	Name         string // of the shard, for people
	DSN          string
	Slot         string // the subscription's, which names the sessions
	Publications []string
}

// lockTimeout is how long a lock on a table is waited for: whoever wants the table after us waits as long.
const lockTimeout = 5 * time.Second

// Session is one connection to a shard. It is not for concurrent use; several may read the same shard. After an error of the
// connection, or when a context ended while it worked, it is closed: open another one.
type Session struct {
	src     Source
	conn    *pgconn.PgConn
	end     func()
	version int               // like 150018
	role    string            // who we are
	tables  map[string]*Table // what was described last, by quoted name
	size    int               // of the last body, a guess at the next one's
}

// settings of a session, beside those that every session has. Rows that a policy hides would be missing without a word;
// row_security off makes that an error. A chunk is read by one process, and light on the rest.
const settings = `SET row_security = off; SET max_parallel_workers_per_gather = 0; SET jit = off; SET lock_timeout = %d;
SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.quote_ident(current_user)`

// Open connects.
func Open(ctx context.Context, src Source) (*Session, error) {
	slot := src.Slot
	if slot == "" {
		slot = "copy"
	}
	s := &Session{src: src, tables: map[string]*Table{}}
	conn, end, err := dumper.Connect(ctx, src.DSN, slot)
	if err != nil {
		return nil, s.fail("connect", nil, err)
	}
	s.conn, s.end = conn, end
	results, err := s.query(ctx, fmt.Sprintf(settings, lockTimeout.Milliseconds()))
	if err == nil {
		row := results[len(results)-1].Rows[0]
		s.version, err = strconv.Atoi(string(row[0]))
		s.role = string(row[1])
	}
	if err != nil {
		end()
		return nil, s.fail("begin a session", nil, err)
	}
	return s, nil
}

// Close ends the session.
func (s *Session) Close() { s.end() }

// query runs statements in one round trip.
func (s *Session) query(ctx context.Context, sql string) ([]*pgconn.Result, error) {
	return s.conn.Exec(ctx, sql).ReadAll()
}

// Emit writes a transactional logical message. After an error it may have been written or not.
func (s *Session) Emit(ctx context.Context, prefix string, content []byte) error {
	const binary = 1
	_, err := s.conn.ExecParams(ctx, "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::bytea)",
		[][]byte{[]byte(prefix), content}, nil, []int16{0, binary}, nil).Close()
	return s.fail("write a logical message", nil, err)
}

// transaction runs fn in a transaction that sees one snapshot and changes nothing. It is rolled back in any case: there is
// nothing to commit.
func (s *Session) transaction(ctx context.Context, begin string, fn func(results []*pgconn.Result) error) error {
	results, err := s.query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "+begin)
	if err == nil {
		err = fn(results)
	}
	_, ended := s.query(ctx, "ROLLBACK")
	if code(ended) == queryCanceled { // a cancellation that came late
		_, ended = s.query(ctx, "ROLLBACK")
	}
	if ended != nil { // the next one must not find itself in this one's snapshot
		s.end()
	}
	if err == nil {
		err = ended
	}
	return err
}

// Taken is called with the snapshot of a chunk as soon as it is known.
type Taken func(fold.Snapshot)
