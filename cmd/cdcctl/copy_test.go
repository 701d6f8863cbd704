package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/subscribe"
)

// equal checks that a target has what both shards have.
func (w *world) equal(name string) {
	w.Helper()
	w.run(0, "wait", name, "--for", "applied")
	w.wants(w.run(0, "verify", name).out, "equal")
}

// The rows that were there before come to the target, and everything that a person looks at says so.
func TestCreateCopies(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "INSERT INTO accounts SELECT n, 'a', n FROM generate_series(1, 3000, 2) n", "ANALYZE accounts")
	w.sql(w.b, "INSERT INTO accounts SELECT n, 'b', n FROM generate_series(2, 3000, 2) n", "ANALYZE accounts")
	create := []string{"create-subscription", "bank", "--shard", "a=" + w.a, "--shard", "b=" + w.b, "--target", w.target}
	w.sql(w.target, "INSERT INTO accounts VALUES (-1, 'stale', 0), (1, 'stale', 0)")
	r := w.run(1, create...)
	w.wants(r.err, "nothing was changed", "target target1: tables hold rows there already: public.accounts. Try: TRUNCATE them there; or --if-target-has-rows truncate")
	w.wants(w.run(1, append([]string{"check"}, create[2:]...)...).out, "tables hold rows there already")
	w.run(0, append([]string{"check", "--copy-data=false"}, create[2:]...)...)
	w.nothingLeft()

	w.run(0, append(create, "--if-target-has-rows", "truncate", "--copy-rate", "100MB", "--copy-order", "public.accounts")...)
	w.wants(w.run(0, "status", "bank").out, "bank: no node runs it")
	w.startNode()
	w.startWorker()
	w.until("the copy is done", func() bool {
		var r report
		w.decode(w.run(0, "status", "bank", "-o", "json").out, &r)
		return r.Capture != nil && r.Capture.Copy != nil && r.Capture.Copy.State == control.CopyDone && r.Apply[0].ConsistentFrom > 0
	})
	w.equal("bank")
	if got := w.query(w.target, "SELECT count(*) || ' ' || sum(balance) FROM accounts"); got != "3000 4501500" {
		t.Errorf("the target has %s", got)
	}
	var st report
	w.decode(w.run(0, "status", "bank", "-o", "json").out, &st)
	if c := st.Capture; c.Catchup.Type != control.CatchupFull || c.Catchup.Percent != 100 || c.Copy.SyncPercent != 100 || c.Copy.Rows != 3000 || c.Copy.ConsistentFrom == 0 {
		t.Errorf("catching up %+v, copy %+v", c.Catchup, c.Copy)
	}
	if a := st.Apply[0]; len(a.Copying) > 0 || a.ConsistentFrom != st.Capture.Copy.ConsistentFrom {
		t.Errorf("apply: %+v", a)
	}
	w.wants(w.run(0, "status", "bank").out, "copy        initial, done ", "3,000 rows in 1 table", "the tables are consistent from csn ", "target target1: consistent from csn ")

	w.sql(w.target, "UPDATE accounts SET owner = 'spoilt' WHERE id = 7", "DELETE FROM accounts WHERE id = 8", "INSERT INTO accounts VALUES (-7, 'extra', 0)")
	w.wants(w.run(0, "resync", "bank", "--table", "public.acc*").out, "public.accounts will be copied anew by subscription bank", "Copied 1 table in ", "consistent from csn ")
	w.equal("bank")
	w.run(0, "drop-subscription", "bank")
	w.nothingLeft()
}

