package dumper_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
	"shardcdc/pipeline"
	"shardcdc/pipeline/throwaway"
)

// TestEveryKindInOrder: whatever the size of the buffer, the same records.
func TestEveryKindInOrder(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "INSERT INTO t VALUES (1, 'x')",
		"BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'g1'",
		"INSERT INTO t VALUES (repeat('3', 1)::bigint, repeat('long', 100000))",
		"BEGIN; INSERT INTO t VALUES (4); SELECT pg_logical_emit_message(true, 'app', 'x'); PREPARE TRANSACTION 'g2'",
		"SELECT pg_logical_emit_message(false, 'app', 'loose')",
		"COMMIT PREPARED 'g1'", "UPDATE t SET v = 'y' WHERE id = 1", "ROLLBACK PREPARED 'g2'",
		"BEGIN; INSERT INTO t VALUES (5); ROLLBACK", "DELETE FROM t WHERE id = 1", "TRUNCATE t")
	const want = "commit insert(1) prepare:g1 insert(2) commit insert(3) prepare:g2 insert(4) message(app) " +
		"commit-prepared:g1 commit update(1) rollback-prepared:g2 commit delete commit truncate"
	for _, bytes := range []int{7, 100, 0} {
		t.Run(fmt.Sprint(bytes), func(t *testing.T) {
			got := newSink()
			d := start(t, s.src, got, dumper.Options{ReadBytes: bytes})
			got.wait(t, "the last record", func() bool {
				n := len(got.records)
				return n > 0 && n >= 9
			})
			d.stop()
			if got.story() != want {
				t.Errorf("got  %s\nwant %s", got.story(), want)
			}
		})
	}
}

// TestBrokenConnections: connections are ended again and again while transactions of every kind are made. Nothing may
// be lost or come twice, and the slot may be confirmed to any position offered.
func TestBrokenConnections(t *testing.T) {
	s := newShard(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	got := newSink()
	d := start(t, s.src, got, dumper.Options{BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond})
	killer := connect(t, server.DSN())
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint(i))
		write(t, s.conn, random, i)
		switch random.IntN(15) {
		case 0:
			exec(t, killer, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'cdc "+s.src.Slot+"'")
		case 1:
			exec(t, killer, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc "+s.src.Slot+"'")
		case 2:
			d.Confirm(d.Status().Received)
		}
	}
	got.wait(t, "all", func() bool {
		n := len(got.records)
		return n > 0 && got.records[n-1].XID != 0 && inserts(got.records) >= len(want)
	})
	d.stop()
	if ids := got.ids(); !slices.Equal(ids, want) {
		t.Errorf("got %s", ids)
	}
	if d.Status().Reconnects == 0 {
		t.Error("no connection broke: the test shows nothing")
	}
}

// write makes transaction i, one-phase, two-phase, or large.
func write(t *testing.T, conn *pgx.Conn, random *rand.Rand, i int) {
	t.Helper()
	insert := fmt.Sprintf("INSERT INTO t VALUES (%d)", i)
	switch random.IntN(4) {
	case 0:
		exec(t, conn, fmt.Sprintf("BEGIN; %s; PREPARE TRANSACTION 'w%d'", insert, i), fmt.Sprintf("COMMIT PREPARED 'w%d'", i))
	case 1:
		exec(t, conn, "BEGIN; "+insert+"; UPDATE t SET v = repeat('x', 200) WHERE id > "+fmt.Sprint(i-20)+"; COMMIT")
	default:
		exec(t, conn, insert)
	}
}

func inserts(records []pipeline.Record) (n int) {
	for _, rec := range records {
		if rec.Fragment != nil {
			_ = rec.Fragment.Walk(func(c *pipeline.Change) error {
				if c.Op == pipeline.Insert {
					n++
				}
				return nil
			})
		}
	}
	return n
}

// TestServerCrash: after an immediate shutdown the server may have forgotten what was confirmed; we have not.
func TestServerCrash(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond})
	ctx := context.Background()
	for round := range 3 {
		conn := connect(t, s.src.DSN)
		for i := range 10 {
			exec(t, conn, fmt.Sprintf("INSERT INTO t VALUES (%d)", round*10+i))
		}
		if round < 2 {
			d.Confirm(d.Status().Received)
			mode := []throwaway.Mode{throwaway.Immediate, throwaway.Kill}[round]
			if err := server.Stop(ctx, mode); err != nil {
				t.Fatal(err)
			}
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	got.wait(t, "all", func() bool { return inserts(got.records) >= 30 })
	d.Probe(1)
	got.wait(t, "the probe", func() bool { return len(got.answers) == 1 })
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprint(i))
	}
	if ids := got.ids(); !slices.Equal(ids, want) {
		t.Errorf("got %s", ids)
	}
}

