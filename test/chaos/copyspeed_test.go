package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// speed is a measured copy beside others of the same rows on the same servers.
type speed struct {
	t     *testing.T
	c     *harness.Cluster
	b     *harness.Bank
	rows  int // in all
	bytes int64
}

// A copy of CDC_COPY rows (make copy) over three shards beside a steady load, measured; and the same rows by COPY TO | COPY
// FROM without anything between, and by PostgreSQL's own subscriptions, on the same servers under the same load.
func TestCopySpeed(t *testing.T) {
	s := &speed{t: t, rows: 150_000}
	if text := os.Getenv("CDC_COPY"); text != "" {
		var err error
		s.rows, err = strconv.Atoi(text)
		must(t, err)
	} else {
		whole(t)
	}
	s.rows -= s.rows % harness.Shards
	s.c = harness.New(t, harness.Options{
		Servers: roomyServers(t), Limit: 5*time.Minute + time.Duration(s.rows)*500*time.Microsecond, Tables: bulkTable, Copy: harness.CopyToEmpty,
		Before: func(c *harness.Cluster) {
			s.c = c
			s.fill()
			s.b = c.OpenBankUnwatched(bank.Config{PerSecond: 200})
			s.b.Committed(200)
			s.measured("COPY TO | COPY FROM", s.pipe)
			s.measured("native subscriptions", s.native)
		},
	})
	node, worker := s.c.Node("node"), s.c.Apply()
	began := time.Now()
	s.measured("shardcdc, in the stream", func() { s.c.CopyEnds() })
	s.c.Consistent()
	s.tell("shardcdc, on the target", time.Since(began))
	for _, p := range []*program.Program{node, worker} {
		u, err := harness.UsageOf(p.PID())
		must(t, err)
		t.Logf("%s: %s resident at most", p.Name(), humanize.IBytes(uint64(u.ResidentMost)))
		if u.ResidentMost > residentMost {
			t.Errorf("%s had more than %s in memory", p.Name(), humanize.IBytes(residentMost))
		}
	}
	s.b.StartWatch()
	s.b.Progressed()
	s.c.FinishCopied(s.b)
	s.same()
}

// fill makes the rows, on all shards at the same time.
func (s *speed) fill() {
	s.t.Helper()
	s.each(func(ctx context.Context, i int, conn *pgx.Conn) error {
		last := s.rows / harness.Shards
		if _, err := conn.Exec(ctx, fmt.Sprintf(hugeSQL, harness.Shards, i, 1, last)); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "VACUUM (ANALYZE) bulk")
		return err
	})
	for _, dsn := range s.c.ShardDSNs() {
		n, err := strconv.ParseInt(s.c.Query(dsn, "SELECT pg_table_size('bulk')::text"), 10, 64)
		must(s.t, err)
		s.bytes += n
	}
}

// each does something on every shard, at the same time.
func (s *speed) each(do func(ctx context.Context, shard int, conn *pgx.Conn) error) {
	s.t.Helper()
	group, ctx := errgroup.WithContext(s.c.Ctx)
	for i, dsn := range s.c.ShardDSNs() {
		group.Go(func() error {
			conn, err := pgx.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer conn.Close(context.Background())
			if err := do(ctx, i, conn); err != nil {
				return fmt.Errorf("shard %d: %w", i, err)
			}
			return nil
		})
	}
	must(s.t, group.Wait())
}

// measured tells how long something took.
func (s *speed) measured(what string, do func()) {
	s.t.Helper()
	began := time.Now()
	do()
	s.tell(what, time.Since(began))
}

func (s *speed) tell(what string, took time.Duration) {
	s.t.Helper()
	s.t.Logf("%s: %d rows, %s of tables, in %s: %.0f rows/s, %.1f MB/s", what, s.rows, humanize.Bytes(uint64(s.bytes)), took.Round(10*time.Millisecond),
		float64(s.rows)/took.Seconds(), float64(s.bytes)/1e6/took.Seconds())
}

// pipe copies with nothing between a shard and the target but this process, all shards at the same time.
func (s *speed) pipe() {
	s.t.Helper()
	execute(s.t, s.c, s.c.TargetDSN(), "CREATE TABLE piped (LIKE bulk INCLUDING ALL)")
	s.each(func(ctx context.Context, _ int, conn *pgx.Conn) error {
		to, err := pgconn.Connect(ctx, s.c.TargetDSN())
		if err != nil {
			return err
		}
		defer to.Close(context.Background())
		r, w := io.Pipe()
		var both errgroup.Group
		both.Go(func() error {
			_, err := conn.PgConn().CopyTo(ctx, w, "COPY bulk TO STDOUT")
			return errors.Join(err, w.CloseWithError(err))
		})
		both.Go(func() error {
			_, err := to.CopyFrom(ctx, r, "COPY piped FROM STDIN")
			return errors.Join(err, r.CloseWithError(err))
		})
		return both.Wait()
	})
	execute(s.t, s.c, s.c.TargetDSN(), "DROP TABLE piped")
}

// native lets PostgreSQL's own subscriptions copy, one per shard, into another database of the target.
func (s *speed) native() {
	s.t.Helper()
	const database = "native"
	execute(s.t, s.c, s.c.TargetDSN(), "CREATE DATABASE "+database)
	target := s.c.Target.DSNFor(database)
	execute(s.t, s.c, target, bulkTable)
	for i, dsn := range s.c.ShardDSNs() {
		execute(s.t, s.c, dsn, "CREATE PUBLICATION native FOR TABLE bulk")
		execute(s.t, s.c, target, fmt.Sprintf("CREATE SUBSCRIPTION native%d CONNECTION '%s' PUBLICATION native", i, dsn))
	}
	harness.Until(s.c.Ctx, s.t, "the native subscriptions are in sync", func() (bool, string) {
		n := s.c.Query(target, "SELECT count(*)::text FROM pg_subscription_rel WHERE srsubstate = 'r'")
		return n == strconv.Itoa(harness.Shards), n + " are"
	})
	for i, dsn := range s.c.ShardDSNs() {
		execute(s.t, s.c, target, fmt.Sprintf("DROP SUBSCRIPTION native%d", i))
		execute(s.t, s.c, dsn, "DROP PUBLICATION native")
	}
	execute(s.t, s.c, s.c.TargetDSN(), "DROP DATABASE "+database)
}

// same compares the rows by sums of hashes.
func (s *speed) same() {
	s.t.Helper()
	const sum = "SELECT format('%s %s', count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)) FROM bulk AS t WHERE $1 < 0 OR id % 3 = $1"
	for i, dsn := range s.c.ShardDSNs() {
		if source, target := s.c.Query(dsn, sum, -1), s.c.Query(s.c.TargetDSN(), sum, i); source != target {
			s.t.Errorf("shard %d has rows and sum %s, the target %s", i, source, target)
		}
	}
}