// Who may not read every row is told before anything is made.
func TestCreateCopiesNeedsRights(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "CREATE ROLE blind LOGIN REPLICATION", "CREATE TABLE policed (id int PRIMARY KEY)", "GRANT SELECT ON policed TO blind",
		"ALTER TABLE policed ENABLE ROW LEVEL SECURITY", "CREATE TABLE bare (id int)", "GRANT SELECT ON bare TO blind", "CREATE PUBLICATION p FOR TABLE accounts, policed, bare")
	t.Cleanup(func() { w.sql(w.a, "DROP OWNED BY blind", "DROP ROLE blind") })
	w.sql(w.target, "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey", "CREATE TABLE policed (id int PRIMARY KEY)", "CREATE TABLE bare (id int)")
	as := strings.Replace(w.a, "postgres@", "blind@", 1)
	r := w.run(1, "create-subscription", "s", "--shard", "a="+as, "--publication", "p", "--target", w.target)
	w.wants(r.err, "role blind may not read tables, so their rows cannot be copied: public.accounts. Try: ", `GRANT USAGE ON SCHEMA "public" TO "blind"; GRANT SELECT ON "public"."accounts" TO "blind"; or --copy-data=false`,
		`sees only those rows that policies let it see, so a copy would be incomplete: public.policed. Try: ALTER ROLE "blind" BYPASSRLS`,
		`tables have a key on the shards and none there, by which a copied row could be found: public.accounts. Try: the key that the shards have: ALTER TABLE "public"."accounts" ADD PRIMARY KEY ("id")`,
		"copy: tables have no key: public.bare")
	w.wants(w.run(0, "create-subscription", "s", "--copy-data=false", "--shard", "a="+as, "--publication", "p", "--target", w.target).out, "is made")
	w.run(0, "drop-subscription", "s")
	w.sql(w.a, "DROP PUBLICATION p")
	w.nothingLeft()
}

// Tables join a running subscription with their rows, leave it, and join again.
func TestTables(t *testing.T) {
	w := newWorld(t)
	for _, dsn := range []string{w.a, w.b, w.target} {
		w.sql(dsn, "CREATE TABLE orders (id int PRIMARY KEY, what text)", `CREATE TABLE "Odd, name" (id int PRIMARY KEY)`)
	}
	w.sql(w.b, "CREATE TABLE onlyb (id int PRIMARY KEY)")
	w.sql(w.a, "INSERT INTO orders SELECT n, 'a' FROM generate_series(1, 99, 2) n", `INSERT INTO "Odd, name" VALUES (1)`, "CREATE TABLE bare (id int)")
	w.sql(w.b, "INSERT INTO orders SELECT n, 'b' FROM generate_series(2, 100, 2) n")
	w.startNode()
	w.startWorker()
	w.create("shop", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target, "--tables", "public.acc*")
	w.run(0, "resume", "shop")

	for _, c := range []struct{ table, want string }{
		{"public.none", "public.none matches no table on any shard"},
		{"public.accounts", "public.accounts: subscription shop has it already. Try: cdcctl resync shop --table public.accounts"},
		{"public.bare", `shard a: "public"."bare" has no replica identity`},
		{"-public.orders", "no table is named"},
		{"orders", `table pattern "orders" names no schema. Try: public.orders`},
	} {
		w.wants(w.run(1, "add-table", "shop", "--", c.table).err, c.want)
	}
	w.sql(w.target, "INSERT INTO orders VALUES (0, 'stale')")
	w.wants(w.run(1, "add-table", "shop", "public.orders").err, "nothing was changed", "tables hold rows there already: public.orders")
	r := w.run(0, "add-table", "shop", `public.orders,public."Odd, name"`, "--if-target-has-rows", "truncate")
	w.wants(r.out, "public.Odd, name, public.orders will join subscription shop", "Copied 2 tables in ", "consistent from csn ")
	w.sql(w.b, "UPDATE orders SET what = 'later' WHERE id = 2")
	w.equal("shop")
	if got := w.query(w.target, "SELECT count(*) || max(what) FROM orders"); got != "100later" {
		t.Errorf("the target has %s", got)
	}

	w.wants(w.run(0, "remove-table", "shop", "public.orders").out, "public.orders left subscription shop; their rows on the targets stay.")
	w.wants(w.run(1, "remove-table", "shop", "public.orders").err, "subscription shop has no table public.orders")
	w.wants(w.run(1, "remove-table", "shop", "public.*").err, "would have no table left. Try: cdcctl drop-subscription shop")
	w.sql(w.a, "INSERT INTO orders VALUES (1001, 'unseen')", "INSERT INTO accounts VALUES (1, 'seen', 1)")
	w.run(0, "wait", "shop", "--for", "applied")
	if got := w.query(w.target, "SELECT (SELECT count(*) FROM orders) || ' ' || (SELECT count(*) FROM accounts)"); got != "100 1" {
		t.Errorf("the target has %s", got)
	}
	w.wants(w.run(0, "add-table", "shop", "public.orders", "--copy-data=false").out, "public.orders joined subscription shop: their changes flow from now on")
	w.sql(w.a, "INSERT INTO orders VALUES (1003, 'seen again')")
	w.run(0, "wait", "shop", "--for", "applied")
	if got := w.query(w.target, "SELECT string_agg(what, ' ') FROM orders WHERE id > 1000"); got != "seen again" {
		t.Errorf("the target has %s", got)
	}
	w.wants(w.run(1, "resync", "shop", "--table", "public.onlyb").err, "subscription shop has no table public.onlyb. Try: cdcctl add-table shop public.onlyb")
	w.wants(w.run(0, "history", "shop").out, "tables added", "tables removed", "public.orders", person())
	w.run(0, "drop-subscription", "shop")
	w.nothingLeft()
}

