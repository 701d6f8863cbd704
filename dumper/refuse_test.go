package dumper_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/dumper"
	"shardcdc/pipeline"
)

// TestRefused: what the slot cannot give is refused at once, and every error says what to do.
func TestRefused(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn,
		"SELECT pg_create_logical_replication_slot('plain', 'pgoutput')",
		"SELECT pg_create_logical_replication_slot('other', 'test_decoding')",
		"SELECT pg_create_physical_replication_slot('physical')")
	t.Cleanup(func() {
		exec(t, connect(t, s.src.DSN), "SELECT pg_drop_replication_slot(n) FROM unnest('{plain,other,physical}'::text[]) AS n")
	})
	recreate := "Try: cdcctl drop-subscription and create-subscription: the changes in between are gone from this slot, so the target has to be filled again"
	for _, test := range []struct {
		name   string
		change func(*dumper.Source)
		want   []string
	}{
		{"system", func(s *dumper.Source) { s.SystemID = "123" }, []string{s.src.SystemID, "the subscription was made for 123", "Try: correct the DSN"}},
		{"timeline", func(s *dumper.Source) { s.Timeline = 7 }, []string{"on timeline 1, the subscription on 7", "Try: cdcctl drop-subscription"}},
		{"no slot", func(s *dumper.Source) { s.Slot = "nope" }, []string{`shard a: slot "nope" does not exist. ` + recreate}},
		{"ahead", func(s *dumper.Source) { s.Start = 0x10 }, []string{"ahead of what was read (0/10)", recreate}},
		{"plain slot", func(s *dumper.Source) { s.Slot = "plain"; s.Start = 1 << 60 }, []string{`slot "plain" was made without two_phase`}},
		{"plugin", func(s *dumper.Source) { s.Slot = "other" }, []string{`is a logical slot of plugin "test_decoding"`}},
		{"physical", func(s *dumper.Source) { s.Slot = "physical" }, []string{`is a physical slot`}},
		{"database", func(s *dumper.Source) { s.DSN = server.DSN() }, []string{`belongs to database "d`, `the connection to "postgres"`}},
		{"no database", func(s *dumper.Source) { s.DSN = server.DSNFor("nope") }, []string{"the database does not exist"}},
		{"publication", func(s *dumper.Source) { s.Publications = []string{"p", "q"} }, []string{`publication "q" does not exist`, "Try: create it again"}},
		{"no publication", func(s *dumper.Source) { s.Publications = nil }, []string{"no publication is given"}},
		{"variable", func(s *dumper.Source) { s.DSN = "postgres://u:${CDC_TEST_UNSET}@h/d" }, []string{"${CDC_TEST_UNSET}, which is not set. Try: set"}},
		{"bad DSN", func(s *dumper.Source) { s.DSN = "postgres://u:hunter2@h:port/d" }, []string{"the DSN cannot be used"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := s.src
			test.change(&src)
			err := start(t, src, newSink(), dumper.Options{}).failed()
			var fatal *dumper.FatalError
			if !errors.As(err, &fatal) {
				t.Fatalf("error %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if strings.Contains(fmt.Sprintf("%+v %v", err, errors.Unwrap(err)), "hunter2") {
				t.Errorf("the error tells the password: %+v", err)
			}
		})
	}
}

func TestSlotInUse(t *testing.T) {
	s := newShard(t)
	first := newSink()
	start(t, s.src, first, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	first.wait(t, "the stream", func() bool { return len(first.records) > 0 })
	second := start(t, s.src, newSink(), dumper.Options{ActiveWait: 200 * time.Millisecond})
	err := second.failed()
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("slot %q is in use by pid ", s.src.Slot)) || !strings.Contains(err.Error(), "pg_terminate_backend(") {
		t.Errorf("error %v", err)
	}
}

