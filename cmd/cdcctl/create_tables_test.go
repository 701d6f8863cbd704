package main

import (
	"strings"
	"testing"
)

// Targets make what is missing there: a check says so, or which right is lacking, and the copy fills what was made.
func TestCreateTables(t *testing.T) {
	w := newWorld(t)
	database := w.query(w.target, "SELECT current_database()::text")
	w.sql(w.a, "INSERT INTO accounts VALUES (1, 'a', 1)", "CREATE SCHEMA shop", "CREATE TABLE shop.orders (id int PRIMARY KEY, price numeric(8,2), note varchar(5))",
		"INSERT INTO shop.orders VALUES (1, 2.50, 'x')", "CREATE TABLE shop.empty (id int PRIMARY KEY)")
	w.sql(w.target, "DROP TABLE accounts", "CREATE ROLE cdc_maker LOGIN", "GRANT SET ON PARAMETER session_replication_role TO cdc_maker",
		"CREATE SCHEMA cdc AUTHORIZATION cdc_maker", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	t.Cleanup(func() { w.sql(w.target, "DROP OWNED BY cdc_maker", "DROP ROLE cdc_maker") })
	args := []string{"--shard", "a=" + w.a, "--tables", "public.accounts,shop.*", "--target", "one=" + strings.Replace(w.target, "postgres@", "cdc_maker@", 1)}
	w.wants(w.run(1, append([]string{"check"}, args...)...).out, "tables are missing there: public.accounts, shop.empty, shop.orders, so their rows cannot be copied", "--create-tables")
	args = append(args, "--create-tables")
	schema, public := `GRANT CREATE ON DATABASE "`+database+`" TO "cdc_maker"`, `GRANT CREATE ON SCHEMA "public" TO "cdc_maker"`
	w.wants(w.run(1, append([]string{"check"}, args...)...).out, "error    target one: role cdc_maker may not make schema shop, which is to be made there. Try: "+schema,
		"error    target one: role cdc_maker may not make tables in schema public, which is to be made there. Try: "+public)
	w.sql(w.target, schema, public)
	w.sql(w.a, "ALTER TABLE shop.orders REPLICA IDENTITY FULL")
	w.wants(w.run(1, append([]string{"check"}, args...)...).out, "error    target one: tables are missing there, and would be made without a key", "does not say it: shop.orders. Try: create them with the key that the shards have")
	w.sql(w.a, "ALTER TABLE shop.orders REPLICA IDENTITY DEFAULT")
	w.wants(w.run(0, append([]string{"check"}, args...)...).out, "info     target one: tables are missing there, and are made before their first rows: public.accounts, shop.empty, shop.orders")

	stopNode, stopWorker := w.startNode(), w.startWorker()
	w.run(0, append([]string{"create-subscription", "s", "--wait"}, args...)...)
	w.equal("s")
	w.sql(w.a, "CREATE TABLE shop.later (id int PRIMARY KEY, v int[])", "INSERT INTO shop.later VALUES (1, '{1}')")
	w.run(0, "add-table", "s", "shop.later")
	w.sql(w.a, "UPDATE shop.later SET v = '{1,2}'", "INSERT INTO shop.empty VALUES (1)")
	w.run(0, "wait", "s", "--for", "applied")
	w.equal("s")
	stopNode()
	stopWorker()
	w.run(0, "drop-subscription", "s")
}