// What happens to tables that publications of others hold is theirs to say.
func TestTablesOfAGivenPublication(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "CREATE TABLE more (id int PRIMARY KEY)", "INSERT INTO more VALUES (1)", "CREATE PUBLICATION p FOR TABLE accounts")
	w.sql(w.target, "CREATE TABLE more (id int PRIMARY KEY)")
	w.startNode()
	w.startWorker()
	w.create("g", "--shard", "a="+w.a, "--publication", "p", "--target", w.target)
	w.wants(w.run(1, "add-table", "g", "public.more").err, `publications that were given ("p")`, `Try: ALTER PUBLICATION "p" ADD TABLE … on every shard, then cdcctl resync g --table`)
	w.wants(w.run(1, "remove-table", "g", "public.accounts").err, `Try: ALTER PUBLICATION "p" DROP TABLE … on every shard`)
	w.wants(w.run(1, "alter-subscription", "g", "--follow-new-tables").err, "publications that were given")
	w.sql(w.a, "ALTER PUBLICATION p ADD TABLE more")
	w.wants(w.run(0, "resync", "g", "--table", "public.more").out, "Copied 1 table")
	w.equal("g")
	w.run(0, "drop-subscription", "g")
	w.sql(w.a, "DROP PUBLICATION p")
	w.nothingLeft()
}

// Column lists and row filters are those of a given publication: an update that moves a row into the filter inserts it on the
// target, one that moves it out deletes it; the copy takes what the filter lets through.
func TestRowFilter(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "ALTER TABLE accounts ADD secret text", "ALTER TABLE accounts REPLICA IDENTITY FULL", "INSERT INTO accounts VALUES (1, 'in', 100, 's'), (2, 'out', 5, 's'), (3, 'in', 70, 's')",
		"CREATE PUBLICATION rich FOR TABLE accounts WHERE (balance > 50)")
	w.sql(w.b, "INSERT INTO accounts VALUES (11, 'in', 100), (12, 'out', 5)", "CREATE PUBLICATION rich FOR TABLE accounts (id, owner)")
	w.sql(w.target, "ALTER TABLE accounts ADD secret text")
	w.startNode()
	w.startWorker()
	w.run(0, "create-subscription", "f", "--shard", "a="+w.a, "--shard", "b="+w.b, "--publication", "rich", "--target", w.target, "--wait")
	rows := func(when, want string) {
		t.Helper()
		w.run(0, "wait", "f", "--for", "applied")
		if got := w.query(w.target, "SELECT id || owner || coalesce(balance::text, '-') FROM accounts ORDER BY id"); got != want {
			t.Errorf("%s: the target has %q, want %q", when, got, want)
		}
	}
	rows("copied", "1in100 3in70 11in- 12out-")
	w.sql(w.a, "UPDATE accounts SET balance = 60, owner = 'came' WHERE id = 2", "UPDATE accounts SET balance = 1 WHERE id = 1", "UPDATE accounts SET balance = 71 WHERE id = 3")
	w.sql(w.b, "UPDATE accounts SET owner = 'b', balance = 7 WHERE id = 12")
	rows("moved", "2came60 3in71 11in- 12b-")
	w.run(0, "drop-subscription", "f")
	w.sql(w.a, "DROP PUBLICATION rich")
	w.sql(w.b, "DROP PUBLICATION rich")
	w.nothingLeft()
}

