package bank

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/throwaway"
)

// place is two shards and a target. The shards are on servers of their own, because a gid is known to a whole server.
type place struct {
	shards []string
	target string
}

func newPlace(t *testing.T, servers []*throwaway.Server, name string) place {
	t.Helper()
	create := func(s *throwaway.Server, db string) string {
		execute(t, s.DSN(), "CREATE DATABASE "+db)
		if err := CreateTables(t.Context(), s.DSNFor(db)); err != nil {
			t.Fatal(err)
		}
		return s.DSNFor(db)
	}
	return place{
		shards: []string{create(servers[0], name), create(servers[1], name)},
		target: create(servers[0], name+"_target"),
	}
}

func execute(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func TestBank(t *testing.T) {
	servers, err := throwaway.StartMany(t.Context(), throwaway.Options{Name: "bank0"}, throwaway.Options{Name: "bank1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range servers {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("compare", func(t *testing.T) { testCompare(t, newPlace(t, servers, "compare")) })
	t.Run("laws", func(t *testing.T) { testLaws(t, newPlace(t, servers, "laws")) })
	t.Run("traffic", func(t *testing.T) { testTraffic(t, newPlace(t, servers, "traffic")) })
}

// Every kind of difference is found.
func testCompare(t *testing.T, p place) {
	same := []string{
		"INSERT INTO accounts VALUES (1, 'one', 10, '2000-01-01'), (3, 'three', 30, '2000-01-01')",
		"INSERT INTO journal VALUES (7, 'entry', '2000-01-01'), (7, 'entry', '2000-01-01')",
		"INSERT INTO notes (id, title, at) VALUES (1, NULL, '2000-01-01')",
	}
	execute(t, p.shards[1], same...)
	execute(t, p.target, same...)
	execute(t, p.shards[0], "INSERT INTO accounts VALUES (2, 'two', 20, '2000-01-01')")
	execute(t, p.target, "INSERT INTO accounts VALUES (2, 'two', 20, '2000-01-01')")
	compare := func(rows, count int64, examples ...string) {
		t.Helper()
		d, err := Compare(t.Context(), p.shards, p.target)
		if err != nil {
			t.Fatal(err)
		}
		if d.Rows != rows || d.Count != count {
			t.Errorf("%d rows, %d differences %q, want %d, %d", d.Rows, d.Count, d.Examples, rows, count)
		}
		for i, want := range examples {
			if i >= len(d.Examples) || !strings.Contains(d.Examples[i], want) {
				t.Errorf("examples %q, want %q at %d", d.Examples, want, i)
			}
		}
	}
	compare(6, 0)
	execute(t, p.target, "UPDATE accounts SET balance = 11 WHERE id = 1", "DELETE FROM accounts WHERE id = 2", "INSERT INTO accounts VALUES (9, 'nine', 90, '2000-01-01')",
		"INSERT INTO journal VALUES (7, 'entry', '2000-01-01')", "UPDATE notes SET title = ''")
	compare(6, 5, "accounts 1 differs: shard 1 has (1,one,10,", "accounts 2 is missing on the target: shard 0 has (2,two", "accounts 9 is too many", "journal 7 is too many", "notes 1 differs")
}

// Every law can be broken, and then the snapshot says so.
func testLaws(t *testing.T, p place) {
	b := New(Config{Shards: p.shards, Accounts: 2, Opening: 100})
	look := func(w *Watcher) string {
		s := &session{name: "target", dsn: p.target}
		defer s.close()
		err := w.snapshot(t.Context(), s)
		var v *Violation
		if err != nil && !errors.As(err, &v) {
			t.Fatal(err)
		}
		return fmt.Sprint(err)
	}
	const transfer = "INSERT INTO history VALUES (%d, 1, 2, %d, %d, %d, '{}', now())"
	for _, step := range []struct{ sql, want string }{
		{"", "<nil>"},
		{"INSERT INTO accounts VALUES (1, '', 100, now())", "1 accounts, want none or 2"},
		{"INSERT INTO accounts VALUES (2, '', 90, now())", "hold 190 together, want 200"},
		{"UPDATE accounts SET balance = 110 WHERE id = 2; UPDATE accounts SET balance = 90 WHERE id = 1", "<nil>"},
		{fmt.Sprintf(transfer, 16, 1, 1, -10), "transfer 1: 1 of 2 sides"},
		{fmt.Sprintf(transfer, 17, 2, 2, 10), "versions 1 to 2"},
		{"UPDATE history SET version = 2", "<nil>"},
		{"UPDATE history SET amount = 11 WHERE id = 17", "sum 1"},
		{"UPDATE history SET amount = 10 WHERE id = 17", "<nil>"},
		{"INSERT INTO markers VALUES (1, 0, now())", "one shows half"},
		{"INSERT INTO markers VALUES (1, 1, now())", "<nil>"},
		{"INSERT INTO markers VALUES (3, 0, now()), (3, 1, now())", "there is a gap"},
		{"INSERT INTO markers VALUES (2, 0, now()), (2, 1, now())", "<nil>"},
	} {
		if step.sql != "" {
			execute(t, p.target, step.sql)
		}
		if got := look(b.Watch(p.target)); !strings.Contains(got, step.want) {
			t.Errorf("after %q: %s, want %s", step.sql, got, step.want)
		}
	}
	w := b.Watch(p.target)
	if got := look(w); got != "<nil>" {
		t.Error(got)
	}
	execute(t, p.target, "DELETE FROM markers WHERE id = 3")
	if got := look(w); !strings.Contains(got, "what was seen is gone") {
		t.Error(got)
	}
}

// The traffic itself keeps the laws on the shards: nothing is left in doubt, and what was counted is there.
func testTraffic(t *testing.T, p place) {
	b := New(Config{Shards: p.shards, Markers: 5 * time.Millisecond, AbandonEvery: 10, InDoubt: 50 * time.Millisecond, Seed: 1})
	if err := b.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	for b.Stats().Transactions < 500 || b.Stats().Abandoned < 3 {
		if pause.For(t.Context(), 5*time.Millisecond) != nil {
			t.Fatal(b.Stats())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", b.Stats())
	sessions := b.sessions()
	defer closeAll(sessions)
	var accounts, money, prepared int64
	for _, s := range sessions {
		results, err := s.exec(t.Context(), "SELECT count(*), sum(balance), (SELECT count(*) FROM pg_prepared_xacts) FROM accounts")
		if err != nil {
			t.Fatal(err)
		}
		n, err := numbers(results[0])
		if err != nil {
			t.Fatal(err)
		}
		accounts, money, prepared = accounts+n[0], money+n[1], prepared+n[2]
	}
	if accounts != 1000 || money != b.Total() || prepared != 0 {
		t.Errorf("%d accounts with %d together, want %d; %d transactions in doubt", accounts, money, b.Total(), prepared)
	}
}

func TestDelays(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	var m Meter
	for id := range 4 {
		m.acknowledged(int64(id+1), at(10*id)) // 0, 10, 20, 30
	}
	m.sawUpTo(1, at(3))
	m.sawUpTo(3, at(27)) // two at once
	if got := fmt.Sprint(m.Delays(nil)); got != "[3ms 7ms 17ms]" {
		t.Error(got)
	}
	if got := m.Delays(nil).Quantile(0.5); got != 7*time.Millisecond {
		t.Error(got)
	}
	if got := m.Lag(at(50)); got != 20*time.Millisecond {
		t.Error(got)
	}
	if got := m.CaughtUp(at(5), 10*time.Millisecond); got != at(27) {
		t.Error(got)
	}
	if got := m.Gap(at(0), at(30)); got != 24*time.Millisecond {
		t.Error(got)
	}
	m.sawUpTo(4, at(29)) // seen before its acknowledgement came
	if got := m.Delays(nil)[0]; got != 0 {
		t.Error(got)
	}
}
