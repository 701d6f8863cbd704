package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
	"shardcdc/pipeline"
)

// TestShapes runs one shape of table per case: DDL on both sides, then steps on the source, each replayed.
func TestShapes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		ddl    string   // on both
		target string   // on the target besides, or
		source []string // steps
		tables string   // compared after every step
	}{
		{
			name: "toast",
			ddl: `CREATE TABLE t (id int PRIMARY KEY, a text, b text, n int); ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
				CREATE TABLE f (id int, a text, n int); ALTER TABLE f ALTER a SET STORAGE EXTERNAL; ALTER TABLE f REPLICA IDENTITY FULL`,
			source: []string{
				"INSERT INTO t VALUES (1, repeat('a', 9000), repeat('b', 9000), 1), (2, NULL, '', 2); INSERT INTO f VALUES (1, repeat('a', 9000), 1)",
				"UPDATE t SET n = 7; UPDATE f SET n = 7", "UPDATE t SET a = repeat('c', 9000) WHERE id = 1", "UPDATE t SET b = NULL", "UPDATE t SET a = '' WHERE id = 1",
				"UPDATE t SET a = repeat('d', 9000); UPDATE t SET id = id + 10", "UPDATE f SET id = 2",
			},
			tables: "t f",
		},
		{
			name: "toast key",
			ddl:  "CREATE TABLE t (k text PRIMARY KEY, n int); ALTER TABLE t ALTER k SET STORAGE EXTERNAL",
			source: []string{
				"INSERT INTO t VALUES (repeat('k', 2500), 1)", "UPDATE t SET n = 2", "UPDATE t SET k = repeat('l', 2500)", "INSERT INTO t VALUES ('x', 1); DELETE FROM t WHERE n = 2",
			},
			tables: "t",
		},
		{
			name: "identity index",
			ddl: `CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, v text); CREATE UNIQUE INDEX u ON t (b, a);
				ALTER TABLE t REPLICA IDENTITY USING INDEX u`,
			source: []string{
				"INSERT INTO t VALUES (1, 1, 'x', 'v'), (2, 1, 'y', 'v')", "UPDATE t SET v = 'w'", "UPDATE t SET id = id + 5", "UPDATE t SET b = b || 'z'", "DELETE FROM t WHERE id = 6",
			},
			tables: "t",
		},
		{
			name: "duplicates",
			ddl:  "CREATE TABLE t (a int, b text, j json, p point); ALTER TABLE t REPLICA IDENTITY FULL; CREATE INDEX ON t (a)",
			source: []string{
				`INSERT INTO t SELECT 1, 'x', '{"a": 1}', '(0,0)' FROM generate_series(1, 4); INSERT INTO t SELECT NULL, NULL, NULL, NULL FROM generate_series(1, 3);
				 INSERT INTO t VALUES (1, 'x', '{"a":1}', '(0,0)'), (1, 'x', '{"a": 1}', '(1e-7,0)')`,
				"DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE b = 'x')",
				"DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE b IS NULL)",
				"UPDATE t SET b = 'y' WHERE ctid = (SELECT max(ctid) FROM t WHERE b IS NULL)",
				"UPDATE t SET a = 2 WHERE p::text = '(1e-07,0)'", "UPDATE t SET a = a", "UPDATE t SET a = 3",
			},
			tables: "t",
		},
		{
			name:   "full with a key",
			ddl:    "CREATE TABLE t (id int PRIMARY KEY, v float8, j json); ALTER TABLE t REPLICA IDENTITY FULL",
			source: []string{"INSERT INTO t VALUES (1, '-0', '{}'), (2, 0, '[]')", "UPDATE t SET v = -v", "UPDATE t SET id = id + 1 WHERE id = 2", "UPDATE t SET id = 9 WHERE id = 1", "DELETE FROM t WHERE id = 9"},
			tables: "t",
		},
		{
			name:   "deferrable key",
			ddl:    "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v int); ALTER TABLE t REPLICA IDENTITY FULL",
			source: []string{"INSERT INTO t VALUES (1, 1), (2, 2)", "UPDATE t SET id = 3 - id", "UPDATE t SET id = 3 - id, v = 5"},
			tables: "t",
		},
		{
			name: "key updates",
			ddl: `CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE, v text); CREATE TABLE c (k char(4) PRIMARY KEY, v int);
				CREATE TABLE n (k numeric, f float8, v int, PRIMARY KEY (f, k))`,
			source: []string{
				"INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')", "UPDATE t SET u = 3 - u WHERE u < 3", "UPDATE t SET id = -id",
				"DELETE FROM t WHERE id = -1; UPDATE t SET id = -1 WHERE id = -2", "UPDATE t SET id = id",
				"INSERT INTO c VALUES ('a', 1); UPDATE c SET k = 'a  '; UPDATE c SET v = 2; INSERT INTO n VALUES (1.0, '-0', 1); UPDATE n SET f = 0; UPDATE n SET k = 1.00, f = '-0'; UPDATE n SET v = 3",
			},
			tables: "t",
		},
		{
			name: "zero columns", ddl: "CREATE TABLE z (); ALTER TABLE z REPLICA IDENTITY FULL; CREATE TABLE g (a int GENERATED ALWAYS AS (1) STORED)",
			source: []string{"INSERT INTO z DEFAULT VALUES; INSERT INTO z DEFAULT VALUES; INSERT INTO z DEFAULT VALUES; INSERT INTO g DEFAULT VALUES", "DELETE FROM z WHERE ctid = (SELECT min(ctid) FROM z)"},
			tables: "z g",
		},
		{
			name: "constraint triggers that always fire", ddl: "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE)",
			target: `DO $$ DECLARE n name; BEGIN FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass LOOP
				EXECUTE format('ALTER TABLE t ENABLE ALWAYS TRIGGER %I', n); END LOOP; END $$`,
			source: []string{"INSERT INTO t VALUES (1, 1), (2, 2)", "UPDATE t SET u = 3 - u"}, tables: "t",
		},
		{
			name: "identity columns",
			ddl:  "CREATE TABLE a (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v int); CREATE TABLE b (id int PRIMARY KEY, s int GENERATED ALWAYS AS IDENTITY, v int)",
			source: []string{
				"INSERT INTO a (v) VALUES (1), (2); INSERT INTO b (id, v) VALUES (1, 1), (2, 2)", "UPDATE a SET v = 5; UPDATE b SET v = 5", "UPDATE b SET id = 7 WHERE id = 2",
				"DELETE FROM a WHERE id = 1",
			},
			tables: "a b",
		},
		{
			name:   "generated columns",
			ddl:    "CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED); CREATE TABLE f (a int, g int GENERATED ALWAYS AS (a * 2) STORED); ALTER TABLE f REPLICA IDENTITY FULL",
			source: []string{"INSERT INTO t VALUES (1, 2); INSERT INTO f VALUES (1), (1)", "UPDATE t SET a = 5; UPDATE f SET a = 2 WHERE ctid = (SELECT min(ctid) FROM f)", "DELETE FROM f WHERE a = 1"},
			tables: "t f",
		},
		{
			name: "names",
			ddl: `CREATE SCHEMA "s.ch.""q"; CREATE TABLE "s.ch.""q"."Ünï.cödé 日本語" ("select" int PRIMARY KEY, "a b'" text, "%d" text, "\x" text, "Id" int, "id" int, "$1" int);
				CREATE TABLE "order" ("t" int PRIMARY KEY, "s" int, "x" int); CREATE TABLE "t" (t int, s int); ALTER TABLE t REPLICA IDENTITY FULL`,
			source: []string{
				`INSERT INTO "s.ch.""q"."Ünï.cödé 日本語" VALUES (1, 'a', 'b', 'c', 1, 2, 3); INSERT INTO "order" VALUES (1, 1); INSERT INTO t VALUES (1, 1)`,
				`UPDATE "s.ch.""q"."Ünï.cödé 日本語" SET "a b'" = '$1', "select" = 5; UPDATE "order" SET s = 2; UPDATE t SET s = 2`,
			},
			tables: `"s.ch.""q"."Ünï.cödé_日本語" "order" t`,
		},
		{
			name: "foreign keys and triggers",
			ddl: `CREATE TABLE parent (id int PRIMARY KEY, up int REFERENCES parent ON DELETE CASCADE); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE);
				CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
				CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit (what) VALUES (TG_OP); RETURN NULL; END';
				CREATE TRIGGER tr AFTER INSERT OR UPDATE OR DELETE ON child FOR EACH ROW EXECUTE FUNCTION f()`,
			source: []string{"INSERT INTO parent VALUES (1, 2), (2, 1), (3, 3)", "INSERT INTO child VALUES (1, 1), (2, 2), (3, 3)", "UPDATE child SET p = 3 WHERE id = 1", "DELETE FROM parent WHERE id = 2"},
			tables: "parent child audit",
		},
		{
			name: "partitions",
			ddl: `CREATE TABLE p (id int, r text, v int) PARTITION BY LIST (r); CREATE TABLE p1 (v int, r text, id int); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN ('a');
				CREATE TABLE p2 PARTITION OF p FOR VALUES IN ('b'); ALTER TABLE p REPLICA IDENTITY FULL; ALTER TABLE p1 REPLICA IDENTITY FULL; ALTER TABLE p2 REPLICA IDENTITY FULL`,
			source: []string{"INSERT INTO p VALUES (1, 'a', 1), (1, 'a', 1), (2, 'b', 2), (2, 'b', 2)", "UPDATE p SET v = 5 WHERE ctid = (SELECT min(ctid) FROM p1) AND r = 'a'", "UPDATE p SET r = 'b' WHERE v = 5"},
			tables: "p",
		},
		{
			name:   "partitioned target only",
			target: "CREATE TABLE t (id int, r text, v int) PARTITION BY LIST (r); CREATE TABLE t1 PARTITION OF t FOR VALUES IN ('a'); CREATE TABLE t2 PARTITION OF t FOR VALUES IN ('b')",
			source: []string{
				"CREATE TABLE t (id int, r text, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'a', 1), (1, 'a', 1), (1, 'b', 1)",
				"UPDATE t SET v = 2 WHERE ctid = (SELECT min(ctid) FROM t)", "UPDATE t SET r = 'b' WHERE v = 2", "UPDATE t SET v = v", "DELETE FROM t WHERE v = 1 AND r = 'a'", "TRUNCATE t; INSERT INTO t VALUES (9, 'a', 9)",
			},
			tables: "t",
		},
		{
			name: "inheritance", ddl: "CREATE TABLE u (id int PRIMARY KEY, v int); CREATE TABLE d (PRIMARY KEY (id)) INHERITS (u)",
			source: []string{"INSERT INTO u VALUES (1, 1); INSERT INTO d VALUES (1, 2)", "UPDATE u SET v = 3 WHERE v = 1", "UPDATE d SET v = 4", "DELETE FROM ONLY u; INSERT INTO u VALUES (5, 5)"},
			tables: "u d",
		},
		{
			name: "keys with operators of an extension", ddl: "CREATE EXTENSION citext; CREATE TABLE t (k citext PRIMARY KEY, v int); CREATE EXTENSION hstore; CREATE TABLE h (k hstore PRIMARY KEY, v int)",
			source: []string{"INSERT INTO t VALUES ('Abc', 1); INSERT INTO h VALUES ('a=>1', 1)", "UPDATE h SET v = 2", "UPDATE t SET v = 2", "UPDATE t SET k = 'ABC'", "UPDATE t SET v = 3"},
			tables: "t h",
		},
		{
			name: "truncate", ddl: "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int REFERENCES a, v int); CREATE TABLE c (v int)",
			source: []string{
				"INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1); INSERT INTO c VALUES (1)",
				"BEGIN; INSERT INTO c VALUES (2); INSERT INTO a VALUES (2); TRUNCATE a CASCADE; INSERT INTO a VALUES (5); INSERT INTO b VALUES (5, 5); TRUNCATE b; INSERT INTO b VALUES (5, 6); COMMIT",
				"TRUNCATE c; INSERT INTO c VALUES (7); TRUNCATE a, b RESTART IDENTITY; INSERT INTO a DEFAULT VALUES; INSERT INTO b VALUES (1, 1)",
			},
			tables: "a b c",
		},
		{
			name: "nothing", ddl: "CREATE TABLE t (v int); ALTER TABLE t REPLICA IDENTITY NOTHING",
			source: []string{"INSERT INTO t VALUES (1), (1), (NULL)"}, tables: "t",
		},
		{
			name: "messages", ddl: "CREATE TABLE t (v int)",
			source: []string{"BEGIN; SELECT pg_logical_emit_message(true, 'x', 'y'); INSERT INTO t VALUES (1); COMMIT"}, tables: "t",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			if tc.ddl != "" {
				w.both(tc.ddl)
			}
			if tc.target != "" {
				w.target.exec(tc.target)
			}
			for _, step := range tc.source {
				w.source(step)
				if err := w.try(w.capture()); err != nil {
					t.Fatalf("%s: %v", step, err)
				}
				for _, table := range strings.Fields(tc.tables) {
					w.same(strings.ReplaceAll(table, "_日", " 日"))
				}
				if t.Failed() {
					t.Fatalf("after %s", step)
				}
			}
			for _, table := range strings.Fields(tc.tables) {
				w.proves(strings.ReplaceAll(table, "_日", " 日"))
			}
		})
	}
}