// What would be removed is listed first, and is what is removed.
func TestDryRunAndUninstall(t *testing.T) {
	w := newWorld(t)
	w.wants(w.run(0, "uninstall").out, "Nothing is installed.")
	w.wants(w.run(0, "uninstall", "--dry-run").out, "Nothing is installed.")
	w.sql(w.a, "CREATE PUBLICATION given FOR TABLE accounts", "INSERT INTO accounts VALUES (1, 'a', 1)")
	w.run(0, "create-subscription", "one", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target)
	w.create("two", "--shard", "a="+w.a, "--publication", "given")
	stopNode, stopWorker := w.startNode(), w.startWorker()
	w.run(0, "resume", "one")
	w.run(0, "wait", "one", "--for", "applied")
	w.sql(w.target, "INSERT INTO cdc.skipped VALUES ('one', 1, 'because', 'me', now(), '', now())")

	var plan subscribe.Preview
	w.decode(w.run(0, "drop-subscription", "one", "--dry-run", "-o", "json").out, &plan)
	want := []string{
		"shard a: slot cdc_one_a", "shard a: publication cdc_one", "shard b: slot cdc_one_b", "shard b: publication cdc_one",
		"target target1: progress of one", "target target1: table cdc.progress", "stream CDC_one,", "1 copy jobs of one", "catalog entry one",
	}
	text := strings.Join(plan.Remove, "\n")
	w.wants(text, want...)
	if strings.Contains(text, "skipped") || len(plan.Keep) != 1 || !strings.Contains(plan.Keep[0], "cdc.skipped, rows of one: 1") {
		t.Errorf("plan: %+v", plan)
	}
	w.wants(w.run(0, "uninstall", "--dry-run").out, "would remove shard b: slot cdc_one_b", "would remove shard a: slot cdc_two_a", "would keep shard a: publication given, which was given",
		"cdc.skipped", "schema cdc", "bucket CDC_SUBSCRIPTIONS, 2 keys", "stream CDC_HISTORY")
	w.run(0, "status", "one") // nothing was changed

	r := w.run(0, "uninstall")
	w.wants(r.out, "removed shard b: slot cdc_one_b", "removed target target1: schema cdc", "removed bucket CDC_COPIES", "removed stream CDC_HISTORY", "stop them now: n1 (capture", "Everything is removed.")
	stopNode()
	stopWorker()
	w.sql(w.a, "DROP PUBLICATION given")
	w.nothingLeft()
	for name := range w.bus.JS.StreamNames(t.Context()).Name() {
		if strings.Contains(name, "CDC_") {
			t.Errorf("left: %s", name)
		}
	}
	w.wants(w.run(0, "uninstall").out, "Nothing is installed.")
}

