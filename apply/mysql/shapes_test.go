package mysql_test

import (
	"slices"
	"strings"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/mysql"
	"shardcdc/pipeline"
)

// same compares tables of the first shard and the target, row by row, of columns whose texts are equal on both sides.
func (w *world) same(tables ...string) {
	w.t.Helper()
	for _, table := range tables {
		name, columns, _ := strings.Cut(table, ":")
		if columns == "" {
			columns = "*"
		}
		got := sorted(w.rows("SELECT " + strings.ReplaceAll(columns, `"`, "`") + " FROM " + strings.ReplaceAll(name, `"`, "`")))
		want := ""
		for i := range w.shards {
			want += w.rowsPG(i, "SELECT "+columns+" FROM "+name)
		}
		if want = sorted(want); got != want || want == "" {
			w.t.Errorf("table %s:\ntarget:\n%.2000s\nsource:\n%.2000s", table, got, want)
		}
	}
}

func sorted(lines string) string {
	list := strings.Split(strings.TrimSuffix(lines, "\n"), "\n")
	slices.Sort(list)
	return strings.Join(list, "\n")
}

// TestShapes runs one shape of table per case: steps on the source, each replayed; the target makes the tables.
func TestShapes(t *testing.T) {
	for _, tc := range []struct {
		name, ddl, target string
		steps             []string
		tables            []string // name, or name:columns
	}{
		{
			name: "toast",
			ddl: `CREATE TABLE t (id int PRIMARY KEY, a text, b text, n int); ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
				CREATE TABLE f (id int, a text, n int); ALTER TABLE f ALTER a SET STORAGE EXTERNAL; ALTER TABLE f REPLICA IDENTITY FULL`,
			steps: []string{
				"INSERT INTO t VALUES (1, repeat('a', 9000), repeat('b', 9000), 1), (2, NULL, '', 2); INSERT INTO f VALUES (1, repeat('a', 9000), 1)",
				"UPDATE t SET n = 7; UPDATE f SET n = 7", "UPDATE t SET a = repeat('c', 9000) WHERE id = 1", "UPDATE t SET b = NULL",
				"UPDATE t SET a = repeat('d', 9000); UPDATE t SET id = id + 10", "UPDATE f SET id = 2",
			},
			tables: []string{"t", "f"},
		},
		{
			name: "duplicates without a key", ddl: "CREATE TABLE t (a int, b text, j json); ALTER TABLE t REPLICA IDENTITY FULL",
			steps: []string{
				`INSERT INTO t SELECT 1, 'x', '{"a": 1}' FROM generate_series(1, 4); INSERT INTO t SELECT NULL, NULL, NULL FROM generate_series(1, 3);
				 INSERT INTO t VALUES (1, 'x', '{"a":1}'), (1, 'X', '{"a": 1}'), (1, 'x ', '{"a": 1}')`,
				"DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE b = 'x')",
				"DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE b IS NULL)", "DELETE FROM t WHERE b = 'x '",
				"UPDATE t SET b = 'y' WHERE ctid = (SELECT max(ctid) FROM t WHERE b IS NULL)", "UPDATE t SET a = a", "UPDATE t SET a = 3", "DELETE FROM t WHERE b = 'X'",
			},
			tables: []string{"t"},
		},
		{
			name: "key updates", ddl: "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE c (k char(4) PRIMARY KEY, v int); CREATE TABLE x (k text, b bytea, v int, PRIMARY KEY (b, k)); CREATE TABLE y (k text PRIMARY KEY); CREATE TABLE z (k bytea PRIMARY KEY)",
			steps: []string{
				"INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO c VALUES ('z', 1); INSERT INTO x VALUES ('z', '', 1); INSERT INTO y VALUES (repeat('é', 768)), (repeat('é', 767) || 'e'), ('a '), ('a'); INSERT INTO z VALUES (decode(repeat('ff', 2000), 'hex'))", "UPDATE t SET id = -id", "DELETE FROM t WHERE id = -1; UPDATE t SET id = -1 WHERE id = -2", "UPDATE t SET id = id",
				"INSERT INTO c VALUES ('a', 1); UPDATE c SET k = 'a  ' WHERE k = 'a'; UPDATE c SET v = 2",
				`INSERT INTO x VALUES ('a', '\x00', 1), ('A', '\x00', 2), ('a ', '\x00', 3)`, "UPDATE x SET v = v + 1 WHERE k = 'A'", `UPDATE x SET b = '\xff' WHERE k = 'a '`,
			},
			tables: []string{"t", "c:rtrim(k), v", "x:k, v", "y"},
		},
		{
			name:   "full with a key of the target",
			ddl:    "CREATE TABLE t (id int PRIMARY KEY, v float8, j json); ALTER TABLE t REPLICA IDENTITY FULL",
			target: "CREATE TABLE t (j LONGTEXT, id INT PRIMARY KEY, v DOUBLE, own INT DEFAULT 7)",
			steps:  []string{"INSERT INTO t VALUES (1, 5, '{}'), (2, 0, '[]')", "UPDATE t SET v = -v", "UPDATE t SET id = id + 1 WHERE id = 2", "UPDATE t SET id = 9 WHERE id = 1", "DELETE FROM t WHERE id = 9"},
			tables: []string{"t:id, j"},
		},
		{
			name: "identity index", ddl: `CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b varchar(5) NOT NULL, v text); CREATE UNIQUE INDEX u ON t (b, a); ALTER TABLE t REPLICA IDENTITY USING INDEX u`,
			steps:  []string{"INSERT INTO t VALUES (1, 1, 'x', 'v'), (2, 1, 'y', 'v')", "UPDATE t SET v = 'w'", "UPDATE t SET id = id + 5", "UPDATE t SET b = b || 'z'", "DELETE FROM t WHERE id = 6"},
			tables: []string{"t"},
		},
		{
			name: "generated on the target", ddl: "CREATE TABLE t (id int PRIMARY KEY, a int, g int)",
			target: "CREATE TABLE t (id INT PRIMARY KEY, a INT, g INT AS (a * 2) STORED)",
			steps:  []string{"INSERT INTO t VALUES (1, 2, 4)", "UPDATE t SET a = 5, g = 10"}, tables: []string{"t"},
		},
		{
			name: "names",
			ddl: `CREATE SCHEMA "s.ch.""q"; CREATE TABLE "s.ch.""q"."Ünï.cödé 日本語" ("select" int PRIMARY KEY, "a b'" text, "%d" text, "\x" text, "Id" int, "$1" int, "?" int);
				CREATE TABLE "order" ("t" int PRIMARY KEY, "s" int, "x` + "`" + `" int)`,
			steps: []string{
				`INSERT INTO "s.ch.""q"."Ünï.cödé 日本語" VALUES (1, 'a', 'b', 'c', 1, 2, 3); INSERT INTO "order" VALUES (1, 1)`,
				`UPDATE "s.ch.""q"."Ünï.cödé 日本語" SET "a b'" = '$1', "select" = 5; UPDATE "order" SET s = 2`,
			},
			tables: []string{`"order":t, s`},
		},
		{
			name: "mutual references", ddl: "CREATE TABLE p (id int PRIMARY KEY, up int REFERENCES p)",
			target: "CREATE TABLE p (id INT PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES p (id))",
			steps:  []string{"INSERT INTO p VALUES (1, 2), (2, 1), (3, 3)", "DELETE FROM p WHERE id IN (1, 2)"}, tables: []string{"p"},
		},
		{
			name: "truncate", ddl: "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a, v int); CREATE TABLE c (v int)",
			steps: []string{
				"INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1); INSERT INTO c VALUES (1)",
				"BEGIN; INSERT INTO c VALUES (2); INSERT INTO a VALUES (2); TRUNCATE a CASCADE; INSERT INTO a VALUES (5); INSERT INTO b VALUES (5, 5); TRUNCATE b; INSERT INTO b VALUES (5, 6); COMMIT",
				"TRUNCATE c; INSERT INTO c VALUES (7); TRUNCATE a, b RESTART IDENTITY; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1)",
			},
			tables: []string{"a", "b", "c"},
		},
		{
			name: "only inserts", ddl: "CREATE TABLE t (v int); ALTER TABLE t REPLICA IDENTITY NOTHING",
			steps: []string{"INSERT INTO t VALUES (1), (1), (NULL); SELECT pg_logical_emit_message(true, 'x', 'y')"}, tables: []string{"t"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.source(tc.ddl)
			if tc.target != "" {
				w.exec(tc.target)
			}
			for _, step := range tc.steps {
				w.source(step)
				if err := w.try(w.capture()); err != nil {
					t.Fatalf("%s: %v", step, err)
				}
				if w.same(tc.tables...); t.Failed() {
					t.Fatalf("after %s", step)
				}
			}
		})
	}
}