func TestOtherColumnOrderAndExtraColumns(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
	w.target.exec("CREATE TABLE t (extra text DEFAULT 'kept', b text, dropped int, id int PRIMARY KEY, a text); ALTER TABLE t DROP COLUMN dropped")
	w.source("INSERT INTO t VALUES (1, 'a', NULL), (2, '', 'b'); UPDATE t SET a = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2")
	w.replay()
	if got, want := w.target.rows("SELECT id, a, b, extra FROM t"), "1|x|∅|kept\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestVirtualColumns: the target computes what the source sends, and it stores it nowhere.
func TestVirtualColumns(t *testing.T) {
	if server.Version() < 18 {
		t.Skip("virtual generated columns are new in PostgreSQL 18")
	}
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, a int, g int); CREATE TABLE f (a int, g int); ALTER TABLE f REPLICA IDENTITY FULL")
	w.target.exec("CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2)); CREATE TABLE f (a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL)")
	for _, step := range []string{"INSERT INTO t VALUES (1, 1, 2), (2, 2, 4); INSERT INTO f VALUES (1, 2), (1, 2)", "UPDATE t SET a = 5, g = 10; UPDATE f SET a = 2, g = 4", "DELETE FROM t WHERE id = 2; DELETE FROM f WHERE ctid = (SELECT min(ctid) FROM f)"} {
		w.source(step)
		if err := w.try(w.capture()); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		w.same("t")
		w.same("f")
	}
}

