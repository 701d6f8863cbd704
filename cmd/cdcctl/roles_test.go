package main

import (
	"os"
	"strings"
	"testing"
)

// statements of a file for psql.
func statements(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSampleRoles: what configs/*.sql grants is enough, in both ways that the files describe.
func TestSampleRoles(t *testing.T) {
	w := newWorld(t)
	source := statements(t, "../../configs/source.sql")
	w.sql(w.a, "CREATE ROLE app_owner", "ALTER TABLE accounts OWNER TO app_owner", strings.Replace(source, "-- GRANT app_owner", "GRANT app_owner", 1))
	w.sql(w.b, "CREATE ROLE cdc LOGIN REPLICATION", "CREATE PUBLICATION p FOR TABLE accounts")
	w.sql(w.target, statements(t, "../../configs/target.sql"))
	t.Cleanup(func() {
		w.sql(w.a, "DROP OWNED BY cdc", "DROP ROLE cdc", "ALTER TABLE accounts OWNER TO postgres", "DROP ROLE app_owner")
		w.sql(w.b, "DROP ROLE cdc")
		w.sql(w.target, "DROP OWNED BY cdc_apply", "DROP ROLE cdc_apply")
	})
	as := func(dsn, role string) string { return strings.Replace(dsn, "postgres@", role+"@", 1) }
	a, b, target := as(w.a, "cdc"), as(w.b, "cdc"), as(w.target, "cdc_apply")
	w.startNode()
	w.startWorker()
	w.create("low", "--shard", "a="+a, "--target", target)
	w.create("given", "--shard", "b="+b, "--publication", "p", "--target", target)
	replayed := func(name string) {
		t.Helper()
		w.run(0, "resume", name)
		w.run(0, "wait", name, "--for", "applied")
		w.wants(w.run(0, "check", name).out, "every table (1) is there with its columns, and role cdc_apply may write it", "0 errors, 0 warnings.")
	}
	w.sql(w.a, "INSERT INTO accounts VALUES (1, 'Alice', 1)", "UPDATE accounts SET balance = 2", "TRUNCATE accounts", "INSERT INTO accounts VALUES (2, 'Bob', 2)")
	replayed("low") // before the other one begins: its TRUNCATE is of the whole table
	w.sql(w.b, "INSERT INTO accounts VALUES (3, 'Carol', 3)", "UPDATE accounts SET balance = 4", "DELETE FROM accounts WHERE id = 0")
	replayed("given")
	if got := w.query(w.target, "SELECT string_agg(id || owner, ' ' ORDER BY id) FROM accounts"); got != "2Bob 3Carol" {
		t.Errorf("the target has %q", got)
	}
	w.run(0, "drop-subscription", "low")
	w.run(0, "drop-subscription", "given")
	w.sql(w.b, "DROP PUBLICATION p")
	w.nothingLeft()
}
