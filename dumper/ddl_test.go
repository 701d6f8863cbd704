package dumper_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// ddlShard is a shard with the triggers of a subscription on it.
type ddlShard struct {
	*shard
	spec dumper.DDLSpec
}

func newDDLShard(t *testing.T, tables ...string) *ddlShard {
	s := &ddlShard{shard: newShard(t)}
	s.spec = dumper.DDLSpec{DSN: s.src.DSN, Name: "a", Subscription: "bank", Token: "secret", Publications: []string{"p"}, Tables: tables}
	if err := dumper.InstallDDL(t.Context(), s.spec); err != nil {
		t.Fatal(err)
	}
	return s
}

// marks reads the marks since the last call.
func (s *ddlShard) marks() (all []mark.DDL) {
	s.t.Helper()
	rows, err := s.conn.Query(context.Background(), `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`, s.src.Slot)
	if err != nil {
		s.t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		s.t.Fatal(err)
	}
	for _, msg := range messages {
		var c pipeline.Change
		if msg[0] == byte(pipeline.Message) {
			if err := pipeline.ParseChange(msg, &c); err != nil {
				s.t.Fatal(err)
			}
		}
		if c.Prefix != mark.DDLPrefix {
			continue
		}
		d, ok, err := mark.DDLOf(&c)
		if err != nil || !ok {
			s.t.Fatalf("%s: %v", c.Content, err)
		}
		all = append(all, d)
	}
	return all
}

// brief is one line per mark.
func brief(marks []mark.DDL) (lines []string) {
	for _, d := range marks {
		line := fmt.Sprintf("%s %d: %s ->", d.Tag, d.Nth, d.Statement)
		slices.SortFunc(d.Objects, func(a, b mark.DDLObject) int {
			return strings.Compare(fmt.Sprintf("%v %v", !a.Dropped, a), fmt.Sprintf("%v %v", !b.Dropped, b))
		})
		for _, o := range d.Objects {
			line += " "
			if o.Dropped {
				line += "-"
			}
			if o.Published {
				line += "published "
			}
			line += o.Type + " " + o.Schema + "." + o.Name
			if o.Column != "" {
				line += "." + o.Column
			}
		}
		for _, f := range d.Filled {
			line += " filled " + f.String()
		}
		if d.Nested {
			line += " nested"
		}
		if d.Inexact != "" {
			line += " inexact: " + d.Inexact
		}
		lines = append(lines, line)
	}
	return lines
}

