package main

import (
	"context"
	"database/sql"
	"testing"

	_ "github.com/go-sql-driver/mysql"

	"shardcdc/pipeline/throwaway"
)

// A target of MariaDB is looked at before anything is made, and nothing is left on it afterwards.
func TestMySQLTarget(t *testing.T) {
	maria, err := throwaway.StartMariaDB(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := maria.Close(); err != nil {
			t.Error(err)
		}
	})
	db, err := sql.Open("mysql", maria.DriverDSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	exec := func(text string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	w := newWorld(t)
	w.sql(w.a, "CREATE TABLE orders (id int PRIMARY KEY)", "CREATE TABLE lines (id int PRIMARY KEY, v text)", "CREATE TABLE names (k text PRIMARY KEY)",
		"CREATE SCHEMA shop", "CREATE TABLE shop.items (id int PRIMARY KEY)", "INSERT INTO accounts VALUES (1, 'a', 1)")
	exec("CREATE TABLE accounts (id INT PRIMARY KEY) ENGINE = MyISAM")
	exec("CREATE TABLE `lines` (id INT)")
	exec("CREATE TABLE names (k VARCHAR(100) COLLATE utf8mb4_general_ci PRIMARY KEY)")
	exec("INSERT INTO names VALUES ('x')")
	args := []string{"--shard", "a=" + w.a, "--tables", "public.*,shop.*", "--target", "maria=" + maria.DSN()}
	check := append([]string{"check"}, args...)
	w.wants(w.run(1, check...).out,
		"error    target maria: tables are missing there: `cdc`.`orders`. Try: create them (docs/mysql.md has the types), or let the target make them (--create-tables); or --copy-data=false",
		"error    target maria: tables are missing there, with their databases: `shop`.`items`. Try: create the databases",
		"error    target maria: columns are missing there: `cdc`.`lines` (v). Try: ALTER TABLE `cdc`.`lines` ADD COLUMN `v`",
		"error    target maria: what is there is no table with transactions: `cdc`.`accounts` (MyISAM). Try: ALTER TABLE … ENGINE = InnoDB",
		"error    target maria: tables have a key on the shards and none there, by which a copied row could be found: `cdc`.`lines`",
		"error    target maria: tables hold rows there already: `cdc`.`names`. Try: DELETE the rows there",
		"warning  target maria: keys have a collation that calls strings equal which PostgreSQL tells apart; two such rows stop the target: `cdc`.`names` (k)")
	exec("DROP TABLE accounts, `lines`, names")
	w.wants(w.run(0, append(check, "--create-tables")...).out, "info     target maria: tables are missing there, and are made before their first rows: `cdc`.`accounts`, `cdc`.`lines`")
	w.sql(w.a, "ALTER TABLE names REPLICA IDENTITY FULL")
	w.wants(w.run(1, append(check, "--create-tables")...).out, "would be made without a key", "does not say it: `cdc`.`names`. Try: create them with the key that the shards have")
	w.sql(w.a, "ALTER TABLE names REPLICA IDENTITY DEFAULT")
	create := append([]string{"create-subscription", "s", "--create-tables"}, args...)
	w.wants(w.run(2, append(create, "--ddl", "capture")...).err, "ddl capture: target maria is MySQL, where statements of PostgreSQL do not run. Try: --ddl stop or ignore")
	w.wants(w.run(2, "create-subscription", "s", "--shard", "a="+w.a, "--target", "mysql://u:secret@h/d").err, "has a password in clear, which would be stored", "mysql://u:xxxxx@h/d", "?passfile=…")
	w.wants(w.run(1, "create-subscription", "s", "--shard", "a="+w.a, "--target", "mysql://u@127.0.0.1:1/d").err, "connection refused. Try: check host, port, database, user and password")
	w.wants(w.run(2, "create-subscription", "s", "--shard", "a=mysql://u@h/d").err, "leads to mysql; shards are PostgreSQL")
	w.wants(w.run(2, "create-subscription", "s", "--shard", "a="+w.a, "--target", "mysql://u@h/d?x=1").err, `the option "x" is not known`)
	w.nothingLeft()

	stopNode, stopWorker := w.startNode(), w.startWorker()
	w.run(0, append(create, "--wait")...)
	w.sql(w.a, "INSERT INTO shop.items VALUES (7)")
	w.run(0, "wait", "s", "--for", "applied")
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT (SELECT COUNT(*) FROM accounts) * 10 + (SELECT COUNT(*) FROM shop.items)").Scan(&n); err != nil || n != 11 {
		t.Error(n, err)
	}
	w.wants(w.run(0, "check", "s").out, "info     target maria: every table (5) is there with its columns (10.")
	w.wants(w.run(1, "verify", "s").err, "target maria is of kind mysql, and only targets on PostgreSQL are compared")
	stopNode()
	stopWorker()
	w.wants(w.run(0, "drop-subscription", "s", "--dry-run").out, "target maria: progress of s", "target maria: table cdc_progress")
	w.wants(w.run(0, "drop-subscription", "s").out, "target maria: progress of s", "target maria: table cdc_skipped")
	if err := db.QueryRowContext(context.Background(), "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'cdc' AND table_name LIKE 'cdc\\_%'").Scan(&n); err != nil || n != 0 {
		t.Error(n, err)
	}
}
