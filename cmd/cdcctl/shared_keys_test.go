package main

import (
	"strings"
	"testing"
)

// Rows of two shards with one key would become one on a target without a word: that is refused before anything is copied.
func TestKeysOnTwoShards(t *testing.T) {
	w := newWorld(t)
	for _, dsn := range []string{w.a, w.b, w.target} {
		w.sql(dsn, "CREATE TABLE users (id serial PRIMARY KEY, name text)", `CREATE TABLE "Rates" (b int, a text, PRIMARY KEY (b, a))`)
	}
	fill := []string{"INSERT INTO users (name) SELECT 'x' FROM generate_series(1, 300)", `INSERT INTO "Rates" VALUES (1, 'it''s'), (2, 'y')`}
	w.sql(w.a, fill...)
	w.sql(w.b, fill...)
	shards := []string{"--shard", "a=" + w.a, "--shard", "b=" + w.b}
	args := append([]string{"--target", w.target}, shards...)
	faults := []string{
		"copy: keys are on more than one shard, and their rows would become one on a target: public.Rates, (a, b) = (", "public.users, (id) = (", ") on shards ",
		"Try: keys that are unique across the shards (a serial column: ALTER SEQUENCE … INCREMENT BY 2, with another start on each shard",
		"--tables 'public.*,-public.Rates', and a second subscription for it, of one shard",
	}
	w.wants(w.run(1, append([]string{"check"}, args...)...).out, append(faults, "error    copy: ")...)
	w.wants(w.run(1, append([]string{"create-subscription", "s"}, args...)...).err, append(faults, "subscription s cannot be created, nothing was changed")...)
	w.nothingLeft()
	if out := w.run(0, append([]string{"check", "--copy-data=false"}, args...)...).out; strings.Contains(out, "more than one shard") {
		t.Errorf("nothing is copied:\n%s", out)
	}
	w.wants(w.run(0, append([]string{"create-subscription", "feed", "--format", "json"}, shards...)...).err, "warning: copy: keys are on more than one shard") // its readers see which shard has a row
	w.run(0, "drop-subscription", "feed")

	w.sql(w.b, "UPDATE users SET id = id + 1000", `DELETE FROM "Rates"`)
	if out := w.run(0, append([]string{"check"}, args...)...).out; strings.Contains(out, "same key") || strings.Contains(out, "more than one shard") {
		t.Errorf("keys are unique:\n%s", out)
	}
	w.create(append([]string{"s", "--tables", "public.*,-public.users"}, args...)...)
	w.sql(w.b, "INSERT INTO users VALUES (300, 'again')") // on a the last one, on b the first
	r := w.run(1, "add-table", "s", "public.users")
	w.wants(r.err, "tables cannot be added to subscription s, nothing was changed", "public.users, (id) = (300) on shards ", "cdcctl remove-table s public.users takes it out of this one")
	w.run(0, "add-table", "s", "public.users", "--copy-data=false")
	w.wants(w.run(1, "resync", "s", "--table", "public.users").err, "cannot be copied anew, nothing was changed", "(id) = (300)")
	w.sql(w.b, "DELETE FROM users WHERE id = 300", "CREATE TABLE late (id int PRIMARY KEY)", "INSERT INTO late VALUES (1)")
	w.sql(w.target, "CREATE TABLE late (id int PRIMARY KEY)")
	w.run(0, "resync", "s", "--table", "public.users", "--no-wait")
	w.run(0, "add-table", "s", "public.late", "--copy-data=false")
	w.sql(w.a, "CREATE TABLE late (id int PRIMARY KEY)", "INSERT INTO late VALUES (1)")
	w.wants(w.run(1, "add-table", "s", "public.late").err, "public.late, (id) = (1)") // the other shard has it already
	w.run(0, "drop-subscription", "s")
	w.nothingLeft()
}