// TestGeneratedOnTheTargetOnly: what the source sends for such a column is left out.
func TestGeneratedOnTheTargetOnly(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, a int, g int); CREATE TABLE f (a int, g int); ALTER TABLE f REPLICA IDENTITY FULL")
	w.target.exec("CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED); CREATE TABLE f (a int, g int GENERATED ALWAYS AS (a * 2) STORED)")
	w.source("INSERT INTO t VALUES (1, 2, 99); UPDATE t SET a = 3; INSERT INTO f VALUES (1, 99), (2, 99); UPDATE f SET a = 5 WHERE a = 1; DELETE FROM f WHERE a = 2")
	w.replay()
	if got, want := w.target.rows("SELECT * FROM t")+w.target.rows("SELECT * FROM f"), "1|3|6\n5|10\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestManyColumns(t *testing.T) {
	w := newWorld(t, 1)
	var columns []string
	for i := range 1600 {
		columns = append(columns, fmt.Sprintf("c%d bool", i))
	}
	w.both("CREATE TABLE t (" + strings.Join(columns, ", ") + "); ALTER TABLE t REPLICA IDENTITY FULL")
	w.source("INSERT INTO t (c0, c1599) VALUES (true, false), (true, false), (NULL, true); UPDATE t SET c800 = true WHERE c1599; DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)")
	w.replay()
	w.same("t")
}

