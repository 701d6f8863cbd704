package dumper_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"shardcdc/dumper"
	"shardcdc/dumper/pgoutput"
	"shardcdc/pipeline"
	"shardcdc/pipeline/spill"
)

// newStreamedShard is a shard whose server streams every transaction of more than 64 kB, with a second slot.
func newStreamedShard(t *testing.T) (s *shard, whole string) {
	t.Helper()
	s = newShard(t)
	name := s.conn.Config().Database
	exec(t, s.conn, "ALTER DATABASE "+name+" SET logical_decoding_work_mem = '64kB'")
	whole = "whole_" + name
	exec(t, s.conn, "SELECT pg_create_logical_replication_slot('"+whole+"', 'pgoutput', false, true)")
	t.Cleanup(func() {
		c := connect(t, server.DSN())
		await(t, "the second slot is dropped", func() bool {
			_, err := c.Exec(context.Background(), "SELECT pg_drop_replication_slot('"+whole+"')")
			return err == nil
		})
	})
	return s, whole
}

// readWhole reads a slot without streaming until the given record has come, and returns what each fragment is.
func readWhole(t *testing.T, s *shard, slot string) []string {
	t.Helper()
	conf, err := pgconn.ParseConfig(s.src.DSN)
	if err != nil {
		t.Fatal(err)
	}
	conf.RuntimeParams["replication"] = "database"
	conf.RuntimeParams["logical_decoding_work_mem"] = "1GB"
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION SLOT " + slot + " LOGICAL 0/0 (proto_version '3', publication_names 'p', messages 'true', two_phase 'on')"})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	a := pgoutput.New(4, pgoutput.Limits{})
	var out []string
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			t.Fatalf("after %d records: %v", len(out), err)
		}
		switch msg := msg.(type) {
		case *pgproto3.ErrorResponse:
			t.Fatal(pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.CopyData:
			if msg.Data[0] != 'w' {
				continue
			}
			rec, ok, err := a.Feed(pipeline.LSN(binary.BigEndian.Uint64(msg.Data[1:])), msg.Data[25:])
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				continue
			}
			out = append(out, whatItIs(t, rec)...)
			if isLast(rec) {
				return out
			}
		}
	}
}

func isLast(rec pipeline.Record) bool {
	return rec.Fragment != nil && rec.Fragment.Changes == 1 && strings.Contains(string(rec.Fragment.Body), "last")
}

// whatItIs is all of a record, the bytes included.
func whatItIs(t *testing.T, rec pipeline.Record) []string {
	t.Helper()
	out := []string{fmt.Sprintf("%s %q xid %d %s..%s at %s", rec.Kind, rec.GID, rec.XID, rec.Start, rec.End, rec.Time)}
	f := rec.Fragment
	if f == nil {
		return out
	}
	switch {
	case f.Changes == 0 && rec.Kind == pipeline.Commit:
		return nil // PostgreSQL leaves it out when it does not stream
	case f.GID == "gone":
		return out // the content is left out once it is rolled back; how much of it was sent before is chance
	}
	r, err := f.OpenBody()
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	out = append(out, fmt.Sprintf("  %d changes in %d bytes, origin %q, decides %q", f.Changes, len(body), f.Origin, f.Decides))
	for _, u := range f.Relations {
		out = append(out, fmt.Sprintf("  from %d on %s %x", u.Offset, u.Relation, u.Relation.Raw))
	}
	n := 0
	err = f.Walk(func(c *pipeline.Change) error { n++; return nil })
	if err != nil || n != f.Changes {
		t.Errorf("%s: %d changes of %d: %v", f, n, f.Changes, err)
	}
	return append(out, fmt.Sprintf("  %x", body))
}

