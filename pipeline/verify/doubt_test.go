package verify

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/pause/pausetest"
)

const accounts = `CREATE TABLE accounts (id int PRIMARY KEY, v text)`

// flow lets the stream move on by more than the margin of the clocks, so that what was before is looked for on purpose
// or not at all.
func (p *place) flow() {
	p.Helper()
	began := time.Now()
	for n := 0; time.Since(began) < clockMargin*3/2; n++ {
		p.sql(0, fmt.Sprintf("INSERT INTO accounts VALUES (%d, 'flow') ON CONFLICT (id) DO UPDATE SET v = 'flow %d'", 1000+n%10, n))
		if n%20 == 0 {
			p.applied()
		}
	}
	p.applied()
}

func quick(c *Config) { c.Rounds = 2 }

// TestInDoubt: a coordinator died. What is committed on one shard is whole on the target, and half of it is invisible on
// another shard: these rows are undecided, and the reason names the transaction; what is not committed anywhere is nowhere.
func TestInDoubt(t *testing.T) {
	p := newPlace(t, accounts)
	p.start()
	p.sql(0, "INSERT INTO accounts VALUES (1, 'old'), (4, 'old')")
	p.sql(1, "INSERT INTO accounts VALUES (2, 'old'), (5, 'old')")
	p.prepare("half", map[int]string{
		0: "UPDATE accounts SET v = 'half' WHERE id = 1; INSERT INTO accounts VALUES (7, 'half')",
		1: "UPDATE accounts SET v = 'half' WHERE id = 2; INSERT INTO accounts VALUES (8, 'half'); DELETE FROM accounts WHERE id = 5",
	})
	p.prepare("none", map[int]string{0: "UPDATE accounts SET v = 'none' WHERE id = 4", 2: "INSERT INTO accounts VALUES (9, 'none')"})
	p.sql(0, "COMMIT PREPARED 'half'")
	p.flow()
	p.sql(target, "UPDATE accounts SET v = 'wrong' WHERE id = 4") // in doubt, and differs truly
	const why = `prepared transaction "half" is committed and applied, and in doubt on shard b. Try: COMMIT PREPARED 'half' there`
	want := `
public.accounts differs rows 15/15 differing 1 missing 0 extra 0 undecided 3 repaired 0
  (id)=(2) undecided 1/1 v,` + why + `
  (id)=(4) differs 1/1 v
  (id)=(5) undecided 1/0 ` + why + `
  (id)=(8) undecided 0/1 ` + why
	want = strings.ReplaceAll(want, "v,prep", "v prep")
	p.want(p.verify(quick), want)
	r := p.verify(quick, func(c *Config) { c.Repair = true })
	if r.Verdict != Undecided || r.Tables[0].Repaired != 1 || r.Tables[0].Undecided != 3 {
		t.Errorf("repair: %s\n%s", r.Verdict, text(r))
	}
	p.sql(1, "COMMIT PREPARED 'half'")
	p.applied()
	if r := p.verify(); r.Verdict != Equal {
		t.Errorf("after the second phase: %s\n%s", r.Verdict, text(r))
	}
}

// TestCommittedAndInvisible: with a synchronous standby a commit is in the WAL, and so on the target, before anybody on the
// shard sees it. A row that waits for the standby is no difference: of a one-phase commit, and of a second phase.
func TestCommittedAndInvisible(t *testing.T) {
	p := newPlace(t, accounts)
	p.start()
	p.sql(0, "SET synchronous_commit = local")
	p.sql(0, "INSERT INTO accounts VALUES (1, 'old'), (2, 'old')")
	p.prepare("second", map[int]string{0: "UPDATE accounts SET v = 'new' WHERE id = 2", 1: "INSERT INTO accounts VALUES (3, 'new')"})
	p.flow() // the second phase comes long after the PREPARE
	p.waitsForStandby("UPDATE accounts SET v = 'new' WHERE id = 1", 1)
	p.sql(1, "COMMIT PREPARED 'second'")
	p.waitsForStandby("COMMIT PREPARED 'second'", 3)
}