func TestDDLMarks(t *testing.T) {
	s := newDDLShard(t, "public.*", "-public.audit*")
	exec(t, s.conn, "CREATE SCHEMA other")
	if got := s.marks(); got != nil {
		t.Errorf("a schema that no pattern matches: %v", brief(got))
	}
	for _, c := range []struct {
		sql  string
		want []string
	}{
		{"ALTER TABLE t ADD c int", []string{"ALTER TABLE 1: ALTER TABLE t ADD c int -> table public.t"}},
		{"ALTER TABLE t RENAME c TO d", []string{"ALTER TABLE 1: ALTER TABLE t RENAME c TO d -> column public.t.d"}},
		{"ALTER TABLE t ALTER d TYPE bigint", []string{"ALTER TABLE 1: ALTER TABLE t ALTER d TYPE bigint -> table public.t"}},
		{"ALTER TABLE t DROP d", []string{"ALTER TABLE 1: ALTER TABLE t DROP d -> -column public.t.d table public.t"}},
		{"CREATE INDEX ti ON t (v)", []string{"CREATE INDEX 1: CREATE INDEX ti ON t (v) -> index public.ti"}},
		{"CREATE INDEX CONCURRENTLY ti2 ON t (v)", []string{"CREATE INDEX 1: CREATE INDEX CONCURRENTLY ti2 ON t (v) -> index public.ti2"}},
		{"DROP INDEX ti", []string{"DROP INDEX 1: DROP INDEX ti -> -index public.ti"}},
		{"DROP INDEX CONCURRENTLY ti2", []string{"DROP INDEX 1: DROP INDEX CONCURRENTLY ti2 -> -index public.ti2"}},
		{"CREATE TYPE mood AS ENUM ('sad')", []string{"CREATE TYPE 1: CREATE TYPE mood AS ENUM ('sad') -> type public.mood"}},
		{"ALTER TYPE mood ADD VALUE 'glad'", []string{"ALTER TYPE 1: ALTER TYPE mood ADD VALUE 'glad' -> type public.mood"}},
		{"DROP TYPE mood", []string{"DROP TYPE 1: DROP TYPE mood -> -type public.mood"}},
		{"CREATE DOMAIN dom AS int; ALTER DOMAIN dom ADD CONSTRAINT k CHECK (VALUE > 0); DROP DOMAIN dom", []string{
			"CREATE DOMAIN 1: CREATE DOMAIN dom AS int; ALTER DOMAIN dom ADD CONSTRAINT k CHECK (VALUE > 0); DROP DOMAIN dom -> type public.dom",
			"ALTER DOMAIN 1: CREATE DOMAIN dom AS int; ALTER DOMAIN dom ADD CONSTRAINT k CHECK (VALUE > 0); DROP DOMAIN dom -> type public.dom",
			"DROP DOMAIN 1: CREATE DOMAIN dom AS int; ALTER DOMAIN dom ADD CONSTRAINT k CHECK (VALUE > 0); DROP DOMAIN dom -> -type public.dom",
		}},
		{"CREATE TYPE comp AS (a int)", []string{"CREATE TYPE 1: CREATE TYPE comp AS (a int) -> type public.comp"}},
		{"ALTER TYPE comp ADD ATTRIBUTE b int", []string{"ALTER TYPE 1: ALTER TYPE comp ADD ATTRIBUTE b int -> type public.comp"}},
		{"CREATE TABLE n (id serial PRIMARY KEY, u int UNIQUE)", []string{"CREATE TABLE 1: CREATE TABLE n (id serial PRIMARY KEY, u int UNIQUE) -> index public.n_pkey index public.n_u_key table public.n"}},
		{"ALTER TABLE n RENAME TO n2", []string{"ALTER TABLE 1: ALTER TABLE n RENAME TO n2 -> table public.n2"}},
		{"DROP TABLE n2", []string{"DROP TABLE 1: DROP TABLE n2 -> -table public.n2"}},
		{"CREATE TABLE q AS SELECT 1 AS a", []string{"CREATE TABLE AS 1: CREATE TABLE q AS SELECT 1 AS a -> table public.q"}},
		{`CREATE TABLE "Odd "".x" (a int)`, []string{`CREATE TABLE 1: CREATE TABLE "Odd "".x" (a int) -> table public.Odd ".x`}},
		{`DROP TABLE "Odd "".x"`, []string{`DROP TABLE 1: DROP TABLE "Odd "".x" -> -table public.Odd ".x`}},
		{"CREATE TABLE pd (a int PRIMARY KEY); ALTER PUBLICATION p ADD TABLE pd; DROP TABLE pd", []string{
			"CREATE TABLE 1: CREATE TABLE pd (a int PRIMARY KEY); ALTER PUBLICATION p ADD TABLE pd; DROP TABLE pd -> index public.pd_pkey table public.pd",
			"DROP TABLE 1: CREATE TABLE pd (a int PRIMARY KEY); ALTER PUBLICATION p ADD TABLE pd; DROP TABLE pd -> -published table public.pd",
		}},
		// Several in one text, and those that are not about the subscription.
		{"ALTER TABLE t ADD a int; CREATE TABLE other.x (a int); ALTER TABLE other.x ADD b int; ALTER TABLE t ADD b int", []string{
			"ALTER TABLE 1: ALTER TABLE t ADD a int; CREATE TABLE other.x (a int); ALTER TABLE other.x ADD b int; ALTER TABLE t ADD b int -> table public.t",
			"ALTER TABLE 3: ALTER TABLE t ADD a int; CREATE TABLE other.x (a int); ALTER TABLE other.x ADD b int; ALTER TABLE t ADD b int -> table public.t",
		}},
		// What runs inside of functions.
		{"DO $$BEGIN ALTER TABLE t ADD x int; EXECUTE 'ALTER TABLE t ADD \"y\ny\" text DEFAULT ''a\"b'''; END$$", []string{
			"ALTER TABLE 0: ALTER TABLE t ADD x int -> table public.t nested",
			"ALTER TABLE 0: ALTER TABLE t ADD \"y\ny\" text DEFAULT 'a\"b' -> table public.t nested",
		}},
		{"DO $$BEGIN ALTER TABLE t DROP x; END$$; ALTER TABLE t ADD w int", []string{
			"ALTER TABLE 0: ALTER TABLE t DROP x -> -column public.t.x table public.t nested",
			"ALTER TABLE 1: DO $$BEGIN ALTER TABLE t DROP x; END$$; ALTER TABLE t ADD w int -> table public.t",
		}},
		{"CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'ALTER TABLE t ADD z int'; SELECT f()", []string{
			"ALTER TABLE 0: CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'ALTER TABLE t ADD z int'; SELECT f() -> table public.t nested inexact: it was run by something that does not show its statements: SQL function \"f\" statement 1",
		}},
		// Nothing to do with the subscription.
		{"CREATE TEMP TABLE tt (a int); ALTER TABLE tt ADD b int; CREATE TYPE pg_temp.e AS ENUM ('a'); DROP TABLE tt", nil},
		{"CREATE UNLOGGED TABLE fleeting (a int); ALTER TABLE fleeting ADD b int", nil},
		{"CREATE TABLE audit1 (a int); ALTER TABLE audit1 ADD b int; CREATE INDEX ON audit1 (a); DROP TABLE audit1", nil},
		{"CREATE VIEW v AS SELECT 1; COMMENT ON TABLE t IS 'x'; GRANT SELECT ON t TO PUBLIC; CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'", nil},
		{"CREATE EXTENSION citext; DROP EXTENSION citext", nil},
		{"BEGIN; ALTER TABLE t ADD gone int; ROLLBACK", nil},
		// Columns that go with something else.
		{"CREATE TYPE gone AS ENUM ('a'); ALTER TABLE t ADD e gone; DROP TYPE gone CASCADE", []string{
			"CREATE TYPE 1: CREATE TYPE gone AS ENUM ('a'); ALTER TABLE t ADD e gone; DROP TYPE gone CASCADE -> type public.gone",
			"ALTER TABLE 1: CREATE TYPE gone AS ENUM ('a'); ALTER TABLE t ADD e gone; DROP TYPE gone CASCADE -> table public.t",
			"DROP TYPE 1: CREATE TYPE gone AS ENUM ('a'); ALTER TABLE t ADD e gone; DROP TYPE gone CASCADE -> -column public.t.e -type public.gone",
		}},
		{"CREATE TABLE r (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (9)", []string{
			"CREATE TABLE 1: CREATE TABLE r (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (9) -> index public.r_pkey table public.r",
			"CREATE TABLE 2: CREATE TABLE r (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (9) -> table public.r1",
		}},
		{"ALTER TABLE r DETACH PARTITION r1", []string{"ALTER TABLE 1: ALTER TABLE r DETACH PARTITION r1 -> table public.r"}},
		{"INSERT INTO r1 VALUES (1)", nil},
		{"ALTER TABLE r ATTACH PARTITION r1 FOR VALUES FROM (0) TO (9)", []string{"ALTER TABLE 1: ALTER TABLE r ATTACH PARTITION r1 FOR VALUES FROM (0) TO (9) -> table public.r filled public.r1"}},
	} {
		exec(t, s.conn, c.sql)
		if diff := cmp.Diff(c.want, brief(s.marks())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.sql, diff)
		}
	}
}