// Many small pieces and one by one give the same rows.
func TestPieces(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text)")
	for _, w.cfg.ChunkBytes = range []int{1, 100, 1 << 20} {
		for _, w.careful = range []bool{false, true} {
			w.source("INSERT INTO t SELECT n, repeat('x', n % 50) FROM generate_series(1, 300) n; UPDATE t SET v = v || id; DELETE FROM t WHERE id % 3 = 0")
			w.replay()
			w.same("t")
			w.source("DELETE FROM t")
			w.replay()
			w.session.Close(t.Context())
			w.session = nil
		}
	}
}

// A row that moves to another shard in one transaction, in both directions.
func TestMoves(t *testing.T) {
	w := newWorld(t, 2)
	w.source("CREATE TABLE t (id int PRIMARY KEY, v int)")
	w.execPG(w.shards[0], "INSERT INTO t VALUES (1, 1)")
	w.execPG(w.shards[1], "INSERT INTO t VALUES (2, 2)")
	w.replay()
	w.execPG(w.shards[0], "BEGIN; INSERT INTO t VALUES (2, 5); DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (7, 7); DELETE FROM t WHERE id = 7; COMMIT")
	w.execPG(w.shards[1], "BEGIN; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (1, 6); INSERT INTO t VALUES (7, 8); COMMIT")
	if err := w.try(together(w.capture())); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id, v FROM t ORDER BY id", "1|6; 2|5; 7|8")
}