// finish makes a last record, waits for it, and compares with what comes without streaming.
func (s *shard) finish(t *testing.T, got *sink, whole string) {
	t.Helper()
	exec(t, s.conn, "INSERT INTO t VALUES (-1, 'last')")
	want := readWhole(t, s, whole)
	got.wait(t, "the last record", func() bool {
		n := len(got.records)
		return n > 0 && isLast(got.records[n-1])
	})
	got.mu.Lock()
	defer got.mu.Unlock()
	var lines []string
	for _, rec := range got.records {
		lines = append(lines, whatItIs(t, rec)...)
	}
	short := cmp.Transformer("short", func(s string) string {
		if len(s) > 200 {
			return fmt.Sprintf("%s... %d", s[:200], len(s))
		}
		return s
	})
	if !slices.Equal(want, lines) {
		t.Errorf("streamed and in one piece differ: %s", cmp.Diff(want, lines, short))
	}
}

// spillTo makes options that keep little in memory, and try again soon.
func spillTo(t *testing.T, after int) (dumper.Options, *spill.Folder) {
	t.Helper()
	folder, err := spill.Open(t.TempDir(), "a", 10<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	})
	return spilling(after, func(context.Context) (pgoutput.Spill, error) { return folder.Create(nil) }), folder
}

func spilling(after int, spill func(context.Context) (pgoutput.Spill, error)) dumper.Options {
	return dumper.Options{Limits: pgoutput.Limits{SpillAfter: after}, Spill: spill, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond}
}

// streams is the number of blocks that the server has streamed.
func streams(t *testing.T, s *shard) (n int) {
	row(t, s.conn, "SELECT coalesce(sum(stream_count), 0) FROM pg_stat_replication_slots WHERE slot_name = '"+s.src.Slot+"'", &n)
	return n
}

const many = "INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(%d, %d) AS n"

func rows(from, to int) string { return fmt.Sprintf(many, from, to) }