// TestBinary: values of kind 'b' pass as they are.
func TestBinary(t *testing.T) {
	w := newWorld(t, 1)
	w.binary = "true"
	w.both(`CREATE TABLE t (id bigint PRIMARY KEY, a text, n numeric, ts timestamptz, f float8, u uuid, j jsonb, x int[], y bytea, z text);
		CREATE TABLE f (n numeric, ts timestamptz, r int4range); ALTER TABLE f REPLICA IDENTITY FULL`)
	w.source(`INSERT INTO t VALUES (1, 'a', 1.10, '2024-01-01', '-0', gen_random_uuid(), '{"a": 1}', '{1,NULL}', '\x00ff', '');
		INSERT INTO t (id, n, ts) VALUES (2, 'NaN', 'infinity');
		INSERT INTO f VALUES (1.10, 'infinity', '[1,5]'), (1.1, NULL, 'empty')`)
	w.source("UPDATE t SET id = id + 1 WHERE id = 2; UPDATE t SET a = 'b'; DELETE FROM f WHERE n::text = '1.1'; UPDATE f SET n = 7")
	w.replay()
	w.same("t", "f")
}

// TestBlocked pins what a person reads when the target refuses, mends it, and sees it go on.
func TestBlocked(t *testing.T) {
	for _, tc := range []struct {
		name   string
		source string // DDL and setup, applied first
		target string
		step   string // on the source, is refused
		want   string // part of the error
		mend   string // on the target
		table  string
	}{
		{
			name: "missing table", source: "CREATE TABLE t (id int PRIMARY KEY)", step: "INSERT INTO t VALUES (1)",
			want: `csn 1: table "public"."t": is not on the target. Try: create it there`, mend: "CREATE TABLE t (id int PRIMARY KEY)", table: "t",
		},
		{
			name: "missing column", source: "CREATE TABLE t (id int PRIMARY KEY, new text)", target: "CREATE TABLE t (id int PRIMARY KEY)", step: "INSERT INTO t VALUES (1, 'x')",
			want: `table "public"."t": column "new" of the source is not on the target. Try: ALTER TABLE "public"."t" ADD COLUMN "new"`, mend: "ALTER TABLE t ADD COLUMN new text", table: "t",
		},
		{
			name: "view", source: "CREATE TABLE t (id int PRIMARY KEY)", target: "CREATE VIEW t AS SELECT 1 AS id", step: "INSERT INTO t VALUES (1)",
			want: `is not a table on the target (relkind v)`, mend: "DROP VIEW t; CREATE TABLE t (id int PRIMARY KEY)", table: "t",
		},
		{
			name: "duplicate", source: "CREATE TABLE t (id int PRIMARY KEY, v text)", target: "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (5, 'intruder')", step: "INSERT INTO t VALUES (4, ''), (5, '')",
			want: `csn 1: table "public"."t": row (id)=(5): constraint "t_pkey": insert: ERROR: duplicate key value`, mend: "DELETE FROM t", table: "t",
		},
		{
			name: "missing row", source: "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'), (2, 'y')", target: "CREATE TABLE t (id int PRIMARY KEY, v text)",
			step: "UPDATE t SET v = 'z' WHERE id = 2", want: `table "public"."t": row (id)=(2): update: the row is not on the target. Try: `, mend: "INSERT INTO t VALUES (2, 'y')", table: "t",
		},
		{
			name: "missing row to delete", source: "CREATE TABLE t (a int, j json); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, '{}'), (2, '{}')", target: "CREATE TABLE t (a int, j json)",
			step: "DELETE FROM t WHERE a = 2", want: `table "public"."t": delete: the row is not on the target`, mend: "INSERT INTO t VALUES (2, '{}')", table: "t",
		},
		{
			name: "two rows", source: "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x')", target: "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'x'), (1, 'x')",
			step: "UPDATE t SET v = 'z'", want: `update: 2 rows of the target match one of the source`, mend: "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)", table: "t",
		},
		{
			name: "check", source: "CREATE TABLE t (id int PRIMARY KEY)", target: "CREATE TABLE t (id int PRIMARY KEY CONSTRAINT small CHECK (id < 5))", step: "INSERT INTO t VALUES (7)",
			want: `row (id)=(7): constraint "small": insert: ERROR: new row`, mend: "ALTER TABLE t DROP CONSTRAINT small", table: "t",
		},
		{
			name: "at commit", source: "CREATE TABLE t (id int PRIMARY KEY)", target: `CREATE TABLE t (id int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql
				AS $$BEGIN RAISE check_violation USING MESSAGE = 'no', TABLE = 't', SCHEMA = 'public', CONSTRAINT = 'tr'; END$$;
				CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER tr`,
			step: "INSERT INTO t VALUES (7)", want: `csn 1: table "public"."t": constraint "tr": commit: ERROR: no`, mend: "DROP TRIGGER tr ON t", table: "t",
		},
		{
			name: "narrow", source: "CREATE TABLE t (id int PRIMARY KEY, v text)", target: "CREATE TABLE t (id int PRIMARY KEY, v varchar(2))", step: "INSERT INTO t VALUES (7, 'long')",
			want: `row (id)=(7): insert: ERROR: value too long`, mend: "ALTER TABLE t ALTER v TYPE text", table: "t",
		},
		{
			name: "enum label", source: "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, v e)", target: "CREATE TYPE e AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, v e)", step: "INSERT INTO t VALUES (7, 'b')",
			want: `insert: ERROR: invalid input value for enum`, mend: "ALTER TYPE e ADD VALUE 'b'", table: "t",
		},
		{
			name: "identity always", source: "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)", target: "CREATE TABLE t (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v int)", step: "UPDATE t SET id = 9",
			want: `the source changed column "id", which is GENERATED ALWAYS AS IDENTITY on the target and cannot be updated there. Try: ALTER TABLE "public"."t" ALTER COLUMN "id" SET GENERATED BY DEFAULT`,
			mend: "ALTER TABLE t ALTER COLUMN id SET GENERATED BY DEFAULT; INSERT INTO t VALUES (1, 1)", table: "t",
		},
		{
			name: "identity always besides", source: "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)", target: "CREATE TABLE t (id int PRIMARY KEY, v int GENERATED ALWAYS AS IDENTITY); INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 1)", step: "UPDATE t SET v = 9",
			want: `row (id)=(1): update: the row is not on the target, or the source changed "v"`,
			mend: "ALTER TABLE t ALTER COLUMN v SET GENERATED BY DEFAULT", table: "t",
		},
		{
			name: "swallowed", source: "CREATE TABLE t (id int PRIMARY KEY)",
			target: `CREATE TABLE t (id int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
				CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER tr`,
			step: "INSERT INTO t VALUES (1)", want: `row (id)=(1): the insert was swallowed on the target`, mend: "DROP TRIGGER tr ON t", table: "t",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.source(tc.source)
			w.capture() // what was there before is not replayed
			w.csn = 0
			if tc.target != "" {
				w.target.exec(tc.target)
			}
			w.source(tc.step)
			txs := w.capture()
			for range 2 {
				err := w.try(txs)
				var blocked *apply.Blocked
				if !errors.As(err, &blocked) {
					t.Fatalf("got %v, want a Blocked error", err)
				}
				if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), ". Try: ") {
					t.Fatalf("got  %v\nwant %s", err, tc.want)
				}
				if at := w.progress(); at.Seq != 0 {
					t.Fatalf("progress moved to %s", at)
				}
			}
			w.target.exec(tc.mend)
			if err := w.try(txs); err != nil {
				t.Fatal(err)
			}
			if tc.name != "missing row" && tc.name != "missing row to delete" {
				w.same(tc.table)
			}
		})
	}
}