// waitsForStandby runs a statement on shard 0 that waits for a standby that there is not, until it is on the target, where
// there are so many new rows then.
func (p *place) waitsForStandby(sql string, rows int) {
	p.Helper()
	standby := func(name string) {
		p.sql(0, "ALTER SYSTEM SET synchronous_standby_names = "+literal(name), "SELECT pg_reload_conf()")
		p.until("the setting holds", func() bool {
			var now string
			p.must(p.conns[0].QueryRow(p.ctx, "SHOW synchronous_standby_names").Scan(&now))
			return now == name
		})
	}
	standby("nobody")
	defer standby("")
	conn, done := p.connect(0), make(chan error, 1)
	go func() { _, err := conn.Exec(p.ctx, sql, pgx.QueryExecModeSimpleProtocol); done <- err }()
	p.until("it is on the target", func() (ok bool) {
		p.must(p.conns[target].QueryRow(p.ctx, "SELECT count(*) = $1 FROM accounts WHERE v = 'new'", rows).Scan(&ok))
		return ok
	})
	p.until("it waits", func() (ok bool) {
		p.must(p.conns[0].QueryRow(p.ctx, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").Scan(&ok))
		return ok
	})
	p.flow()
	for role, as := range map[string]func(*Config){"superuser": func(*Config) {}, "reader": p.asReader} {
		r := p.verify(quick, as)
		if r.Verdict != Undecided || r.Tables[0].Undecided != 1 {
			p.Errorf("%s: as %s: %s\n%s", sql, role, r.Verdict, text(r))
		}
	}
	standby("")
	p.must(<-done)
	if r := p.verify(); r.Verdict != Equal {
		p.Errorf("when the standby is not waited for: %s\n%s", r.Verdict, text(r))
	}
}

func (p *place) until(what string, ok func() bool) {
	p.Helper()
	pausetest.Until(p.ctx, p, what, ok)
}

// TestTargetStandsStill: without a worker, what it has not applied is undecided, and what differs else is found.
func TestTargetStandsStill(t *testing.T) {
	p := newPlace(t, accounts)
	p.start()
	p.sql(0, "INSERT INTO accounts VALUES (1, 'old'), (2, 'old'), (4, 'old')")
	p.applied()
	p.stop()
	p.sql(0, "UPDATE accounts SET v = 'new' WHERE id = 1")
	p.sql(1, "INSERT INTO accounts VALUES (3, 'new')")
	p.sql(target, "DELETE FROM accounts WHERE id = 2")
	still := func(c *Config) { c.still = 300 * time.Millisecond }
	r := p.verify(still)
	if len(r.Tables[0].Rows) != 3 || r.Tables[0].Missing != 1 || r.Tables[0].Undecided != 2 || !strings.Contains(r.Tables[0].Rows[0].Reason, "the target is behind: it is at csn ") ||
		!strings.HasSuffix(r.Tables[0].Rows[0].Reason, ". Try: cdcctl status "+p.sub.Name+", which says why") {
		t.Errorf("%s\n%s", r.Verdict, text(r))
	}
	p.sql(0, "TRUNCATE accounts")
	p.sql(0, "INSERT INTO accounts VALUES (2, 'new')")
	if r = p.verify(still); r.Tables[0].Undecided != 4 {
		t.Errorf("a TRUNCATE may have been any row: %s\n%s", r.Verdict, text(r))
	}
}

// TestHot: one row changes all the time. It is decided nevertheless.
func TestHot(t *testing.T) {
	p := newPlace(t, accounts)
	p.start()
	p.sql(0, "INSERT INTO accounts VALUES (1, '0')")
	p.applied()
	conn := p.connect(0)
	stop := p.run(func(ctx context.Context) error {
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := conn.Exec(ctx, fmt.Sprintf("UPDATE accounts SET v = '%d' WHERE id = 1", n)); err != nil {
				return err
			}
		}
		return nil
	})
	for range 5 {
		if r := p.verify(); r.Verdict != Equal {
			t.Errorf("%s\n%s", r.Verdict, text(r))
		}
	}
	stop()
}

// TestRepairUnderLoad: rows of every table of a busy bank are damaged, found and mended; nothing else is touched.
func TestRepairUnderLoad(t *testing.T) {
	p := newPlace(t, "SELECT 1")
	for _, dsn := range p.dsns {
		p.must(bank.CreateTables(p.ctx, dsn))
	}
	p.start()
	b := bank.New(bank.Config{Shards: p.dsns[:shards], Accounts: 100, Seed: seed(t), PerSecond: 200, Markers: 20 * time.Millisecond, AbandonEvery: 50, InDoubt: 300 * time.Millisecond})
	p.must(b.Load(p.ctx))
	traffic, stop := context.WithCancel(p.ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.Run(traffic) }()
	p.until("there is something to damage", func() bool { return b.Stats().Transactions > 300 })
	p.applied()
	p.sql(target,
		"DELETE FROM history WHERE id IN (SELECT id FROM history ORDER BY id LIMIT 3)",
		"UPDATE notes SET raw = '\\xff' WHERE id IN (SELECT id FROM notes ORDER BY id LIMIT 2)",
		"UPDATE accounts SET owner = 'nobody' WHERE id IN (1, 2, 3)",
		"INSERT INTO markers VALUES (-1, 0, now())",
		"INSERT INTO journal VALUES (-5, 'invented', now()), (-5, 'invented', now())",
		"DELETE FROM journal WHERE ctid = (SELECT min(ctid) FROM journal)")
	r := p.verify(func(c *Config) { c.Repair = true })
	t.Logf("%s\n%s", r.Verdict, text(r))
	var repaired int64
	for _, table := range r.Tables {
		repaired += table.Repaired
	}
	if r.Verdict == Differs || repaired < 7 { // the traffic may have written accounts and notes anew, whole
		t.Errorf("%s, %d repaired\n%s", r.Verdict, repaired, text(r))
	}
	stop()
	p.must(<-ended)
	p.applied()
	if r := p.verify(); r.Verdict != Equal {
		t.Errorf("%s\n%s", r.Verdict, text(r))
	}
	diff, err := bank.Compare(p.ctx, p.dsns[:shards], p.dsns[target])
	p.must(err)
	if diff.Count > 0 || diff.Rows == 0 {
		t.Errorf("%d differences in %d rows: %v", diff.Count, diff.Rows, diff.Examples)
	}
}

// TestLargeTransaction: rows of a transaction that is read from the stream while it comes are found there.
func TestLargeTransaction(t *testing.T) {
	p := newPlace(t, accounts)
	p.start()
	p.sql(0, "INSERT INTO accounts SELECT n, 'old' FROM generate_series(1, 400) n")
	p.applied()
	p.stop()
	p.sql(0, "UPDATE accounts SET v = repeat('large', 20000) WHERE id <= 300") // 30 MB
	p.sql(1, "INSERT INTO accounts VALUES (1000, 'behind it')")
	p.sql(target, "UPDATE accounts SET v = 'wrong' WHERE id = 400")
	r := p.verify(func(c *Config) { c.still = 300 * time.Millisecond })
	if table := r.Tables[0]; table.Differing != 1 || table.Undecided != 301 {
		t.Errorf("%s\n%s", r.Verdict, text(r))
	}
	p.startWorker()
	p.applied()
	if r := p.verify(func(c *Config) { c.Repair = true }); r.Verdict != Equal || r.Tables[0].Repaired != 1 {
		t.Errorf("%s\n%s", r.Verdict, text(r))
	}
}

// TestStillWithinTimeout: a target that stands still is not waited for longer than the caller has time.
func TestStillWithinTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: stillAfter, time.Hour: stillAfter, time.Second: time.Second} {
		c := Config{Timeout: timeout}
		if c.setDefaults(); c.still != want {
			t.Errorf("with timeout %s it waits %s, want %s", timeout, c.still, want)
		}
	}
}