// workloads are transactions that the server streams.
var workloads = []struct {
	name       string
	statements []string
}{
	{"plain", []string{"BEGIN; " + rows(1, 2000) + "; COMMIT"}},
	{"rolled back", []string{"BEGIN; " + rows(1, 2000) + "; ROLLBACK"}},
	{"savepoints", []string{
		"BEGIN; " + rows(1, 500) + "; SAVEPOINT a; " + rows(501, 1000) + "; SAVEPOINT b; " + rows(1001, 1500) + "; RELEASE b; " + rows(1501, 1800),
		"ROLLBACK TO a; " + rows(2000, 2100) + "; SAVEPOINT c; " + rows(2101, 2600), "SAVEPOINT d; " + rows(2601, 3000) + "; ROLLBACK TO d; " + rows(3001, 3500),
		"RELEASE c; " + rows(4000, 4400) + "; COMMIT",
	}},
	{"large subtransaction", []string{
		"BEGIN; " + rows(1, 500) + "; SAVEPOINT a; " + rows(501, 20000) + "; ROLLBACK TO a; " + rows(30000, 31000) + "; COMMIT",
	}},
	{"all rolled back to a savepoint", []string{
		"BEGIN; SAVEPOINT a; " + rows(1, 2000) + "; ROLLBACK TO a; COMMIT",
		"BEGIN; SAVEPOINT a; " + rows(1, 2000) + "; ROLLBACK TO a; PREPARE TRANSACTION 'empty'", "COMMIT PREPARED 'empty'",
	}},
	{"exceptions", []string{`DO $$ BEGIN
  FOR i IN 1..300 LOOP
    BEGIN
      INSERT INTO t SELECT i * 100 + n, repeat('y', 300) FROM generate_series(1, 10) AS n;
      IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF;
      BEGIN
        UPDATE t SET v = repeat('z', 200) WHERE id = i * 100 + 1;
        IF i % 5 = 0 THEN RAISE EXCEPTION 'no'; END IF;
      EXCEPTION WHEN OTHERS THEN NULL; END;
    EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP; END $$`}},
	{"two-phase", []string{
		"BEGIN; " + rows(1, 1000) + "; SAVEPOINT a; " + rows(1001, 2000) + "; ROLLBACK TO a; PREPARE TRANSACTION 'kept'", "COMMIT PREPARED 'kept'",
		"BEGIN; " + rows(3001, 4000) + "; PREPARE TRANSACTION 'gone'", "INSERT INTO t VALUES (5000)", "ROLLBACK PREPARED 'gone'",
	}},
	{"columns added", []string{
		"BEGIN; " + rows(1, 500) + "; ALTER TABLE t ADD w int DEFAULT 7; " + rows(501, 1000) + "; SAVEPOINT a; ALTER TABLE t ADD x int DEFAULT 8; " + rows(1001, 1500),
		"ROLLBACK TO a; " + rows(2001, 2500) + "; COMMIT",
		"INSERT INTO t VALUES (4000)",
	}},
	{"types", []string{
		"BEGIN; " + rows(1, 500) + "; CREATE TYPE mood AS ENUM ('ok'); ALTER TABLE t ADD m mood DEFAULT 'ok'; " + rows(2501, 3000) + "; COMMIT",
		"INSERT INTO t VALUES (4000)",
	}},
	{"truncated", []string{
		rows(1, 1000),
		"BEGIN; " + rows(5001, 5500) + "; TRUNCATE t; " + rows(5001, 5500) + "; COMMIT",
		"INSERT INTO t VALUES (4000)",
	}},
	{"truncated before", []string{
		rows(1, 1000), "TRUNCATE t", rows(1, 1000),
	}},
	{"truncated in vain", []string{
		"BEGIN; " + rows(1, 500) + "; SAVEPOINT a; TRUNCATE t; " + rows(1, 500) + "; ROLLBACK TO a; " + rows(5001, 5500) + "; COMMIT",
		"INSERT INTO t VALUES (4000)",
	}},
	{"messages", []string{
		"BEGIN; " + rows(5001, 5500) + "; SELECT pg_logical_emit_message(true, 'app', 'x'), pg_logical_emit_message(true, 'cdc.x', 'x'), pg_logical_emit_message(false, 'app', 'loose'); " + rows(6001, 6500) + "; COMMIT",
	}},
	{"definitions", []string{
		"BEGIN; " + rows(1, 500) + "; ALTER TABLE t ADD w int DEFAULT 7; " + rows(501, 1000) + "; CREATE TYPE mood AS ENUM ('ok'); ALTER TABLE t ADD m mood DEFAULT 'ok'; " + rows(2501, 3000) + "; COMMIT",
		"INSERT INTO t VALUES (4000)", "TRUNCATE t", rows(1, 1000),
		"BEGIN; " + rows(5001, 5500) + "; TRUNCATE t; SELECT pg_logical_emit_message(true, 'app', 'x'), pg_logical_emit_message(true, 'cdc.x', 'x'), pg_logical_emit_message(false, 'app', 'loose'); " + rows(5001, 5500) + "; COMMIT",
	}},
	{"large values", []string{
		"ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
		"BEGIN; INSERT INTO t VALUES (1, repeat('a', 300000)), (2, repeat('b', 200000)); SAVEPOINT a; INSERT INTO t VALUES (3, repeat('c', 300000)); UPDATE t SET id = id + 10; ROLLBACK TO a",
		"INSERT INTO t VALUES (4, repeat('d', 300000)) ON CONFLICT DO NOTHING; UPDATE t SET id = id + 20 WHERE id < 3; COMMIT",
	}},
	{"huge value rolled back", []string{
		"ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
		"BEGIN; INSERT INTO t VALUES (1, 'kept'); SAVEPOINT a; INSERT INTO t VALUES (2, repeat('b', 20000000)); INSERT INTO t VALUES (3, 'gone'); ROLLBACK TO a; INSERT INTO t VALUES (4, 'kept'); COMMIT",
	}},
	{"huge value alone rolled back", []string{
		"ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
		"BEGIN; INSERT INTO t VALUES (1, 'kept'); SAVEPOINT a; INSERT INTO t VALUES (2, repeat('b', 20000000)); ROLLBACK TO a; INSERT INTO t VALUES (4, 'kept'); " + rows(10, 1000) + "; COMMIT",
	}},
	{"origins", []string{
		"SELECT pg_replication_origin_create('there'); SELECT pg_replication_origin_session_setup('there')",
		"BEGIN; SELECT pg_replication_origin_xact_setup('0/42', '2024-01-02 03:04:05+00'); " + rows(1, 1000) + "; COMMIT",
		"SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('there')",
	}},
}