// The picture of a copy, with bars and without.
func TestCopyPicture(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	part := func(name, state string, rows, estimate int64, percent float64) control.CopyTableStatus {
		return control.CopyTableStatus{Schema: "public", Name: name, State: state, CopyProgress: control.CopyProgress{Rows: rows, RowsEstimate: estimate, Bytes: rows * 1024, BytesEstimate: estimate * 1024, Percent: percent}}
	}
	c := &control.CopyStatus{
		Kind: control.CopyInitial, State: control.CopyCopying, By: "ann@host", Requested: now.Add(-time.Minute), Queued: 1,
		Waiting: []string{"shard a: pid 7 writes since 3m"}, CurrentIndex: 2, TotalIndex: 6, SyncPercent: 42.5,
		CopyProgress: control.CopyProgress{Rows: 4250, RowsEstimate: 10000, Bytes: 4250 * 1024, BytesEstimate: 10000 * 1024}, BytesPerSecond: 2 << 20, RemainingSeconds: 95,
		Tables: []control.CopyTableStatus{part("done", control.CopyTableDone, 250, 200, 100), part("accounts", control.CopyTableCopying, 4000, 9000, 44.4), part("rest", control.CopyTableWaiting, 0, 800, 0)},
	}
	var b bytes.Buffer
	if err := printCopy(&b, c, false, now); err != nil {
		t.Fatal(err)
	}
	want := `  copy        initial, copying, asked for by ann@host 1m0s ago; 1 job behind it
  copy        waits: shard a: pid 7 writes since 3m
  public.accounts  44.4 %  copying, 4,000 of about 9,000 rows, 3.9 MiB of about 8.8 MiB
  public.rest       0.0 %  waiting, 0 of about 800 rows, 0 B of about 800 KiB
  public.done     100.0 %  done, 250 rows, 250 KiB
  in all           42.5 %  2 of 6 parts, 4,250 of about 10,000 rows, 4.2 MiB of about 9.8 MiB, 2.0 MiB/s, 1m35s left
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	bars := copyBody(c, true, 200)
	for _, want := range []string{`public\.accounts \[=+\.+\]  44\.4 %`, `public\.rest     \[\.+\]   0\.0 %`, `public\.done     \[=+\] 100\.0 %`, `in all          \[=+\.+\]  42\.5 %`} {
		if !regexp.MustCompile(want).MatchString(bars) {
			t.Errorf("no %s in\n%s", want, bars)
		}
	}
	for line := range strings.Lines(copyBody(c, true, 70)) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 70 {
			t.Errorf("%d characters do not fit: %s", n, line)
		}
	}
	c.State, c.ConsistentFrom, c.Ended = control.CopyDone, 77, &now
	b.Reset()
	if err := printCopy(&b, c, true, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t}
	w.wants(b.String(), "initial, done 1h0m0s ago: 4,250 rows in 3 tables, 4.2 MiB; the tables are consistent from csn 77 on")
}

// Where nobody looks at a terminal a short copy says nothing, and a long one now and then.
func TestCopyLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		w := newCopyWait(nil, nil, &b)
		for n := range 8 { // seconds
			w.say(fmt.Sprintf("at %d s", n), "")
			if err := pause.For(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
		}
		w.say("at 8 s", "")
		if want := "at 2 s\nat 7 s\n"; b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	})
}

// A table that leaves while it is copied does not come back, and nobody waits for its copy. New tables are named, or join.
func TestRemoveWhileCopying(t *testing.T) {
	w := newWorld(t)
	for _, dsn := range []string{w.a, w.target} {
		w.sql(dsn, "CREATE TABLE big (id int PRIMARY KEY)", "CREATE TABLE queued (id int PRIMARY KEY)")
	}
	w.sql(w.a, "INSERT INTO big SELECT generate_series(1, 100)", "INSERT INTO queued VALUES (1)")
	w.startNode()
	w.startWorker()
	w.create("s", "--shard", "a="+w.a, "--target", w.target, "--tables", "public.*,-public.big,-public.queued")
	w.run(0, "resume", "s")
	w.sql(w.a, "BEGIN; INSERT INTO accounts VALUES (1, 'a', 1); PREPARE TRANSACTION 'open'")
	w.run(0, "add-table", "s", "public.big", "--no-wait")
	w.run(0, "add-table", "s", "public.queued", "--no-wait")
	w.until("the copy waits for the writer, and status says so", func() bool {
		out := w.run(0, "status", "s").out
		return strings.Contains(out, "waits: ") && strings.Contains(out, "open") && strings.Contains(out, "not yet consistent: table public.big is being copied")
	})
	w.wants(w.run(1, "resync", "s", "--table", "public.big").err, "table public.big is being copied already (add-table, asked for by "+person()+")")
	w.wants(w.run(0, "remove-table", "s", "public.big", "public.queued").out, "public.big, public.queued left subscription s")
	w.sql(w.a, "COMMIT PREPARED 'open'")
	w.until("no copy is left", func() bool {
		var r report
		w.decode(w.run(0, "status", "s", "-o", "json").out, &r)
		return r.Capture != nil && r.Capture.State == "running" && (r.Capture.Copy == nil || r.Capture.Copy.State.Ended()) && len(r.Apply[0].Copying) == 0
	})
	if got := w.query(w.a, "SELECT tablename::text FROM pg_publication_tables ORDER BY 1"); got != "accounts" {
		t.Errorf("published: %s", got)
	}
	w.equal("s")

	for _, dsn := range []string{w.target, w.a} {
		w.sql(dsn, "CREATE TABLE fresh (id int PRIMARY KEY)")
	}
	w.sql(w.a, "INSERT INTO fresh VALUES (1)")
	w.until("the new table is named", func() bool {
		return strings.Contains(w.run(0, "status", "s").out, "new tables  public.fresh: not captured. Try: cdcctl add-table s public.fresh")
	})
	w.run(0, "alter-subscription", "s", "--follow-new-tables", "--copy-rate", "1MB", "--copy-parallel", "1", "--copy-order", "public.fresh")
	w.until("the new table has joined", func() bool {
		return w.query(w.target, "SELECT count(*)::text FROM fresh") == "1"
	})
	w.equal("s")
	w.run(0, "drop-subscription", "s")
	w.nothingLeft()
}
