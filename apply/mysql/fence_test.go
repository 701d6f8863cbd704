package mysql_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/mysql"
)

func (w *world) newTarget() *mysql.Target {
	w.t.Helper()
	target, err := mysql.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return target
}

func (w *world) openOn(target *mysql.Target) (apply.Session, apply.Progress, error) {
	w.t.Helper()
	s, err := target.Open(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close(context.Background()) })
	at, err := s.Progress(w.t.Context())
	return s, at, err
}

// What was applied is the progress that the next session reads.
func TestProgress(t *testing.T) {
	w := newWorld(t, 1)
	s, at, err := w.openOn(w.newTarget())
	if err != nil || at != (apply.Progress{}) {
		t.Fatal(at, err)
	}
	w.session, w.at = s, at
	w.source("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	w.replay()
	want := w.at
	want.CSN, want.Seq, want.Stamp = 1<<63+5, 1<<40, time.Now().UnixNano()
	if err := w.session.Apply(t.Context(), apply.Group{From: w.at, To: want}); err != nil {
		t.Fatal(err)
	}
	_, at, err = w.openOn(w.newTarget())
	if err != nil || at != want {
		t.Errorf("%+v %v, want %+v", at, err, want)
	}
}

// A session that another one overtook cannot commit, wherever it stands; and who was overtaken does not take over again.
func TestOvertaken(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	first := w.newTarget()
	s, at, err := w.openOn(first)
	if err != nil {
		t.Fatal(err)
	}
	w.at = at
	g := w.group(w.capture())
	var second apply.Session
	g.Turn = func(context.Context) error { // everything is sent, and holds its locks
		second, at, err = w.openOn(w.newTarget())
		return err
	}
	if err := s.Apply(t.Context(), g); err == nil {
		t.Fatal("the first session committed")
	}
	if at != (apply.Progress{}) {
		t.Errorf("the second one read %v", at)
	}
	g.Turn = nil
	if err := second.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id FROM t", "1")
	_, _, err = w.openOn(first)
	var fatal *apply.Fatal
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "another worker is ahead") {
		t.Errorf("the first worker took over again: %v", err)
	}
}

// A session whose process stands still between its compare-and-swap and COMMIT holds the row of the progress: it is ended.
func TestFrozen(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	s, at, err := w.openOn(w.newTarget())
	if err != nil {
		t.Fatal(err)
	}
	if err := mysql.Swap(t.Context(), s, at, apply.Progress{StreamID: "x", CSN: 5, Seq: 5}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	second, now, err := w.openOn(w.newTarget())
	if err != nil || now != at {
		t.Fatal(now, err)
	}
	t.Logf("took over after %s", time.Since(began))
	if err := mysql.Commit(t.Context(), s); err == nil {
		t.Error("the session that stood still committed")
	}
	w.at = now
	if err := second.Apply(t.Context(), w.group(w.capture())); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id FROM t", "1")
}

// The compare-and-swap minds where the row is, not only whose.
func TestWrongFrom(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	s, at, err := w.openOn(w.newTarget())
	if err != nil {
		t.Fatal(err)
	}
	at.Seq = 7
	w.at = at
	var fatal *apply.Fatal
	if err := s.Apply(t.Context(), w.group(w.capture())); !errors.As(err, &fatal) {
		t.Errorf("%v, want Fatal", err)
	}
	w.want("SELECT COUNT(*) FROM t", "0")
}

// Whatever the database's own settings are, the session's are ours.
func TestSettings(t *testing.T) {
	w := newWorld(t, 1)
	w.exec("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', GLOBAL time_zone = '-08:00', GLOBAL character_set_server = 'latin1', GLOBAL foreign_key_checks = 1")
	t.Cleanup(func() {
		_, _ = w.target.ExecContext(context.Background(), "SET GLOBAL sql_mode = DEFAULT, GLOBAL time_zone = '+05:30', GLOBAL character_set_server = DEFAULT")
	})
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz)")
	w.source(`INSERT INTO t VALUES (0, E'\\a''"é', '2024-01-01 00:00:00+00')`)
	w.replay()
	w.want("SELECT id, v, at FROM t", `0|\a'"é|2024-01-01 00:00:00.000000`)
}

// A transaction in several pieces of a group is there as a whole or not at all.
func TestAtomic(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.ChunkBytes = 1
	w.source("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
	w.exec("CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE u (id INT PRIMARY KEY); INSERT INTO u VALUES (1)")
	w.source("BEGIN; INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (1); COMMIT")
	b := w.blocked(w.capture())
	if b.Table != "`"+w.name+"`.`u`" || b.Row != "(id)=(1)" {
		t.Error(b)
	}
	w.want("SELECT COUNT(*) FROM t", "0")
	w.want("SELECT stream_seq FROM cdc_progress", "0")
}

// A row that the packet cannot hold says what to do.
func TestPacket(t *testing.T) {
	w := newWorld(t, 1)
	w.exec("SET GLOBAL max_allowed_packet = 1048576")
	t.Cleanup(func() {
		_, _ = w.target.ExecContext(context.Background(), "SET GLOBAL max_allowed_packet = DEFAULT")
	})
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text)")
	w.source("INSERT INTO t SELECT n, repeat('x', 300000) FROM generate_series(1, 8) n")
	w.replay()
	w.want("SELECT COUNT(*), SUM(LENGTH(v)) FROM t", "8|2400000")
	w.source("INSERT INTO t VALUES (9, repeat('x', 1100000))")
	txs := w.capture()
	if b := w.blocked(txs); b.Row != "(id)=(9)" || !strings.Contains(b.Error(), "max_allowed_packet is 1048576") {
		t.Error(b)
	}
	w.exec("SET GLOBAL max_allowed_packet = 4194304")
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
}