// A TRUNCATE of one shard of two.
func TestPartialTruncate(t *testing.T) {
	w := newWorld(t, 2)
	w.source("CREATE TABLE t (id int, v int)")
	w.source("INSERT INTO t VALUES (1, 1)")
	w.replay()
	w.execPG(w.shards[0], "TRUNCATE t; INSERT INTO t VALUES (2, 2)")
	txs := w.capture()
	b := w.blocked(txs)
	if b.CSN != txs[0].CSN || !strings.Contains(b.Error(), "TRUNCATE ran on 1 of 2 shards") {
		t.Error(b)
	}
	w.cfg.Truncate = mysql.Ignore
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT COUNT(*) FROM t", "3")
	w.cfg.Truncate = mysql.Apply
	w.session.Close(t.Context())
	w.session = nil
	w.execPG(w.shards[1], "TRUNCATE t")
	w.replay()
	w.want("SELECT COUNT(*) FROM t", "0")
}

// What is refused names transaction, table and row, and passes when it is mended.
func TestBlocked(t *testing.T) {
	for _, tc := range []struct {
		name, ddl, target, step string
		table, row, says        string
		mend                    string
		want                    string
	}{
		{
			name: "update of a missing row", ddl: "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)", target: "CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 1)",
			step: "UPDATE t SET v = 5", row: "(id)=(2)", says: "update: the row is not on the target", mend: "INSERT INTO t VALUES (2, 2)", want: "1|5; 2|5",
		},
		{
			name: "delete of a missing row", ddl: "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)", target: "CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 1)",
			step: "DELETE FROM t WHERE id = 2", row: "(id)=(2)", says: "delete: the row is not on the target", mend: "INSERT INTO t VALUES (2, 2)", want: "1|1",
		},
		{
			name: "two rows of one key", ddl: "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)", target: "CREATE TABLE t (id INT, v INT); INSERT INTO t VALUES (1, 1), (1, 1)",
			step: "UPDATE t SET v = 5", row: "(id)=(1)", says: "2 rows of the target match", mend: "DELETE FROM t LIMIT 1", want: "1|5",
		},
		{
			name: "key in the way", ddl: "CREATE TABLE t (id int PRIMARY KEY, v int)", target: "CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (2, 9)",
			step: "INSERT INTO t VALUES (1, 1), (2, 2)", row: "(id)=(2)", says: "Duplicate entry", mend: "DELETE FROM t", want: "1|1; 2|2",
		},
		{
			name: "column is missing", ddl: "CREATE TABLE t (id int PRIMARY KEY, v int)", target: "CREATE TABLE t (id INT PRIMARY KEY)",
			step: "INSERT INTO t VALUES (1, 1)", says: "column `v` of the source is not on the target", mend: "ALTER TABLE t ADD COLUMN v INT", want: "1|1",
		},
		{
			name: "no transactions", ddl: "CREATE TABLE t (id int PRIMARY KEY, v int)", target: "CREATE TABLE t (id INT PRIMARY KEY, v INT) ENGINE = MyISAM",
			step: "INSERT INTO t VALUES (1, 1)", says: "no table with transactions", mend: "ALTER TABLE t ENGINE = InnoDB", want: "1|1",
		},
		{
			name: "value too long", ddl: "CREATE TABLE t (id int PRIMARY KEY, v text)", target: "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(3))",
			step: "INSERT INTO t VALUES (1, 'abcd')", row: "(id)=(1)", says: "Data too long", mend: "ALTER TABLE t MODIFY v VARCHAR(5)", want: "1|abcd",
		},
		{
			name: "infinity", ddl: "CREATE TABLE t (id int PRIMARY KEY, v timestamptz)", target: "CREATE TABLE t (id INT PRIMARY KEY, v DATETIME(6))",
			step: "INSERT INTO t VALUES (1, 'infinity')", says: "the timestamptz infinity cannot be kept in MySQL: it has no infinite times", mend: "ALTER TABLE t MODIFY v LONGTEXT", want: "1|infinity",
		},
		{
			name: "rounded in silence", ddl: "CREATE TABLE t (id int PRIMARY KEY, v numeric)", target: "CREATE TABLE t (id INT PRIMARY KEY, v DECIMAL(10,2))",
			step: "INSERT INTO t VALUES (1, 1.234)", says: "2 digits behind the point", mend: "ALTER TABLE t MODIFY v DECIMAL(10,3)", want: "1|1.234",
		},
		{
			name: "no identity", ddl: "CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1)", target: "CREATE TABLE t (id INT, v INT)",
			step: "DELETE FROM t", says: "delete: the row is not on the target", mend: "INSERT INTO t VALUES (1, 1)", want: "",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.source(tc.ddl)
			w.capture()
			w.exec(tc.target)
			w.source(tc.step)
			txs := w.capture()
			b := w.blocked(txs)
			table := "`" + w.name + "`.`t`"
			if b.CSN != txs[0].CSN || b.Table != table || tc.row != "" && b.Row != tc.row || !strings.Contains(b.Error(), tc.says) || !strings.Contains(b.Error(), "Try: ") {
				t.Errorf("%v", b)
			}
			w.exec(tc.mend)
			if err := w.try(txs); err != nil {
				t.Fatal(err)
			}
			w.want("SELECT * FROM t ORDER BY 1", tc.want)
		})
	}
}