// TestStreamedIsTheSame: whatever a transaction does, its fragment is the same, byte for byte, as when it comes in one
// piece, in memory and spilled.
func TestStreamedIsTheSame(t *testing.T) {
	for _, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			s, whole := newStreamedShard(t)
			opts, folder := spillTo(t, 50_000)
			got := newSink()
			d := start(t, s.src, got, opts)
			await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
			exec(t, s.conn, w.statements...)
			s.finish(t, got, whole)
			if server.Version() < 18 || !strings.Contains(w.name, "rolled back") { // 18 looks first whether it was
				await(t, "the server counted its blocks", func() bool { return streams(t, s) > 0 })
			}
			await(t, "nothing is half received", func() bool { return d.Status().OpenTransactions == 0 && d.Status().OpenBytes == 0 })
			d.stop()
			release(got)
			if folder.Used() != 0 {
				t.Errorf("%d bytes spilled are left", folder.Used())
			}
		})
	}
}

func release(s *sink) {
	for _, rec := range s.records {
		if rec.Fragment != nil && rec.Fragment.Content != nil {
			rec.Fragment.Content.Release()
		}
	}
}

// TestReconnectedInSubtransaction: the server has the beginning of a subtransaction on its disk when it streams the rest,
// and does not announce that it was rolled back, unless it streamed more of it afterwards.
func TestReconnectedInSubtransaction(t *testing.T) {
	unannounced := 0
	for _, more := range []int{60, 250} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			s, whole := newStreamedShard(t)
			opts, folder := spillTo(t, 50_000)
			got := newSink()
			d := start(t, s.src, got, opts)
			writer := connect(t, s.src.DSN)
			exec(t, writer, "BEGIN; "+rows(1, 100)+"; SAVEPOINT a; "+rows(101, 10000))
			await(t, "a large transaction is half received", func() bool { return d.Status().OpenBytes > 3_000_000 })
			exec(t, s.conn, "INSERT INTO t VALUES (20000)")
			got.wait(t, "a small one", func() bool { return len(got.records) == 1 })
			exec(t, s.conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'cdc "+s.src.Slot+"'")
			exec(t, s.conn, "INSERT INTO t VALUES (20001)")
			got.wait(t, "another small one", func() bool { return len(got.records) == 2 })
			exec(t, writer, rows(30001, 30000+more))
			exec(t, s.conn, "INSERT INTO t VALUES (20002)")
			got.wait(t, "another small one", func() bool { return len(got.records) == 3 })
			exec(t, writer, "ROLLBACK TO a; "+rows(40001, 40010)+"; COMMIT")
			s.finish(t, got, whole)
			if strings.Contains(d.Status().Error, "did not announce") {
				unannounced++
			}
			d.stop()
			release(got)
			if folder.Used() != 0 {
				t.Errorf("%d bytes spilled are left", folder.Used())
			}
		})
	}
	t.Logf("%d rollbacks were not announced", unannounced)
}

// TestUndecodable: the server cannot stream these transactions, but it can send them in one piece.
func TestUndecodable(t *testing.T) {
	s, whole := newStreamedShard(t)
	opts, _ := spillTo(t, 50_000)
	got := newSink()
	d := start(t, s.src, got, opts)
	await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
	exec(t, s.conn, "BEGIN; "+rows(1, 500)+"; SAVEPOINT a; ALTER TABLE t ADD x int DEFAULT 8; "+rows(1001, 1500),
		"ROLLBACK TO a; "+rows(2001, 2500)+"; ALTER TABLE t ADD m int; "+rows(2501, 3000)+"; COMMIT", "INSERT INTO t VALUES (4000)")
	s.finish(t, got, whole)
	t.Logf("reconnects: %d, %s", d.Status().Reconnects, d.Status().Error)
	d.stop()
	release(got)
}