// TestEvict: the walsender of a node that stands still is ended by the one that took over; nobody else's is.
func TestEvict(t *testing.T) {
	s := newShard(t)
	hold := func(application string) *pgconn.PgConn {
		config, err := pgconn.ParseConfig(s.src.DSN)
		if err != nil {
			t.Fatal(err)
		}
		config.RuntimeParams["replication"], config.RuntimeParams["application_name"] = "database", application
		frozen, err := pgconn.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { frozen.Conn().Close() })
		err = pglogrepl.StartReplication(t.Context(), frozen, s.src.Slot, 0, pglogrepl.StartReplicationOptions{
			PluginArgs: []string{"proto_version '3'", "publication_names '" + s.src.Publications[0] + "'", "messages 'true'", "two_phase 'on'"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return frozen
	}
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	foreign := hold("somebody else")
	err := start(t, s.src, newSink(), dumper.Options{EvictAfter: time.Millisecond, ActiveWait: 200 * time.Millisecond}).failed()
	if err == nil || !strings.Contains(err.Error(), `is in use by pid `) {
		t.Fatalf("error %v", err)
	}
	if err := foreign.Conn().Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "the slot is free", func() bool {
		var active bool
		row(t, s.conn, "SELECT active FROM pg_replication_slots WHERE slot_name = '"+s.src.Slot+"'", &active)
		return !active
	})
	hold("cdc " + s.src.Slot)
	got := newSink()
	start(t, s.src, got, dumper.Options{EvictAfter: 100 * time.Millisecond})
	got.wait(t, "the record", func() bool { return len(got.records) == 1 })
}

// TestLongSlotName: with a name of any length we know our own walsender on the server.
func TestLongSlotName(t *testing.T) {
	s := newShard(t)
	long := s.src
	long.Slot = strings.Repeat("x", 63)
	exec(t, s.conn, "SELECT pg_create_logical_replication_slot('"+long.Slot+"', 'pgoutput', false, true)")
	var at string
	row(t, s.conn, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '"+long.Slot+"'", &at)
	long.Start = lsn(t, at)
	got := newSink()
	d := start(t, long, got, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	got.wait(t, "the stream", func() bool { return len(got.records) > 0 })
	out, err := dumper.Deprovision(t.Context(), dumper.DeprovisionSpec{DSN: long.DSN, Name: "a", Slot: long.Slot})
	if err != nil || out.Slot != long.Slot {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := d.failed(); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Fatalf("error %v", err)
	}
}

// TestSlotBecomesFree: a walsender on its way out is waited for.
func TestSlotBecomesFree(t *testing.T) {
	s := newShard(t)
	first := newSink()
	d := start(t, s.src, first, dumper.Options{})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	first.wait(t, "the stream", func() bool { return len(first.records) > 0 })
	got := newSink()
	second := start(t, s.src, got, dumper.Options{})
	await(t, "the second was turned away", func() bool { return strings.Contains(second.Status().Error, "is in use by pid") })
	d.stop()
	got.wait(t, "the record", func() bool { return len(got.records) == 1 })
}

// TestSlotMovedMeanwhile: somebody moves the slot while we are away.
func TestSlotMovedMeanwhile(t *testing.T) {
	s := newShard(t)
	got := newSink()
	d := start(t, s.src, got, dumper.Options{BackoffMin: 300 * time.Millisecond, BackoffMax: 300 * time.Millisecond})
	exec(t, s.conn, "INSERT INTO t VALUES (1)")
	got.wait(t, "the stream", func() bool { return len(got.records) > 0 })
	// In one statement for one moment without a reader: end the walsender, write, and move the slot.
	moved := func() bool {
		exec(t, s.conn, "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE slot_name = '"+s.src.Slot+"' AND active",
			"INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
		_, err := s.conn.Exec(t.Context(), "SELECT pg_replication_slot_advance('"+s.src.Slot+"', pg_current_wal_lsn())")
		return err == nil
	}
	await(t, "the slot is moved", moved)
	if err := d.failed(); err == nil || !strings.Contains(err.Error(), "ahead of what was read") {
		t.Errorf("error %v", err)
	}
}

// TestRefusedPassword: neither the error nor the status tells it.
func TestRefusedPassword(t *testing.T) {
	t.Setenv("CDC_TEST_PW", "hunter2")
	src := dumper.Source{Name: "a", Slot: "s", DSN: "postgres://u:${CDC_TEST_PW}@127.0.0.1:1/d?sslmode=disable", Start: pipeline.LSN(1)}
	d := start(t, src, newSink(), dumper.Options{BackoffMin: time.Millisecond})
	await(t, "it fails", func() bool { return d.Status().Error != "" })
	if st := d.Status(); strings.Contains(fmt.Sprintf("%+v", st), "hunter2") || st.State == dumper.Failed {
		t.Errorf("%+v", st)
	}
}
