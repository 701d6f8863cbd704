package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Rules are looked at with the tables of the shards before anything is made: every fault at once, where it is and what mends it.
func TestShapeIsChecked(t *testing.T) {
	w := newWorld(t)
	const tables = `CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN words AS varchar(3); CREATE DOMAIN kind AS words;
CREATE TABLE people (id bigint PRIMARY KEY, name kind, feels mood, balance numeric, born timestamptz);
CREATE TABLE whole (id int PRIMARY KEY, region text NOT NULL, note text); ALTER TABLE whole REPLICA IDENTITY FULL`
	w.sql(w.a, tables)
	w.sql(w.b, tables)
	write := func(rules string) string {
		file := filepath.Join(t.TempDir(), "shape.yaml")
		if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	create := func(status int, rules string, args ...string) string {
		t.Helper()
		r := w.run(status, append([]string{"create-subscription", "shaped", "--shard", "a=" + w.a, "--shard", "b=" + w.b, "--tables", "public.people,public.whole", "--shape", write(rules)}, args...)...)
		return r.out + r.err
	}
	w.wants(w.run(2, "create-subscription", "shaped", "--shard", "a="+w.a, "--shape", "/nowhere.yaml").err, "/nowhere.yaml: no such file")
	w.wants(create(2, "tables: [{table: public.people, rows: 'id >', mask: {name: {hash: swordfish}}}]"), "rows, line 1, column ", "unexpected token EOF", "  | id >\n", "hash does not name an environment variable")
	w.wants(create(2, "tables: [{table: public.people, route: vip.people}]"), "only rows that are published one by one have subjects of their own. Try: --format json --json-layout row")
	w.wants(create(2, "tables: [{table: public.people, rename: a.b}]", "--ddl", "capture"), "ddl capture: statements speak of the tables as the shards have them")
	w.wants(create(1, `tables:
  - table: public.people
    rows: 'balanse > 0 and feels == "sad" and name > "a" and born < "yesterday"'
    mask: {id: {nullify: true}, balance: {truncate: 1}}
  - {table: public.whole, rename: public.people, key: [region]}
  - {table: public.nothing, exclude: true}`),
		"nothing was changed", "shard a: shape: rule public.people (line 2): table public.people: rows, line 3, column 12: the table has no column \"balanse\"\n",
		`"yesterday" is no date and no time`, "shard b: shape: rule public.people",
		"mask of column id: it identifies rows, and nullify would make many the same. Try: hash",
		"mask of column balance: truncate is for texts, and the column is numeric",
		"key: no unique index says that (region) names one row",
		"tables public.people and public.whole would both be public.people in the stream",
		"rule public.nothing (line 6): it counts for no table that is captured")
	w.wants(create(1, "tables: [{table: public.people, rows: 'feels == \"sad\" and name > \"a\"'}]"), `column "feels" is not part of the replica identity`, "ALTER TABLE public.people REPLICA IDENTITY FULL, on every shard")
	w.nothingLeft()

	out := create(0, `tables: [{table: public.whole, rows: 'region in ["eu"]', rename: 'crm.*', mask: {note: {hash: "${CDC_MASK_KEY}"}, region: {nullify: true}}}]`, "--copy-data=false")
	w.wants(out, "warning: shard a: shape: rule public.whole (line 1): table public.whole: mask of column region: it is NOT NULL")
	w.wants(w.run(0, "list", "-o", "json").out, `"shape": {`, `"rename": "crm.*"`, `"hash": "${CDC_MASK_KEY}"`)
	w.wants(w.run(2, "alter-subscription", "shaped", "--ddl", "stop").err, "ddl stop: statements speak of the tables")
	if r := w.run(0, "check", "shaped"); strings.Contains(r.out, "error ") {
		t.Error(r.out)
	}
	w.run(0, "drop-subscription", "shaped")
	w.nothingLeft()
}