func TestMissingTable(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.CreateTables = false
	w.source("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1)")
	txs := w.capture()
	if b := w.blocked(txs); !strings.Contains(b.Error(), "is not on the target") || !strings.Contains(b.Try, "--create-tables") {
		t.Error(b)
	}
	w.cfg.CreateTables = true
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id FROM t", "1")
}

// A transaction that is left out is written down.
func TestSkip(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY)")
	w.source("INSERT INTO t VALUES (1), (2)")
	w.source("INSERT INTO t VALUES (3)")
	txs := w.capture()
	w.skips = map[pipeline.CSN]apply.Skip{txs[0].CSN: {CSN: txs[0].CSN, Reason: "it's wrong", By: "me"}}
	if err := w.try(txs); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id FROM t", "3")
	target, err := mysql.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := target.Skipped(t.Context())
	if err != nil || len(list) != 1 || list[0].CSN != txs[0].CSN || list[0].Reason != "it's wrong" || list[0].Changes != `"public"."t": 2 insert` || list[0].Passed.IsZero() {
		t.Errorf("%+v %v", list, err)
	}
}

// A row whose key an update changed and that is deleted in the end makes room, too; and what a shard inserted and deleted behind a TRUNCATE
// meets nothing.
func TestMovesOfKeys(t *testing.T) {
	for _, identity := range []string{"DEFAULT", "FULL"} {
		t.Run(identity, func(t *testing.T) { moveKeys(t, identity) })
	}
}

func moveKeys(t *testing.T, identity string) {
	w := newWorld(t, 2)
	w.source("CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY " + identity)
	w.execPG(w.shards[1], "INSERT INTO t VALUES (5, 5)")
	w.replay()
	w.execPG(w.shards[0], "BEGIN; INSERT INTO t VALUES (9, 0), (5, 0); COMMIT")
	w.execPG(w.shards[1], "BEGIN; INSERT INTO t VALUES (6, 6); UPDATE t SET v = 1 WHERE id = 5; UPDATE t SET id = 9 WHERE id = 5; DELETE FROM t WHERE id = 9; COMMIT")
	if err := w.try(together(w.capture())); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id, v FROM t ORDER BY id", "5|0; 6|6; 9|0")
	w.execPG(w.shards[0], "BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 1); COMMIT")
	w.execPG(w.shards[1], "BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 2), (3, 3); DELETE FROM t WHERE id = 1; COMMIT")
	if err := w.try(together(w.capture())); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT id, v FROM t ORDER BY id", "1|1; 3|3")
}