// TestConfirm: what is confirmed reaches the slot, and the next Dumper goes on from there.
func TestConfirm(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{ConfirmDelay: time.Millisecond})
	exec(t, s.conn, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
	got.wait(t, "both", func() bool { return len(got.records) == 2 })
	end := got.records[0].End
	d.Confirm(end)
	d.Confirm(end - 1) // does not go back
	await(t, "the slot is confirmed", func() bool { return confirmed(t, s) == end })
	if d.Status().Confirmed != end {
		t.Errorf("confirmed %s", d.Status().Confirmed)
	}
	d.stop()
	s.src.Start = end
	got = newSink()
	start(t, s.src, got, dumper.Options{})
	got.wait(t, "the second", func() bool { return len(got.records) == 1 })
	if got.story() != "commit insert(2)" {
		t.Errorf("got %s", got.story())
	}
}

func confirmed(t *testing.T, s *shard) pipeline.LSN {
	var text string
	row(t, s.conn, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '"+s.src.Slot+"'", &text)
	return lsn(t, text)
}

// TestIdleShardAdvances: commits elsewhere in the server move the received position without any record.
func TestIdleShardAdvances(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "CREATE TABLE unpublished (id int)")
	got := newSink()
	d := start(t, s.src, got, dumper.Options{})
	exec(t, s.conn, "INSERT INTO unpublished VALUES (1)")
	var text string
	row(t, s.conn, "SELECT pg_current_wal_flush_lsn()::text", &text)
	flushed := lsn(t, text)
	got.wait(t, "the position", func() bool { return got.received >= flushed })
	await(t, "the status tells it", func() bool { return d.Status().Received >= flushed })
	if len(got.records) != 0 {
		t.Errorf("got %s", got.story())
	}
}