// TestInterleaved: large transactions at the same time, small ones between their blocks; connections and backends end in
// the middle.
func TestInterleaved(t *testing.T) {
	s, whole := newStreamedShard(t)
	opts, folder := spillTo(t, 100_000)
	got := newSink()
	d := start(t, s.src, got, opts)
	await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
	var large [4]*pgx.Conn
	for i := range large {
		large[i] = connect(t, s.src.DSN)
		exec(t, large[i], "BEGIN")
	}
	for round := range 12 {
		for i, conn := range large {
			if i == 3 && round > 6 {
				continue
			}
			from := 100_000*(i+1) + 1000*round
			exec(t, conn, "SAVEPOINT a; "+rows(from, from+300))
			if round%3 == 1 {
				exec(t, conn, "ROLLBACK TO a")
			}
		}
		exec(t, s.conn, fmt.Sprintf("INSERT INTO t VALUES (%d)", round), fmt.Sprintf("BEGIN; INSERT INTO t VALUES (%d); PREPARE TRANSACTION 'g%d'", 1000+round, round), fmt.Sprintf("COMMIT PREPARED 'g%d'", round))
		await(t, "they are half received", func() bool { return d.Status().OpenTransactions >= 3 })
		switch round {
		case 4:
			exec(t, s.conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'cdc "+s.src.Slot+"'")
		case 6:
			exec(t, s.conn, fmt.Sprintf("SELECT pg_terminate_backend(%d)", large[3].PgConn().PID()))
			await(t, "its backend has ended", func() bool {
				var there bool
				row(t, s.conn, fmt.Sprintf("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %d)", large[3].PgConn().PID()), &there)
				return !there
			})
		}
	}
	exec(t, large[1], "COMMIT")
	exec(t, large[0], "PREPARE TRANSACTION 'large'")
	exec(t, large[2], "ROLLBACK")
	exec(t, s.conn, "COMMIT PREPARED 'large'")
	s.finish(t, got, whole)
	await(t, "nothing is half received", func() bool { return d.Status().OpenTransactions == 0 && d.Status().OpenSpilled == 0 })
	if d.Status().Reconnects == 0 {
		t.Error("the connection did not break: the test shows less")
	}
	d.stop()
	release(got)
	if folder.Used() != 0 {
		t.Errorf("%d bytes spilled are left", folder.Used())
	}
}

// TestSpillWithoutRoom: while a write to the spill waits, the server does not give the session up.
func TestSpillWithoutRoom(t *testing.T) {
	s, whole := newStreamedShard(t)
	exec(t, s.conn, "ALTER DATABASE "+s.conn.Config().Database+" SET wal_sender_timeout = '1s'")
	folder, err := spill.Open(t.TempDir(), "a", 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	other, err := folder.Create(nil) // of another shard, say
	if err == nil {
		_, err = other.Write(make([]byte, 900_000))
	}
	if err = errors.Join(err, other.Seal()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	full := func(released <-chan struct{}) error {
		select {
		case <-released:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	got := newSink()
	opts := spilling(1000, func(context.Context) (pgoutput.Spill, error) { return folder.Create(full) })
	opts.SilenceMax = time.Second
	d := start(t, s.src, got, opts)
	await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
	exec(t, s.conn, "BEGIN; "+rows(1, 2000)+"; COMMIT")
	replied := func() (at time.Time) {
		err := s.conn.QueryRow(context.Background(), "SELECT reply_time FROM pg_stat_replication WHERE application_name = 'cdc "+s.src.Slot+"'").Scan(&at)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			t.Fatal(err)
		}
		return at
	}
	await(t, "it waits for room", func() bool { return d.Status().State == dumper.Waiting })
	first := replied()
	await(t, "three timeouts have passed", func() bool { return replied().Sub(first) > 3*time.Second })
	other.Release()
	s.finish(t, got, whole)
	if n := d.Status().Reconnects; n != 0 {
		t.Errorf("%d reconnects: %s", n, d.Status().Error)
	}
	cancel()
	d.stop()
	release(got)
}

// TestSpillFullIsFatal: a folder without room, and without hope of it, ends Run with the shard's name and the mend.
func TestSpillFullIsFatal(t *testing.T) {
	s, _ := newStreamedShard(t)
	folder, err := spill.Open(t.TempDir(), "a", 100_000)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	d := start(t, s.src, newSink(), spilling(1000, func(context.Context) (pgoutput.Spill, error) { return folder.Create(nil) }))
	exec(t, s.conn, "BEGIN; "+rows(1, 2000)+"; COMMIT")
	if err := d.failed(); err == nil || !strings.HasPrefix(err.Error(), "shard a: a large transaction has no place: ") || !strings.Contains(err.Error(), "Try: cdcctl alter-subscription NAME --spill-bytes-max … above") {
		t.Errorf("error %v", err)
	}
	if folder.Used() != 0 {
		t.Errorf("%d bytes spilled are left", folder.Used())
	}
}

// withChanges counts the transactions; a nudge is one without changes.
func (s *sink) withChanges() (n int) {
	for _, rec := range s.records {
		if rec.Fragment.Changes > 0 {
			n++
		}
	}
	return n
}

// TestHuge: 300 MB in one transaction take little memory, and hold up neither small transactions beside it nor probes.
func TestHuge(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 300 MB")
	}
	s := newShard(t)
	opts, folder := spillTo(t, 1<<20)
	got := newSink()
	opts.Nudge = true
	d := start(t, s.src, got, opts)
	await(t, "it streams", func() bool { return d.Status().State == dumper.Streaming })
	writer := connect(t, s.src.DSN)
	done := make(chan error, 1)
	go func() {
		_, err := writer.Exec(context.Background(), "BEGIN; INSERT INTO t SELECT n, repeat('x', 1500) FROM generate_series(1, 200000) AS n", pgx.QueryExecModeSimpleProtocol)
		done <- err
	}()
	var heap, slowest uint64
	var worst time.Duration
	probes, ended := uint64(0), false
	for small := 1; !ended || d.Status().OpenBytes < 200<<20; small++ {
		select {
		case err := <-done:
			if ended = true; err != nil {
				t.Fatal(err)
			}
		default:
		}
		began := time.Now()
		exec(t, s.conn, fmt.Sprintf("INSERT INTO t VALUES (%d)", -small-1))
		d.Probe(probes)
		probes++
		got.wait(t, "the small transaction and its probe", func() bool {
			return got.withChanges() == small && len(got.answers) == small && got.received >= got.answers[small-1].flushed
		})
		if took := time.Since(began); took > worst {
			worst, slowest = took, probes
		}
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		heap = max(heap, mem.HeapInuse)
	}
	t.Logf("%d small transactions, the slowest (%d) took %s; %d MB of heap; %+v", probes, slowest, worst, heap>>20, d.Status())
	if worst > 10*time.Second || heap > 64<<20 {
		t.Errorf("a small transaction took %s, the heap was %d MB", worst, heap>>20)
	}
	exec(t, writer, "COMMIT")
	got.wait(t, "the huge one", func() bool { return got.withChanges() == int(probes)+1 })
	d.stop() // it may still offer positions
	f := got.records[len(got.records)-1].Fragment
	if f.Changes != 200_000 || f.Content == nil || folder.Used() != f.Size() {
		t.Errorf("%d changes in %d bytes, %d used", f.Changes, f.Size(), folder.Used())
	}
	release(got)
}

// Run ends although a body waits for room.
func TestEndsWhileSpillWaits(t *testing.T) {
	s, _ := newStreamedShard(t)
	waits := make(chan struct{}, 1)
	d := start(t, s.src, newSink(), spilling(1000, func(ctx context.Context) (pgoutput.Spill, error) {
		waits <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	exec(t, s.conn, "BEGIN; "+rows(1, 2000)+"; COMMIT")
	<-waits
	d.stop()
}
