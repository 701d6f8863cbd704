package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
)

// asked is what somebody asked to skip.
type asked struct {
	mu    sync.Mutex
	skips []apply.Skip
	err   error
}

func (a *asked) list(context.Context) ([]apply.Skip, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.skips, a.err
}

func (a *asked) skip(csn pipeline.CSN) apply.Skip {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := apply.Skip{CSN: csn, Reason: "it's broken", By: "ann@ops", At: time.Date(2026, 5, 4, 3, 2, 1, 6000, time.UTC)}
	a.skips = append(a.skips, s)
	return s
}

// TestSkip: a transaction that the target refuses is left out on request, and only that one; what is missing is written
// down for ever. It stands in a unit with others, or alone in a large one; its table may not even exist.
func TestSkip(t *testing.T) {
	for name, limit := range map[string]int{"small": 1 << 20, "large": 100} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.both("CREATE TABLE t (id int PRIMARY KEY, v text)")
			w.source("CREATE TABLE gone (id int PRIMARY KEY)")
			w.shards[0].exec("INSERT INTO t VALUES (1, 'a')")
			w.shards[0].exec("BEGIN; INSERT INTO gone VALUES (1), (2); UPDATE t SET v = 'b' WHERE id = 1; DELETE FROM gone WHERE id = 1; COMMIT")
			w.shards[0].exec("INSERT INTO t VALUES (2, 'c')")
			txs := w.capture()
			w.shards[1].exec("BEGIN; INSERT INTO t VALUES (3, 'x'); TRUNCATE gone; COMMIT")
			txs[1] = w.together([]*pipeline.Transaction{txs[1], w.capture()[0]})[0]
			f := newFeed(t)
			if limit > 1000 {
				f.publish(limit, 0, txs...)
			} else {
				for _, tx := range txs {
					f.publish(limit, 0, tx)
				}
			}
			target, err := postgres.New(w.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if list, err := target.Skipped(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("before anything was applied: %v, %v", list, err)
			}
			a, spill := new(asked), new(files)
			a.skip(1) // behind the progress when it counts; see below
			a.skips = nil
			fl := w.follow(t, f, apply.Config{Target: target, Skips: a.list, Spill: spill.create})
			s := fl.state("stuck", stuck)
			if s.Blocked.CSN != txs[1].CSN || s.Blocked.Table != `"public"."gone"` {
				t.Errorf("stuck at %+v", s.Blocked)
			}
			want := a.skip(txs[1].CSN)
			fl.until(txs[2].CSN)
			if got := w.target.rows("SELECT * FROM t ORDER BY id"); got != "1|a\n2|c\n" {
				t.Errorf("got %s", got)
			}
			list, err := target.Skipped(t.Context())
			if err != nil || len(list) != 1 {
				t.Fatalf("%v, %v", list, err)
			}
			const changes = `"public"."gone": 2 insert, 1 delete, 1 truncate; "public"."t": 1 insert, 1 update`
			if got := list[0]; got.Skip != want || got.Changes != changes || time.Since(got.Passed) > time.Hour {
				t.Errorf("got  %+v\nwant %+v, %s", got, want, changes)
			}
			if spill.open != 0 {
				t.Errorf("%d files left", spill.open)
			}
			// A skip behind the progress changes nothing for a worker that comes later.
			again := w.follow(t, f, apply.Config{Target: target, Skips: a.list})
			again.state("caught up", caughtUp)
			if list, err := target.Skipped(t.Context()); err != nil || len(list) != 1 {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}

// TestSkipNeedsItsRecord: without the right to write the skip down nothing is skipped.
func TestSkipNeedsItsRecord(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	w.target.exec("CREATE ROLE scribe LOGIN PASSWORD 'p'; GRANT SET ON PARAMETER session_replication_role TO scribe; GRANT ALL ON t TO scribe")
	w.open()
	w.session.Close(t.Context())
	w.session = nil
	w.target.exec("GRANT USAGE ON SCHEMA cdc TO scribe; GRANT ALL ON cdc.progress, cdc.copying TO scribe")
	w.cfg.DSN = strings.Replace(server.DSNFor(w.target.name), "postgres@", "scribe:p@", 1)
	g := w.groupOpen(w.capture())
	g.Skips = map[pipeline.CSN]apply.Skip{1: {CSN: 1, Reason: "r", By: "b", At: time.Now()}}
	err := w.session.Apply(t.Context(), g)
	var blocked *apply.Blocked
	if !errors.As(err, &blocked) || blocked.CSN != 1 || !strings.Contains(err.Error(), `GRANT INSERT ON cdc.skipped TO "scribe"`) {
		t.Errorf("got %v", err)
	}
	if got := w.target.rows("SELECT csn FROM cdc.progress"); got != "0\n" {
		t.Errorf("the progress moved: %s", got)
	}
}

// groupOpen opens a session and makes the next group.
func (w *world) groupOpen(txs []*pipeline.Transaction) apply.Group {
	w.t.Helper()
	w.open()
	return w.group(txs)
}

// TestSkipsUnknown: a worker that cannot learn what to skip does not go on.
func TestSkipsUnknown(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	f := newFeed(t)
	f.publish(1<<20, 0, w.capture()...)
	a := &asked{err: errors.New("no answer")}
	fl := w.follow(t, f, apply.Config{Skips: a.list})
	fl.state("failing", func(s apply.Status) bool { return strings.Contains(s.Err, "look for transactions to skip: no answer") })
	a.mu.Lock()
	a.err = nil
	a.mu.Unlock()
	fl.until(1)
}

// TestBlockedAtTheCommit: a constraint that is checked at the commit names the transaction that breaks it, not another
// one of its unit: somebody may skip what is named.
func TestBlockedAtTheCommit(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
	w.target.exec(`DO $$ DECLARE n name; BEGIN FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass LOOP
		EXECUTE format('ALTER TABLE t ENABLE ALWAYS TRIGGER %I', n); END LOOP; END $$; INSERT INTO t VALUES (9, 2)`)
	for i := range 4 {
		w.source(fmt.Sprintf("INSERT INTO t VALUES (%[1]d, %[1]d)", i+1))
	}
	txs := w.capture()
	f := newFeed(t)
	f.publish(1<<20, 0, txs...)
	a := new(asked)
	fl := w.follow(t, f, apply.Config{Skips: a.list})
	s := fl.state("stuck", stuck)
	if s.Blocked.CSN != txs[1].CSN || s.Blocked.Table != `"public"."t"` {
		t.Errorf("stuck at %+v: %s", s.Blocked, s.Err)
	}
	a.skip(txs[1].CSN)
	fl.until(txs[3].CSN)
	if got := w.target.rows("SELECT id FROM t ORDER BY id"); got != "1\n3\n4\n9\n" {
		t.Errorf("got %s", got)
	}
}