// Keys of any type are compared, and those of tables that differ; what a row filter leaves out does not count.
func TestKeysOfManyTypes(t *testing.T) {
	w := newWorld(t)
	keys := map[string]string{
		"uuid": "'00000000-0000-0000-0000-000000000001'", "varchar(9)": "'ä''\\'", "char(5)": "'x'", "timestamptz": "'2024-01-02 03:04:05+06'", "interval": "'1 day -3:00'",
		"numeric": "1.50", "bytea": `'\x00ff'`, "kind": "'one'", "int[]": "'{1,NULL}'", "positive": "7", "text COLLATE \"C\"": "'z'", "citext": "'Abc'", "inet": "'10.0.0.1'", "boolean": "true", "float8": "0.1", `"char"`: "'q'",
	}
	for _, dsn := range []string{w.a, w.b} {
		w.sql(dsn, "CREATE TYPE kind AS ENUM ('one')", "CREATE DOMAIN positive AS int CHECK (VALUE > 0)", "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)",
			"CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100)", "INSERT INTO parts VALUES (5)", "CREATE TABLE cased (v text)", "CREATE UNIQUE INDEX ON cased (v text_pattern_ops)",
			"ALTER TABLE cased ALTER v SET NOT NULL", "ALTER TABLE cased REPLICA IDENTITY FULL", "INSERT INTO cased VALUES ('a')")
	}
	var want []string
	delete(keys, "citext") // an extension, that need not be there
	for typ, value := range keys {
		name := "t" + strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r
			}
			return -1
		}, typ)
		if typ == `"char"` {
			name = "tquoted"
		}
		for _, dsn := range []string{w.a, w.b} {
			w.sql(dsn, "CREATE TABLE "+name+" (v "+typ+" PRIMARY KEY)", "INSERT INTO "+name+" VALUES ("+value+")")
			w.sql(dsn, "ALTER DATABASE "+w.query(dsn, "SELECT current_database()::text")+" SET DateStyle = 'SQL, DMY'")
		}
		want = append(want, "public."+name+", (v) = (")
	}
	want = append(want, "public.parts, (id) = (5)", "public.cased, (v) = (a)")
	for _, one := range want {
		table := strings.TrimSpace(strings.SplitN(one, ",", 2)[0])
		w.wants(w.run(1, "check", "--shard", "a="+w.a, "--shard", "b="+w.b, "--tables", table).out, one)
	}

	w.sql(w.a, "CREATE TABLE mixed (k text PRIMARY KEY)", "INSERT INTO mixed VALUES ('a'), ('99999999999'), ('7')", "CREATE TABLE other (x int PRIMARY KEY, y int)",
		"CREATE TABLE filtered (id int PRIMARY KEY)", "INSERT INTO filtered VALUES (1), (2)", "CREATE PUBLICATION p FOR TABLE filtered")
	w.sql(w.b, "CREATE TABLE mixed (k int PRIMARY KEY)", "INSERT INTO mixed VALUES (7)", "CREATE TABLE other (x int, y int PRIMARY KEY)",
		"CREATE TABLE filtered (id int PRIMARY KEY)", "INSERT INTO filtered VALUES (1), (2)", "CREATE PUBLICATION p FOR TABLE filtered WHERE (id > 2)")
	r := w.run(1, "check", "--shard", "a="+w.a, "--shard", "b="+w.b, "--tables", "public.mixed,public.other")
	w.wants(r.out, "public.mixed, (k) = (7)", "warning  copy: tables have keys of other columns on other shards, so nobody looked whether rows of two shards have the same: public.other; cdcctl verify")
	given := []string{"check", "--shard", "a=" + w.a, "--shard", "b=" + w.b, "--publication", "p"}
	w.run(0, given...)
	w.sql(w.b, "INSERT INTO filtered VALUES (3)")
	w.sql(w.a, "INSERT INTO filtered VALUES (3)")
	w.wants(w.run(1, given...).out, "public.filtered, (id) = (3)", "a publication that holds it on one shard only")
	w.sql(w.a, "DROP PUBLICATION p")
	w.sql(w.b, "DROP PUBLICATION p")
	w.nothingLeft()
}

// Shards make a new table without a key one after the other: the rows of the first are on the target then, and cannot be found
// again when those of the second come.
func TestFollowWithoutKey(t *testing.T) {
	w := newWorld(t)
	const create = "CREATE TABLE plain (v text)"
	const whole = "ALTER TABLE plain REPLICA IDENTITY FULL"
	w.sql(w.target, create)
	w.startNode()
	w.startWorker()
	w.create("s", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target, "--follow-new-tables")
	w.run(0, "resume", "s")
	w.sql(w.a, "BEGIN; "+create+"; "+whole+"; INSERT INTO plain VALUES ('a'); COMMIT")
	w.until("the first shard's rows are there", func() bool { return w.query(w.target, "SELECT v FROM plain") == "a" })
	w.run(0, "wait", "s", "--for", "applied")
	w.sql(w.b, "BEGIN; "+create+"; "+whole+"; INSERT INTO plain VALUES ('b'), ('b'); COMMIT")
	w.sql(w.a, "INSERT INTO plain VALUES ('a')")
	w.until("the second shard's rows are there, too", func() bool { return w.query(w.target, "SELECT v FROM plain ORDER BY v") == "a a b b" })
	w.equal("s")
	w.run(0, "drop-subscription", "s")
	w.nothingLeft()
}