// A mark stands in front of what comes after its statement, also when a subtransaction ran it.
func TestDDLMarkBeforeRows(t *testing.T) {
	s := newDDLShard(t, "public.*")
	for _, begin := range []string{"BEGIN", "BEGIN; SAVEPOINT s"} {
		for _, end := range []string{"COMMIT", "PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'"} {
			after := strings.Repeat("; RELEASE s", strings.Count(begin, "SAVEPOINT"))
			for _, sql := range strings.Split(begin+"; ALTER TABLE t ADD c int"+after+"; INSERT INTO t VALUES (1, 'a'); ALTER TABLE t DROP c; DELETE FROM t; "+end, "; ") {
				exec(t, s.conn, sql)
			}
			rows, err := s.conn.Query(context.Background(), `SELECT string_agg(chr(get_byte(data, 0)), '') FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
				'proto_version', '3', 'publication_names', 'p', 'messages', 'true', 'two_phase', 'on') WHERE get_byte(data, 0) NOT IN (ascii('R'))`, s.src.Slot)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			if err != nil || !strings.Contains(strings.ReplaceAll(got, "MM", "M"), "MIMD") {
				t.Errorf("%s … %s: %s %v", begin, end, got, err)
			}
		}
	}
}

// A mark tells where names are looked up and what the text depends on, whoever runs the statement and however.
func TestDDLMarkOfAnotherUser(t *testing.T) {
	s := newDDLShard(t, "*.*")
	exec(t, s.conn, "CREATE ROLE someone"+s.src.Slot, `CREATE SCHEMA "App"`, `GRANT CREATE, USAGE ON SCHEMA "App" TO someone`+s.src.Slot)
	s.marks()
	exec(t, s.conn, "SET ROLE someone"+s.src.Slot, `SET search_path = "$user", "App"; SET TimeZone = 'Asia/Tokyo'`,
		"CREATE TABLE mine (a int)")
	if _, err := s.conn.Exec(t.Context(), "ALTER TABLE mine ADD b int"); err != nil { // as a prepared statement
		t.Fatal(err)
	}
	for _, sql := range []string{"SELECT * FROM cdc.ddl_bank_token", "SELECT cdc.ddl_bank_note('ddl_command_end', '', '', '')"} {
		if _, err := s.conn.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	exec(t, s.conn, "RESET ROLE")
	got := s.marks()
	if len(got) != 2 || got[0].SearchPath != `"App"` || got[0].Token != "secret" || got[0].Settings["TimeZone"] != "Asia/Tokyo" || got[1].Statement != "ALTER TABLE mine ADD b int" {
		t.Errorf("%+v", got)
	}
	exec(t, s.conn, "DROP TABLE \"App\".mine; REVOKE ALL ON SCHEMA \"App\" FROM someone"+s.src.Slot, "DROP ROLE someone"+s.src.Slot)
	s.marks()
	exec(t, s.conn, `CREATE SCHEMA postgres; SET search_path = public, "$user"; CREATE TABLE mine (a int)`, "DROP SCHEMA postgres", "DROP TABLE mine")
	if got := s.marks(); len(got) != 4 || got[1].SearchPath != "public, postgres" || got[3].SearchPath != "public" {
		t.Errorf("%+v", got)
	}
	// As a replication worker would.
	exec(t, s.conn, "RESET ALL; SET session_replication_role = replica; ALTER TABLE t ADD b int")
	if got := s.marks(); len(got) != 1 {
		t.Errorf("as a replica: %v", brief(got))
	}
}

// What cannot be told is told: the statement goes on, and the mark says what happened.
func TestDDLTriggerFails(t *testing.T) {
	s := newDDLShard(t, "public.*")
	exec(t, s.conn, "SELECT set_config('cdc.ddl_bank', 'nonsense', false)", "ALTER TABLE t ADD c int")
	got := s.marks()
	if len(got) != 1 || !strings.Contains(got[0].Inexact, "the event trigger failed: invalid input syntax for type json") || got[0].Statement != "ALTER TABLE t ADD c int" {
		t.Errorf("%+v", got)
	}
}

// everything that a database can have gotten.
const everythingSQL = `SELECT coalesce(string_agg(x, E'\n' ORDER BY x), '') FROM (
  SELECT 'event trigger ' || evtname AS x FROM pg_event_trigger UNION ALL
  SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384 UNION ALL
  SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp' UNION ALL
  SELECT 'depends ' || classid::regclass || ' ' || refclassid::regclass || ' ' || count(*) FROM pg_depend WHERE NOT (classid = 'pg_class'::regclass AND objid < 16384) GROUP BY classid, refclassid UNION ALL
  SELECT 'description ' || description FROM pg_description WHERE objoid >= 16384) x`

// Uninstalling leaves nothing, and what others have in the schema stays.
func TestDDLUninstall(t *testing.T) {
	s := newShard(t)
	spec := dumper.DDLSpec{DSN: s.src.DSN, Name: "a", Subscription: "bank", Publications: []string{"p"}, Tables: []string{"public.*"}}
	other := spec
	other.Subscription = "bank_ddl"
	var before, after string
	row(t, s.conn, everythingSQL, &before)
	for range 2 { // it may be repeated, also with other patterns
		for _, spec := range []dumper.DDLSpec{spec, other} {
			if err := dumper.InstallDDL(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
		}
	}
	there, err := dumper.InspectDDL(t.Context(), spec)
	want := []string{
		"event trigger cdc_bank_ddl_drop", "event trigger cdc_bank_ddl_end", "function cdc.ddl_bank", "function cdc.ddl_bank_filled", "function cdc.ddl_bank_note", "table cdc.ddl_bank_token",
	}
	if diff := cmp.Diff(want, there); diff != "" || err != nil {
		t.Error(diff, err)
	}
	removed, err := dumper.UninstallDDL(t.Context(), spec)
	if diff := cmp.Diff(want, removed); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if there, err = dumper.InspectDDL(t.Context(), other); len(there) != 6 || err != nil {
		t.Error(there, err)
	}
	if _, err = dumper.UninstallDDL(t.Context(), other); err != nil {
		t.Error(err)
	}
	row(t, s.conn, everythingSQL, &after)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	if removed, err = dumper.UninstallDDL(t.Context(), spec); removed != nil || err != nil {
		t.Error(removed, err)
	}
	exec(t, s.conn, "CREATE SCHEMA cdc; CREATE TABLE cdc.progress (a int)")
	if err := dumper.InstallDDL(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err = dumper.UninstallDDL(t.Context(), spec); err != nil {
		t.Error(err)
	}
	exec(t, s.conn, "DROP TABLE cdc.progress; DROP SCHEMA cdc")
}

func TestDDLNeedsASuperuser(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "CREATE ROLE plain LOGIN", "GRANT CREATE ON DATABASE "+s.conn.Config().Database+" TO plain")
	spec := dumper.DDLSpec{DSN: strings.Replace(s.src.DSN, "//postgres@", "//plain@", 1), Name: "a", Subscription: "bank", Publications: []string{"p"}}
	err := dumper.InstallDDL(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "Try: ALTER ROLE … SUPERUSER") {
		t.Error(spec.DSN, err)
	}
	exec(t, s.conn, "REVOKE CREATE ON DATABASE "+s.conn.Config().Database+" FROM plain", "DROP ROLE plain")
}

// The role that reads the shards is called cdc, as the schema is, and was a superuser only while the triggers were made.
func TestDDLOwnerIsASuperuserNoMore(t *testing.T) {
	s := newShard(t)
	exec(t, s.conn, "CREATE ROLE cdc LOGIN SUPERUSER")
	spec := dumper.DDLSpec{DSN: strings.Replace(s.src.DSN, "//postgres@", "//cdc@", 1), Name: "a", Subscription: "bank", Publications: []string{"p"}, Tables: []string{"public.*"}}
	if err := dumper.InstallDDL(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	d := &ddlShard{shard: s, spec: spec}
	check := func(c string) {
		t.Helper()
		exec(t, s.conn, "ALTER TABLE t ADD "+c+" int")
		if got := d.marks(); len(got) != 1 || got[0].Inexact != "" || got[0].Nested {
			t.Errorf("%s: %+v", c, got)
		}
	}
	check("a")
	exec(t, s.conn, "SET lc_messages = 'C.UTF-8'")
	check("b")
	var language string
	if row(t, s.conn, "SHOW lc_messages", &language); language != "C.UTF-8" {
		t.Errorf("the session speaks %s", language)
	}
	exec(t, s.conn, "ALTER ROLE cdc NOSUPERUSER; GRANT CREATE ON DATABASE "+s.conn.Config().Database+" TO cdc")
	check("c")
	exec(t, s.conn, "RESET lc_messages")
	check("d")
	spec.Tables = []string{"public.*", "other.*"} // a table joins
	if err := dumper.InstallDDL(t.Context(), spec); err != nil {
		t.Error(err)
	}
	check("e")
	if _, err := dumper.UninstallDDL(t.Context(), spec); err != nil {
		t.Error(err)
	}
	exec(t, s.conn, "DROP OWNED BY cdc", "DROP ROLE cdc")
}