// TestBlockedOfferKeepsTheSession: the server would give up a session that is silent for a second.
func TestBlockedOfferKeepsTheSession(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET wal_sender_timeout = ''1s'''; END $$")
	got := newSink()
	got.room = make(chan struct{})
	d := start(t, s.src, got, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	replied := func() (at time.Time) {
		err := s.conn.QueryRow(context.Background(), "SELECT reply_time FROM pg_stat_replication WHERE application_name = 'cdc "+s.src.Slot+"'").Scan(&at)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			t.Fatal(err)
		}
		return at
	}
	await(t, "the session is blocked", func() bool { return d.Status().State == dumper.Waiting })
	first := replied()
	await(t, "three timeouts have passed", func() bool { return replied().Sub(first) > 3*time.Second })
	close(got.room)
	got.wait(t, "the record", func() bool { return len(got.records) == 1 })
	if n := d.Status().Reconnects; n != 0 {
		t.Errorf("%d reconnects: %s", n, d.Status().Error)
	}
}

func TestSinkErrorIsFatal(t *testing.T) {
	s := newShard(t)
	got := newSink()
	got.refuse = errors.New("no place for shard a")
	d := start(t, s.src, got, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	want := "shard a: the records were not taken: no place for shard a"
	if err := d.failed(); err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if d.Status().State != dumper.Failed || d.Status().Error != want {
		t.Errorf("status %+v", d.Status())
	}
}

func TestConfirmBeyondWhatWasOfferedIsFatal(t *testing.T) {
	s := newShard(t)
	d := start(t, s.src, newSink(), dumper.Options{})
	d.Confirm(1 << 60)
	if err := d.failed(); err == nil || !strings.Contains(err.Error(), "a position was confirmed that was never offered") {
		t.Errorf("error %v", err)
	}
}

// TestPublicationDroppedLater: the server notices at the next change, we stop and say so. (PostgreSQL 18 only warns, and
// goes on without the change; whoever turned warnings off must not turn this one off.)
func TestPublicationDroppedLater(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "ALTER DATABASE "+s.conn.Config().Database+" SET client_min_messages = error")
	got := newSink()
	d := start(t, s.src, got, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	got.wait(t, "the first", func() bool { return len(got.records) == 1 })
	exec(t, s.conn, "DROP PUBLICATION p", "INSERT INTO t VALUES (2)")
	if err := d.failed(); err == nil || !strings.Contains(err.Error(), "a publication does not exist, or did not when the changes were made") {
		t.Errorf("error %v", err)
	}
	// Made again, it does not hide what was changed without it, however often we come back.
	exec(t, s.conn, "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (3)")
	s.src.Start = got.position()
	again := newSink()
	if err := start(t, s.src, again, dumper.Options{}).failed(); err == nil || !strings.Contains(err.Error(), "did not when the changes were made") || len(again.records) > 0 {
		t.Errorf("error %v, got %s", err, again.story())
	}
}

// TestRolledBackBeforeRead: what was prepared and rolled back before we came is a PREPARE and its end. Its content nobody
// needs; seen on 15 to 18, the server leaves it out when it meets the rollback while it decodes.
func TestRolledBackBeforeRead(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "ALTER DATABASE "+s.conn.Config().Database+" SET logical_decoding_work_mem = '64kB'",
		"BEGIN; INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 2000) AS n; PREPARE TRANSACTION 'large'", "ROLLBACK PREPARED 'large'",
		"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'small'", "ROLLBACK PREPARED 'small'",
		"BEGIN; INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 2000) AS n; ROLLBACK",
		"BEGIN; INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 2000) AS n; PREPARE TRANSACTION 'kept'", "COMMIT PREPARED 'kept'",
		"INSERT INTO t VALUES (3000)")
	got := newSink()
	start(t, s.src, got, dumper.Options{})
	got.wait(t, "all records", func() bool { return len(got.records) == 7 })
	var kinds []string
	for _, rec := range got.records {
		kinds = append(kinds, rec.Kind.String()+" "+rec.GID)
	}
	want := "prepare large, rollback prepared large, prepare small, rollback prepared small, prepare kept, commit prepared kept, commit "
	if story := strings.Join(kinds, ", "); story != want {
		t.Errorf("got %s, want %s", story, want)
	}
	if n := got.records[4].Fragment.Changes; n != 2000 {
		t.Errorf("%d changes were kept", n)
	}
}

// TestTransactionTimeout: a limit on the time of transactions does not hit a walsender that waits for us in the middle of one.
func TestTransactionTimeout(t *testing.T) {
	if server.Version() < 17 {
		t.Skip("transaction_timeout is new in PostgreSQL 17")
	}
	s := newShard(t)
	exec(t, s.conn, "ALTER DATABASE "+s.conn.Config().Database+" SET transaction_timeout = '300ms'")
	got := newSink()
	got.room = make(chan struct{})
	d := start(t, s.src, got, dumper.Options{})
	exec(t, s.conn, "ALTER TABLE t ALTER v SET STORAGE EXTERNAL", "INSERT INTO t VALUES (1)")
	await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
	exec(t, s.conn, "INSERT INTO t SELECT n, repeat('x', 1000000) FROM generate_series(2, 41) AS n") // more than sockets hold
	// The walsender cannot write, and stays so for longer than the limit.
	var since time.Time
	await(t, "the walsender waits in its transaction", func() bool {
		var stuck bool
		var now time.Time
		row(t, s.conn, "SELECT clock_timestamp(), EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND application_name = 'cdc "+s.src.Slot+"' AND wait_event IN ('WalSenderWriteData', 'ClientWrite'))", &now, &stuck)
		if !stuck || since.IsZero() {
			since = now
		}
		return now.Sub(since) > time.Second || d.Status().Reconnects > 0
	})
	close(got.room)
	got.wait(t, "both", func() bool { return len(got.records) >= 2 })
	if st := d.Status(); st.Reconnects != 0 {
		t.Errorf("%d reconnects: %s", st.Reconnects, st.Error)
	}
}

// TestFastShutdown: the server waits until what it sent is confirmed, and we confirm nothing. It must come down all the
// same, and the stream must go on afterwards.
func TestFastShutdown(t *testing.T) {
	s := newShard(t)
	got := newSink()
	start(t, s.src, got, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	got.wait(t, "the first", func() bool { return len(got.records) == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := server.Stop(ctx, throwaway.Fast); err != nil {
		t.Errorf("the server cannot shut down: %v", err)
		if err := server.Stop(context.Background(), throwaway.Immediate); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	exec(t, connect(t, s.src.DSN), "INSERT INTO t VALUES (2)")
	got.wait(t, "the second", func() bool { return len(got.records) == 2 })
	if got.story() != "commit insert(1) commit insert(2)" {
		t.Errorf("got %s", got.story())
	}
}

// TestTextFormsArePinned: settings of the database do not change what the values look like.
func TestTextFormsArePinned(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, `CREATE SCHEMA evil; CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '2001-01-01'::timestamptz $$`,
		"CREATE TABLE f (id text PRIMARY KEY, t timestamptz, d date, i interval, f float8, b bytea, m money)", "ALTER PUBLICATION p ADD TABLE f",
		`INSERT INTO f VALUES ('1', '2024-02-01 00:00:00+00', '2024-02-01', '1 month 2 days', 0.1::float8 + 0.2::float8, '\x00ff', 1.5)`,
		`DO $$ DECLARE s text; BEGIN
  FOREACH s IN ARRAY ARRAY['DateStyle = ''SQL, DMY''', 'TimeZone = ''America/New_York''', 'IntervalStyle = iso_8601', 'extra_float_digits = 0',
    'bytea_output = escape', 'search_path = evil, pg_catalog', 'statement_timeout = 1', 'standard_conforming_strings = off'] LOOP
    EXECUTE 'ALTER DATABASE ' || current_database() || ' SET ' || s;
  END LOOP; END $$`)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{})
	got.wait(t, "the row", func() bool { return len(got.records) == 1 })
	d.Probe(1)
	got.wait(t, "the probe", func() bool { return len(got.answers) == 1 })
	var values []string
	err := got.records[0].Fragment.Walk(func(c *pipeline.Change) error {
		for _, v := range c.New.Values(nil) {
			values = append(values, string(v.Data))
		}
		return nil
	})
	want := []string{"1", "2024-02-01 00:00:00+00", "2024-02-01", "1 mon 2 days", "0.30000000000000004", `\x00ff`, "$1.50"}
	if err != nil || !slices.Equal(values, want) {
		t.Errorf("%v\n got  %q\n want %q", err, values, want)
	}
	if clock := got.answers[0].clock.Time(); time.Since(clock).Abs() > time.Minute {
		t.Errorf("the probe asked a clock that says %s", clock)
	}
}