func (w *world) progress() apply.Progress {
	w.t.Helper()
	w.open()
	return w.at
}

// TestPermission: a role without rights is told what to grant, one at a time, and then works.
func TestPermission(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.source("INSERT INTO t VALUES (1, 1); UPDATE t SET v = 2")
	txs := w.capture()
	w.target.exec("CREATE ROLE limited LOGIN")
	w.cfg.DSN = strings.Replace(w.cfg.DSN, "postgres://postgres@", "postgres://limited@", 1)
	for _, step := range []struct{ want, grant string }{
		{"GRANT SET ON PARAMETER session_replication_role TO \"limited\"", "GRANT SET ON PARAMETER session_replication_role TO limited"},
		{"GRANT CREATE ON DATABASE", "GRANT CREATE ON DATABASE " + w.target.name + " TO limited"},
		{"GRANT the right that is missing", "GRANT SELECT, INSERT, UPDATE, DELETE ON t TO limited"},
	} {
		err := w.once(txs)
		var blocked *apply.Blocked
		if !errors.As(err, &blocked) || !strings.Contains(err.Error(), "Try: ") || !strings.Contains(err.Error(), step.want) {
			t.Fatalf("got %v, want %s", err, step.want)
		}
		w.target.exec(step.grant)
	}
	if err := w.once(txs); err != nil {
		t.Fatal(err)
	}
	w.same("t")
	w.target.exec("DROP OWNED BY limited CASCADE; DROP ROLE limited")
}

