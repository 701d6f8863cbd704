package node

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/await"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/subscribe"
)

func withDDL(policy string) func(*subscribe.Spec) {
	return func(s *subscribe.Spec) { s.DDL = policy }
}

// lines of a query.
func (r *rig) lines(c *pgx.Conn, sql string) []string {
	r.t.Helper()
	rows, err := c.Query(r.ctx, sql, pgx.QueryExecModeSimpleProtocol)
	r.must(err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	r.must(err)
	return lines
}

// simple runs a text in one message.
func (r *rig) simple(c *pgx.Conn, sql string) {
	r.t.Helper()
	if _, err := c.Exec(r.ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// shapeSQL is what a table looks like, whatever the order of its columns.
const shapeSQL = `SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = '%[1]s'::regclass AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '%[1]s'::regclass
UNION ALL SELECT 'partition ' || inhrelid::regclass FROM pg_inherits WHERE inhparent = '%[1]s'::regclass ORDER BY 1`

// same compares tables: their rows with those of all shards, and what they look like with the first shard.
func (r *rig) same(tables ...string) {
	r.t.Helper()
	for _, table := range tables {
		sql := "SELECT to_jsonb(t)::text FROM " + table + " t ORDER BY 1"
		var want []string
		for _, c := range r.shards {
			want = append(want, r.lines(c, sql)...)
		}
		slices.Sort(want)
		got := r.lines(r.target, sql)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			r.t.Errorf("rows of %s (-shards +target):\n%s", table, diff)
		}
		shape := fmt.Sprintf(shapeSQL, table)
		if diff := cmp.Diff(r.lines(r.shards[0], shape), r.lines(r.target, shape)); diff != "" {
			r.t.Errorf("%s looks different (-shards +target):\n%s", table, diff)
		}
	}
}

// ddlSteps change tables; rows are written after each by either form.
var ddlSteps = []struct {
	name   string
	ddl    string   // on each shard
	before []string // rows that a shard writes that has not run it; %d: an id
	after  []string // and one that has
	tables []string // compared; default accounts
	alone  bool     // it cannot be prepared
}{
	{
		name: "add column", ddl: "ALTER TABLE accounts ADD COLUMN note text NOT NULL DEFAULT 'n'",
		before: []string{"INSERT INTO accounts VALUES (%d, 'old', 1)", "UPDATE accounts SET balance = balance + 1 WHERE id = 1"},
		after:  []string{"INSERT INTO accounts VALUES (%d, 'new', 2, 'noted')", "UPDATE accounts SET note = 'changed' WHERE id = 2"},
	},
	{
		name: "rename column", ddl: "ALTER TABLE accounts RENAME owner TO holder",
		before: []string{"INSERT INTO accounts (id, owner, balance) VALUES (%d, 'x', 1)", "UPDATE accounts SET owner = 'y' WHERE id = 1"},
		after:  []string{"INSERT INTO accounts (id, holder, balance) VALUES (%d, 'x', 1)", "UPDATE accounts SET holder = 'z' WHERE id = 2"},
	},
	{
		name: "another of the old name", ddl: "ALTER TABLE accounts ADD owner int",
		before: []string{"INSERT INTO accounts (id, holder, balance) VALUES (%d, 'x', 1)"},
		after:  []string{"INSERT INTO accounts (id, holder, balance, owner) VALUES (%d, 'x', 1, 5)"},
	},
	{
		name: "drop column", ddl: "ALTER TABLE accounts DROP COLUMN note, DROP COLUMN owner",
		before: []string{"INSERT INTO accounts (id, holder, balance, note) VALUES (%d, 'x', 1, 'y')", "UPDATE accounts SET note = 'y'"},
		after:  []string{"INSERT INTO accounts (id, holder, balance) VALUES (%d, 'x', 1)", "DELETE FROM accounts WHERE id % 3 = 0"},
	},
	{
		name: "not null and no default", ddl: "ALTER TABLE accounts ALTER holder SET NOT NULL",
		before: []string{"INSERT INTO accounts (id, holder, balance) VALUES (%d, 'x', 1)"},
		after:  []string{"INSERT INTO accounts (id, holder, balance) VALUES (%d, 'x', 1)"},
	},
	{
		name: "drop and add in one", ddl: "ALTER TABLE accounts DROP holder, ADD keeper text DEFAULT 'k'",
		before: []string{"INSERT INTO accounts (id, holder, balance) VALUES (%d, 'x', 1)", "UPDATE accounts SET holder = 'q' WHERE id = 1"},
		after:  []string{"INSERT INTO accounts (id, balance, keeper) VALUES (%d, 1, 'kk')"},
	},
	{
		name: "wider type", ddl: "ALTER TABLE accounts ALTER balance TYPE numeric(30,2)",
		before: []string{"INSERT INTO accounts (id, balance) VALUES (%d, 1)"},
		after:  []string{"INSERT INTO accounts (id, balance) VALUES (%d, 12345678901234567890.25)"},
	},
	{
		name: "wider enum, in steps", ddl: "CREATE TYPE mood AS ENUM ('sad'); ALTER TABLE accounts ADD m mood DEFAULT 'sad'",
		before: []string{"INSERT INTO accounts (id, balance) VALUES (%d, 1)"},
		after:  []string{"INSERT INTO accounts (id, m) VALUES (%d, 'sad')"},
	},
	{
		name: "enum value", ddl: "ALTER TYPE mood ADD VALUE 'glad' BEFORE 'sad'", alone: true,
		before: []string{"INSERT INTO accounts (id, m) VALUES (%d, 'sad')"},
		after:  []string{"INSERT INTO accounts (id, m) VALUES (%d, 'glad')"},
	},
	{
		name: "narrower type", ddl: "ALTER TABLE accounts ALTER keeper TYPE varchar(4)",
		before: []string{"INSERT INTO accounts (id, keeper) VALUES (%d, 'much longer')", "DELETE FROM accounts WHERE keeper = 'much longer'"},
		after:  []string{"INSERT INTO accounts (id, keeper) VALUES (%d, 'four')"},
	},
	{name: "index", ddl: "CREATE INDEX CONCURRENTLY by_keeper ON accounts (keeper)", alone: true},
	{name: "unique index", ddl: "CREATE UNIQUE INDEX once ON accounts (id, keeper)"},
	{name: "index of another name", ddl: "ALTER INDEX by_keeper RENAME TO keepers"},
	{name: "no index", ddl: "DROP INDEX keepers, once"},
	{name: "constraint", ddl: "ALTER TABLE accounts ADD CONSTRAINT positive CHECK (id > 0)"},
	{name: "no constraint", ddl: "ALTER TABLE accounts DROP CONSTRAINT positive"},
	{
		name: "many in one text, and in functions",
		ddl: `ALTER TABLE accounts ADD q1 int; DO $$BEGIN FOR i IN 2..3 LOOP EXECUTE format('ALTER TABLE accounts ADD q%s int', i); END LOOP; END$$;
			ALTER TABLE accounts ADD q4 int /* ; */; ALTER TABLE accounts DROP q2`, alone: true,
		after: []string{"INSERT INTO accounts (id, q1, q3, q4) VALUES (%d, 1, 3, 4)"},
	},
	{
		name: "dropped, and made anew as another", ddl: "ALTER TABLE accounts DROP q1; ALTER TABLE accounts ADD q1 text",
		before: []string{"INSERT INTO accounts (id, q1) VALUES (%d, 1)"},
		after:  []string{"INSERT INTO accounts (id, q1) VALUES (%d, 'text')"},
	},
	{
		name: "new table", ddl: "CREATE TABLE extra (id bigint PRIMARY KEY, a text); ALTER PUBLICATION cdc_bank ADD TABLE extra", tables: []string{"extra"},
		after: []string{"INSERT INTO extra VALUES (%d, 'a')"},
	},
	{
		name: "table of another name", ddl: "ALTER TABLE extra RENAME TO more", tables: []string{"more"},
		before: []string{"INSERT INTO extra VALUES (%d, 'b')", "UPDATE extra SET a = 'c'"},
		after:  []string{"INSERT INTO more VALUES (%d, 'd')", "DELETE FROM more WHERE id % 2 = 0"},
	},
	{
		name: "dropped table, made anew", ddl: "DROP TABLE more; CREATE TABLE more (id bigint PRIMARY KEY, other int); ALTER PUBLICATION cdc_bank ADD TABLE more", tables: []string{"more"},
		before: []string{"INSERT INTO more VALUES (%d, 'gone')"},
		after:  []string{"INSERT INTO more VALUES (%d, 1)"},
	},
	{
		name: "dropped table", ddl: "DROP TABLE more",
		before: []string{"INSERT INTO more VALUES (%d, 1)"},
	},
	{
		name: "partitions", ddl: `CREATE TABLE parted (id bigint PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (1000000);
		ALTER PUBLICATION cdc_bank ADD TABLE parted; CREATE TABLE high (id bigint PRIMARY KEY, v int)`, tables: []string{"parted"},
		after: []string{"INSERT INTO parted VALUES (%d, 1)"},
	},
	{
		name: "attach", ddl: "ALTER TABLE parted ATTACH PARTITION high FOR VALUES FROM (1000000) TO (2000000)", tables: []string{"parted"},
		before: []string{"INSERT INTO parted VALUES (%d, 1)"},
		after:  []string{"INSERT INTO parted VALUES (1000000 + %d, 1)"},
	},
	{
		name: "detach", ddl: "ALTER TABLE parted DETACH PARTITION low", tables: []string{"parted"},
		after: []string{"INSERT INTO parted VALUES (1100000 + %d, 1)"},
	},
	{name: "what is the target's own", ddl: "ALTER TABLE accounts SET (fillfactor = 50); ALTER TABLE accounts REPLICA IDENTITY DEFAULT; COMMENT ON TABLE accounts IS 'x'"},
}

// write runs statements with new ids on a shard.
func (r *rig) write(c *pgx.Conn, id *int, statements []string) {
	r.t.Helper()
	for _, s := range statements {
		if strings.Contains(s, "%d") {
			*id++
			s = strings.ReplaceAll(s, "%d", fmt.Sprint(*id))
		}
		r.simple(c, s)
	}
}

// Each kind of statement, on each shard in its own time, with rows of both forms in between, and workers that come and go.
func TestDDLApart(t *testing.T) {
	r := newRig(t, 2, withDDL(control.DDLCapture))
	stop := r.start("n0")
	id := 0
	for n, step := range ddlSteps {
		order := []*pgx.Conn{r.shards[n%2], r.shards[1-n%2]}
		r.write(order[0], &id, step.before)
		r.simple(order[0], step.ddl)
		r.write(order[0], &id, step.after)
		r.write(order[1], &id, step.before)
		if n%3 == 0 {
			r.applied()
			stop()
			stop = r.start(fmt.Sprint("n", n+1))
			r.write(order[1], &id, step.before)
			r.write(order[0], &id, step.after)
		}
		r.simple(order[1], step.ddl)
		r.write(order[1], &id, step.after)
		r.appliedDDL(step.name)
		tables := step.tables
		if tables == nil {
			tables = []string{"accounts"}
		}
		r.same(tables...)
		if left := r.lines(r.target, "SELECT statement FROM cdc.ddl WHERE NOT complete"); len(left) > 0 {
			t.Errorf("%s: not complete: %q", step.name, left)
		}
		if t.Failed() {
			t.Fatalf("%s: %s", step.name, step.ddl)
		}
	}
	stop()
	r.leavesNothing()
}

// The same in distributed transactions: what can be prepared.
func TestDDLTogether(t *testing.T) {
	r := newRig(t, 2, withDDL(control.DDLCapture))
	r.start("n0")
	id := 0
	for n, step := range ddlSteps {
		for _, c := range r.shards {
			r.write(c, &id, step.before)
			if step.alone {
				r.simple(c, step.ddl)
				r.write(c, &id, step.after)
				continue
			}
			r.simple(c, "BEGIN")
			r.simple(c, step.ddl)
			r.write(c, &id, step.after)
			r.simple(c, fmt.Sprintf("PREPARE TRANSACTION 'ddl_%d'", n))
		}
		if !step.alone {
			for _, c := range r.shards {
				r.simple(c, fmt.Sprintf("COMMIT PREPARED 'ddl_%d'", n))
			}
		}
		r.appliedDDL(step.name)
		tables := step.tables
		if tables == nil {
			tables = []string{"accounts"}
		}
		r.same(tables...)
		if t.Failed() {
			t.Fatalf("%s: %s", step.name, step.ddl)
		}
	}
	if twice := r.lines(r.target, "SELECT statement FROM cdc.ddl WHERE outcome NOT IN ('executed')"); len(twice) > 0 {
		t.Errorf("not executed once: %q", twice)
	}
}

// settled waits until everything committed so far is on the target, or the target is stuck, and returns at what.
func (r *rig) settled() (stuck string) {
	r.t.Helper()
	marks, err := await.Marks(r.ctx, r.sub)
	r.must(err)
	seq, err := await.Published(r.ctx, r.bus, r.sub, marks)
	r.must(err)
	pausetest.Within(time.Minute, r.t, "the target is there, or stuck", func() bool {
		st, err := control.AskApply(r.ctx, r.bus.NC, "bank", "t")
		if err == nil && st.Blocked != nil {
			stuck = st.Error
		}
		return err == nil && (st.Blocked != nil || st.AppliedSeq >= seq)
	})
	return stuck
}

// appliedDDL waits until everything is on the target.
func (r *rig) appliedDDL(step string) {
	r.t.Helper()
	if stuck := r.settled(); stuck != "" {
		r.t.Fatalf("%s: %s", step, stuck)
	}
}

// madeSQL lists what can be left behind on a shard.
const madeSQL = `SELECT 'event trigger ' || evtname FROM pg_event_trigger UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_'
UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL SELECT 'publication ' || pubname FROM pg_publication`

// leavesNothing drops the subscription.
func (r *rig) leavesNothing() {
	r.t.Helper()
	dropped, err := subscribe.Drop(r.ctx, r.bus, "bank", subscribe.Options{})
	r.must(err)
	r.t.Log(dropped)
	for _, c := range append(slices.Clone(r.shards), r.target) {
		if left := r.lines(c, madeSQL); len(left) > 0 {
			r.t.Errorf("left behind: %q", left)
		}
	}
}

// Tables change on both shards while both are written to.
func TestDDLUnderTraffic(t *testing.T) {
	r := newRig(t, 2, withDDL(control.DDLCapture))
	stop := r.start("n0")
	ctx, cancel := context.WithCancel(r.ctx)
	var traffic sync.WaitGroup
	for i := range r.shards {
		c, err := pgx.Connect(r.ctx, r.sub.Shards[i].DSN)
		r.must(err)
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		traffic.Go(func() {
			for id := 10 + i; ctx.Err() == nil; id += 2 {
				for _, sql := range []string{
					"INSERT INTO accounts (id, balance) VALUES (%d, 1)", "UPDATE accounts SET balance = balance + 1 WHERE id > %d - 6", "DELETE FROM accounts WHERE id = %d - 8",
				} {
					if _, err := c.Exec(r.ctx, fmt.Sprintf(sql, id), pgx.QueryExecModeSimpleProtocol); err != nil {
						t.Errorf("shard %d: %s: %v", i, sql, err)
						return
					}
				}
			}
		})
	}
	for n, sql := range []string{
		"ALTER TABLE accounts ADD c int DEFAULT 5", "ALTER TABLE accounts RENAME c TO d", "ALTER TABLE accounts ALTER d TYPE bigint",
		"CREATE INDEX i ON accounts (d)", "ALTER TABLE accounts DROP d", "ALTER TABLE accounts ADD c text NOT NULL DEFAULT 'x'",
		"ALTER TABLE accounts ALTER owner TYPE varchar(20)", "ALTER TABLE accounts DROP c",
	} {
		for k := range r.shards {
			r.simple(r.shards[(n+k)%2], sql)
		}
		if n == 3 {
			stop()
			stop = r.start("n1")
		}
	}
	cancel()
	traffic.Wait()
	r.appliedDDL("traffic")
	r.same("accounts")
	if left := r.lines(r.target, "SELECT statement FROM cdc.ddl WHERE NOT complete OR outcome <> 'executed'"); len(left) > 0 {
		t.Errorf("not executed once: %q", left)
	}
	stop()
}

// A target that is to be altered by hand stops at each statement, once, until somebody says that it is done; rows of the
// same transaction come then.
func TestDDLStop(t *testing.T) {
	r := newRig(t, 2, withDDL(control.DDLStop))
	r.start("n0")
	done := regexp.MustCompile(`INSERT INTO cdc.ddl_done VALUES \('bank', \d+\)`)
	for i, c := range r.shards {
		r.simple(c, fmt.Sprintf("BEGIN; ALTER TABLE accounts ADD c int; INSERT INTO accounts (id, c) VALUES (%d, 5); COMMIT", i))
	}
	stuck := r.settled()
	confirm := done.FindString(stuck)
	if !strings.Contains(stuck, "DDL of the shards is to be run by hand: ALTER TABLE accounts ADD c int") || confirm == "" {
		t.Fatalf("stuck at %q", stuck)
	}
	r.simple(r.target, "ALTER TABLE accounts ADD c int; "+confirm)
	r.applied()
	r.same("accounts")
	if got := r.lines(r.target, "SELECT outcome || ' ' || complete FROM cdc.ddl"); fmt.Sprint(got) != "[done by hand true]" {
		t.Errorf("%q", got)
	}
}

// What is not guessed stops the target, and says why.
func TestDDLRefused(t *testing.T) {
	r := newRig(t, 1, withDDL(control.DDLCapture))
	r.start("n0")
	done := regexp.MustCompile(`INSERT INTO cdc.ddl_done VALUES \('bank', \d+\)`)
	r.simple(r.shards[0], "INSERT INTO accounts VALUES (1, 'x', 1)")
	for _, c := range []struct{ sql, hand, why string }{
		{"ALTER TABLE accounts ADD at timestamptz DEFAULT now()", "ALTER TABLE accounts ADD at timestamptz", `in rows that are there column "at" gets the value of an expression (now()), which only each shard knows`},
		{"ALTER TABLE accounts ADD n serial", "ALTER TABLE accounts ADD n int", "numbers of a sequence"},
		{"CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'ALTER TABLE accounts ADD z int'; SELECT f()", "ALTER TABLE accounts ADD z int", "does not show its statements"},
		{"CREATE TABLE copy AS SELECT 1 AS a", "CREATE TABLE copy (a int)", "the rows that it makes are not in the stream"},
	} {
		r.simple(r.shards[0], c.sql)
		stuck := r.settled()
		if !strings.Contains(stuck, c.why) || !strings.Contains(stuck, "Try: on the target") {
			t.Errorf("%s: stuck at %q", c.sql, stuck)
		}
		r.simple(r.target, c.hand+"; "+done.FindString(stuck))
		r.applied()
	}
	// An error of the target; it goes on when that is mended.
	r.simple(r.shards[0], "CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
	r.applied()
	r.simple(r.target, "DROP DOMAIN positive")
	r.simple(r.shards[0], "ALTER TABLE accounts ADD p positive")
	if stuck := r.settled(); !strings.Contains(stuck, `type "positive" does not exist`) || !strings.Contains(stuck, "ALTER TABLE accounts ADD p positive") {
		t.Errorf("stuck at %q", stuck)
	}
	r.simple(r.target, "CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
	r.applied()
	// What anybody may write is not run.
	for _, forged := range []string{`{"subscription":"bank","statement":"DROP TABLE accounts","tag":"DROP TABLE","nth":1,"search_path":"public","objects":[{"type":"table","schema":"public","name":"accounts","dropped":true}]}`, "nonsense"} {
		r.simple(r.shards[0], "SELECT pg_logical_emit_message(true, 'cdc.ddl', '"+forged+"')")
	}
	r.simple(r.shards[0], `SELECT pg_logical_emit_message(true, 'cdc.copy', '{"mark":"begin","job":"j","target_rows":"truncate","tables":[{"schema":"public","table":"accounts","keyed":true}]}')`)
	before := r.lines(r.target, "SELECT count(*) FROM accounts")
	r.applied()
	if after := r.lines(r.target, "SELECT count(*) FROM accounts WHERE id < 9"); after[0] == "0" || after[0] != before[0] {
		t.Errorf("%s rows before the forged mark, %s after", before, after)
	}
	// Somebody was faster.
	r.simple(r.target, "ALTER TABLE accounts ADD already int")
	r.simple(r.shards[0], "ALTER TABLE accounts ADD already int; INSERT INTO accounts (id, already) VALUES (9, 9)")
	r.applied()
	if got := r.lines(r.target, "SELECT outcome FROM cdc.ddl ORDER BY id DESC LIMIT 1"); got[0] != "was so already" {
		t.Errorf("outcome %q", got)
	}
}

// A new table is made on the target by its statement, joins by itself, and is copied; one that changes while it is copied
// becomes the same all the same.
func TestDDLAndCopies(t *testing.T) {
	r := newRig(t, 2, withDDL(control.DDLCapture), func(s *subscribe.Spec) {
		s.FollowNewTables, s.CopyData, s.Copy = true, true, control.CopyOptions{Parallel: 2, Rate: 400_000}
	})
	for i, c := range r.shards {
		r.simple(c, fmt.Sprintf("INSERT INTO accounts SELECT n * 2 + %d, repeat('x', 100), n FROM generate_series(1, 10000) n", i))
	}
	r.start("n0")
	for i, c := range r.shards {
		r.simple(c, fmt.Sprintf("CREATE TABLE fresh (id int PRIMARY KEY, v text); INSERT INTO fresh VALUES (%d, 'v')", i))
	}
	for n, sql := range []string{"ALTER TABLE accounts RENAME owner TO holder", "ALTER TABLE accounts ADD c int DEFAULT 5", "ALTER TABLE accounts DROP balance"} {
		for k := range r.shards {
			c := r.shards[(n+k)%2]
			r.simple(c, sql)
			r.simple(c, fmt.Sprintf("DELETE FROM accounts WHERE id %% 1000 = %d; UPDATE accounts SET id = id + 1000000 WHERE id %% 500 = %d", 2*n+k, 2*n+k))
		}
		r.appliedDDL(sql)
	}
	pausetest.Within(time.Minute, t, "everything is copied", func() bool {
		if stuck := r.settled(); stuck != "" {
			t.Fatal(stuck)
		}
		return len(r.lines(r.target, "SELECT 'x' FROM pg_class WHERE relname = 'fresh'")) == 1 && len(r.lines(r.target, "SELECT v FROM fresh")) == 2 &&
			len(r.lines(r.target, "SELECT table_name FROM cdc.copying")) == 0
	})
	r.applied()
	r.same("accounts", "fresh")
}
