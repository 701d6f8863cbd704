package mysql_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"shardcdc/apply"
	"shardcdc/apply/mysql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// Into a column of one's own a value goes as it is, or not at all: MySQL would change many in silence, even in strict mode.
func TestColumnsThatChange(t *testing.T) {
	w := newWorld(t, 1)
	for i, c := range []struct{ typ, value, column, want string }{ // want: what is read, or, after a !, a part of the error
		{"text", "'a '", "CHAR(5)", "!loses blanks"},
		{"text", "' a'", "CHAR(5)", " a"},
		{"char(5)", "'a '", "CHAR(5)", "a"},
		{"text", "'1'", "ENUM('x', 'y')", "!none of its labels"},
		{"text", "'X'", "ENUM('x', 'y')", "!none of its labels"},
		{"text", "'it''s,'", "ENUM('it''s,', 'y')", "it's,"},
		{"text", "'y,x'", "SET('x', 'y')", "!would change it"},
		{"text", "'1.5'", "INT", "!would change it"},
		{"text", "'1.25'", "DECIMAL(5,1)", "!would change it"},
		{"text", "'0.1000'", "DOUBLE", "!would change it"},
		{"text", "'2024-01-01 10:00:00'", "DATE", "!would change it"},
		{"text", "'10:11:12'", "TIME", "!would change it"},
		{"text", "'a'", "BINARY(3)", "!fills up with zeros to 3 bytes"},
		{"text", "'abc'", "BINARY(3)", "abc"},
		{"text", "'a'", "BIT(16)", "!would change it"},
		{"text", "'é'", "VARCHAR(10) CHARACTER SET latin1", "é"},
		{"text", "'日'", "VARCHAR(10) CHARACTER SET latin1", "!Incorrect string value"},
		{"text", "'A0EEBC999C0B4EF8BB6D6BB9BD380A11'", "UUID", "!would change it"},
		{"uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "UUID", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{"inet", "'::ffff:1.2.3.4'", "INET6", "::ffff:1.2.3.4"},
		{"jsonb", `'{"a": 1}'`, "JSON", `{"a": 1}`},
		{"int[]", "'{1}'", "CHAR(10)", "[1]"},
		{"bytea", `'\x61'`, "BINARY(4)", "!fills up with zeros to 4 bytes"},
		{"bytea", `'\x61626364'`, "BINARY(4)", "abcd"},
		{"bytea", `'\x00000001'`, "INT", "!would change it"},
		{"float8", "1.5", "INT", "!0 digits behind the point"},
		{"float8", "'-7'", "INT", "-7"},
		{"float8", "1e20", "DECIMAL(30,0)", "!it has an exponent"},
		{"float8", "0.1", "FLOAT", "!which would round it"},
		{"float8", "0.5", "FLOAT", "0.5"},
		{"real", "0.1", "FLOAT", "0.1"},
		{"numeric", "1234567890.123456789", "DOUBLE", "!keeps 15 digits"},
		{"numeric", "'0.00123456789012345000'", "DOUBLE", "0.00123456789012345"},
		{"numeric(10,2)", "16777217.25", "FLOAT", "!keeps 6 digits"},
		{"bigint", "9007199254740993", "DOUBLE", "!keeps 15 digits"},
		{"int", "16777217", "FLOAT", "!keeps 6 digits"},
		{"int", "24", "YEAR", "!would change it"},
		{"int", "20240101", "DATE", "!would change it"},
		{"int", "5", "VARBINARY(16)", "5"},
		{"float8", "'NaN'", "VARBINARY(16)", "NaN"},
		{"boolean", "true", "BIT(1)", "\x01"},
		{"timestamp", "'2024-01-01 10:00:00'", "DATE", "!would change it"},
		{"timestamptz", "'2024-01-01 10:00:00+00'", "TIME", "!would change it"},
		{"timestamptz", "'2024-01-01 10:00:00+00'", "TIMESTAMP(6)", "2024-01-01 10:00:00.000000"},
		{"date", "'2024-01-01'", "DATETIME", "2024-01-01 00:00:00"},
		{"time", "'10:11:12'", "DATETIME(6)", "!would change it"},
	} {
		name := fmt.Sprintf("t%d", i)
		w.source("CREATE TABLE " + name + " (id int PRIMARY KEY, v " + c.typ + ")")
		w.exec("CREATE TABLE " + name + " (id INT PRIMARY KEY, v " + c.column + ")")
		w.source("INSERT INTO " + name + " VALUES (7, " + c.value + ")")
		err := w.try(w.capture())
		got := strings.TrimSuffix(w.rows("SELECT v FROM "+name), "\n")
		if part, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), part) || got != "" {
				t.Errorf("%s %s in %s: %q, %v, want an error with %q", c.typ, c.value, c.column, got, err, part)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%s %s in %s: %q, %v, want %q", c.typ, c.value, c.column, got, err, c.want)
		}
	}
}