// once is open and try in one, with the error of either.
func (w *world) once(txs []*pipeline.Transaction) error {
	target, err := postgres.New(w.cfg)
	if err != nil {
		return err
	}
	s, err := target.Open(w.t.Context())
	if err != nil {
		return err
	}
	defer s.Close(w.t.Context())
	if w.at, err = s.Progress(w.t.Context()); err != nil {
		return err
	}
	return s.Apply(w.t.Context(), w.group(txs))
}

// TestTruncateOfSomeShards: by default it stops, before anything is lost.
func TestTruncateOfSomeShards(t *testing.T) {
	for _, policy := range []string{"stop", "apply", "ignore", "all"} {
		t.Run(policy, func(t *testing.T) {
			w := newWorld(t, 2)
			w.both("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)")
			w.shards[0].exec("INSERT INTO t VALUES (1)")
			w.shards[1].exec("INSERT INTO t VALUES (2)")
			w.replay()
			w.shards[0].exec("BEGIN; INSERT INTO t VALUES (3); INSERT INTO u VALUES (1); TRUNCATE t; INSERT INTO t VALUES (4); COMMIT")
			want := "1\n2\n"
			switch policy {
			case "stop":
			case "apply":
				w.cfg.Truncate = "apply"
				want = "4\n"
			case "ignore":
				w.cfg.Truncate = "ignore"
				want = "1\n2\n3\n4\n"
			case "all":
				w.shards[1].exec("BEGIN; INSERT INTO t VALUES (5); TRUNCATE t; INSERT INTO t VALUES (6); COMMIT")
				want = "4\n6\n"
			}
			w.session = nil
			txs := w.capture()
			if policy == "all" {
				txs = w.together(txs)
			}
			err := w.try(txs)
			if policy == "stop" {
				if err == nil || !strings.Contains(err.Error(), `table "public"."t": TRUNCATE ran on 1 of 2 shards`) {
					t.Fatalf("got %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if got := w.target.rows("SELECT id FROM t ORDER BY id"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := w.target.rows("SELECT id FROM u"); (got == "1\n") != (policy != "stop") {
				t.Errorf("u: got %q", got)
			}
		})
	}
}