// Rows come only to a place of their own, and where MySQL can have them.
func TestPlaces(t *testing.T) {
	for _, c := range []struct{ name, ddl, says string }{
		{"own", "CREATE TABLE cdc_progress (id int PRIMARY KEY); INSERT INTO cdc_progress VALUES (1)", "a table of shardcdc's own"},
		{"system", "CREATE SCHEMA mysql; CREATE TABLE mysql.general_log (id int PRIMARY KEY); INSERT INTO mysql.general_log VALUES (1)", "in a database of the server itself"},
		{"plane", `CREATE TABLE "t😀" (id int PRIMARY KEY); INSERT INTO "t😀" VALUES (1)`, "none above U+FFFF"},
		{"two", "CREATE SCHEMA $; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE $.t (id int PRIMARY KEY); INSERT INTO t VALUES (1); INSERT INTO $.t VALUES (2)", "is the place of two tables of the source, `public`.`t` and `$`.`t`"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			named := func(text string) string { return strings.ReplaceAll(text, "$", w.name) }
			w.source(named(c.ddl))
			b := w.blocked(w.capture())
			if !strings.Contains(b.Error(), named(c.says)) || !strings.Contains(b.Try, "rename") {
				t.Error(b)
			}
			w.want("SELECT COUNT(*), SUM(csn) FROM cdc_progress", "1|0")
		})
	}
	wanted := []mysql.Wanted{{Schema: "public", Table: "t"}, {Schema: "cdc", Table: "t"}}
	if _, _, err := mysql.Look(t.Context(), maria.DSN(), wanted); err == nil || !strings.Contains(err.Error(), "is the place of two tables") {
		t.Error(err)
	}
}

// A collation that calls keys equal which differ takes no row for another one: neither when rows are copied nor when they change.
func TestCollations(t *testing.T) {
	for collation, twins := range map[string]string{"utf8mb4_general_ci": "A", "utf8mb4_bin": "a "} {
		t.Run(collation, func(t *testing.T) {
			w := newWorld(t, 1)
			w.source("CREATE TABLE t (k text PRIMARY KEY, v int)")
			w.exec("CREATE TABLE t (k VARCHAR(20) COLLATE " + collation + " PRIMARY KEY, v INT)")
			w.source("INSERT INTO t VALUES ('a', 1)")
			w.capture()
			all := tables(true, "t")
			w.must(w.begin(mark.TargetMerge, all...), w.chunk(0, all[0], "true"))
			w.source("INSERT INTO t VALUES ('" + twins + "', 2)")
			inserted := w.capture()
			w.source("UPDATE t SET v = 5 WHERE k = '" + twins + "'; DELETE FROM t WHERE k = '" + twins + "'")
			w.must(w.capture()...)
			w.want("SELECT k, v FROM t", "a|1")
			if b := w.blocked(inserted); !strings.Contains(b.Error(), "Duplicate entry") || !strings.Contains(b.Error(), "collation") {
				t.Error(b)
			}
			w.exec("ALTER TABLE t MODIFY k VARCHAR(20) COLLATE utf8mb4_nopad_bin")
			w.must(inserted...)
			w.want("SELECT COUNT(*) FROM t", "2")
			w.exec("ALTER TABLE t DROP PRIMARY KEY, MODIFY k VARCHAR(20) COLLATE " + collation)
			w.must(w.end(all...))
			w.restart()
			w.source("INSERT INTO t VALUES ('" + twins + "', 2)")
			w.capture()
			w.source("UPDATE t SET v = v + 10; DELETE FROM t WHERE k = 'a'")
			w.must(w.capture()...)
			w.same("t")
			w.exec("ALTER TABLE t ADD PRIMARY KEY (k)")
			w.source("UPDATE t SET k = 'a'")
			w.must(w.capture()...)
			w.same("t")
		})
	}
}

// Where packets are small so are pieces.
func TestSmallPackets(t *testing.T) {
	w := newWorld(t, 1)
	w.exec("SET GLOBAL max_allowed_packet = 65536")
	t.Cleanup(func() {
		_, _ = w.target.ExecContext(context.Background(), "SET GLOBAL max_allowed_packet = DEFAULT")
	})
	w.source("CREATE TABLE t (id int PRIMARY KEY, v text, b text)")
	w.source(`INSERT INTO t SELECT n, repeat('\', n * 30), repeat('x', 100) FROM generate_series(1, 800) n`)
	w.source("UPDATE t SET b = b || id")
	w.replay()
	w.want("SELECT COUNT(*), SUM(LENGTH(v)) FROM t", "800|9612000")
}

// One group may have more versions of tables than are kept, as of many shards.
func TestManyVersions(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
	w.exec("CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE u (id INT PRIMARY KEY); INSERT INTO t VALUES (7)")
	w.source("BEGIN; TRUNCATE t; INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); COMMIT")
	txs := w.capture()
	f := txs[0].Fragments[0]
	last := f.Relations[len(f.Relations)-1]
	for range 5000 {
		again := *last.Relation
		f.Relations = append(f.Relations, pipeline.RelationUse{Offset: last.Offset, Relation: &again})
	}
	w.must(txs...)
	w.want("SELECT id FROM t", "1")
	if err := w.session.Apply(t.Context(), apply.Group{From: w.at, To: w.at}); err != nil { // forgets
		t.Fatal(err)
	}
	w.source("DELETE FROM t")
	w.replay()
	w.want("SELECT COUNT(*) FROM t", "0")
}

// What a commit is worth on the server is known before the first one.
func TestForgetfulServer(t *testing.T) {
	w := newWorld(t, 1)
	t.Cleanup(func() {
		_, _ = w.target.ExecContext(context.Background(), "SET GLOBAL innodb_flush_log_at_trx_commit = DEFAULT")
	})
	for _, c := range []struct{ value, want string }{{"1", ""}, {"3", ""}, {"2", "innodb_flush_log_at_trx_commit = 2"}, {"0", "innodb_flush_log_at_trx_commit = 0"}} {
		w.exec("SET GLOBAL innodb_flush_log_at_trx_commit = " + c.value)
		server, _, err := mysql.Look(t.Context(), maria.DSN(), nil)
		if got := strings.Join(server.Forgets, ", "); err != nil || got != c.want || !strings.Contains(server.Version, "MariaDB") {
			t.Errorf("%s: %+v, %v, want %q", c.value, server, err, c.want)
		}
	}
}
