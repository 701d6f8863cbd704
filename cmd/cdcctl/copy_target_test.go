package main

import (
	"strings"
	"testing"

	"shardcdc/pipeline/control"
)

// What a target lacks for a copy would stop everything on it, so it is told before anything is made, of every target at once.
func TestCopyNeedsTables(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "CREATE TABLE orders (id int PRIMARY KEY)", "CREATE TABLE lines (id int PRIMARY KEY)", "ALTER TABLE accounts ADD note text")
	w.sql(w.target, "CREATE TABLE lines (id int PRIMARY KEY)")
	create := []string{"create-subscription", "s", "--shard", "a=" + w.a, "--target", "one=" + w.target, "--target", "two=" + w.b}
	lacks := []string{
		"target one: tables are missing there: public.orders, so their rows cannot be copied. Try: create them, for example with pg_dump --schema-only of one shard, or let the target make them (--create-tables); or --copy-data=false",
		"target two: tables are missing there: public.lines, public.orders, so their rows cannot be copied",
		`target one: columns are missing there: public.accounts (note), so their rows cannot be copied. Try: ALTER TABLE "public"."accounts" ADD COLUMN "note"`,
	}
	w.wants(w.run(1, create...).err, append(lacks, "subscription s cannot be created, nothing was changed")...)
	w.wants(w.run(1, append([]string{"check"}, create[2:]...)...).out, lacks...)
	w.nothingLeft()
	w.wants(w.create(create[1:]...).err, "warning: target one: tables are missing there: public.orders; the first change to one will wait for it")
	w.run(0, "drop-subscription", "s")

	w.create("s", "--shard", "a="+w.a, "--target", "one="+w.target, "--target", "two="+w.b, "--tables", "public.accounts")
	w.wants(w.run(1, "add-table", "s", "public.orders", "public.lines").err, "tables cannot be added to subscription s, nothing was changed", lacks[0], lacks[1])
	r := w.run(1, "resync", "s", "--table", "public.accounts")
	w.wants(r.err, "cannot be copied anew, nothing was changed", "columns are missing there: public.accounts (note)")
	if strings.Contains(r.err, "--copy-data") {
		t.Errorf("resync has no --copy-data:\n%s", r.err)
	}
	w.wants(w.run(0, "add-table", "s", "public.orders", "--copy-data=false").err, "warning: target two: tables are missing there: public.orders; the first change to one will wait for it")

	w.sql(w.target, "ALTER TABLE accounts ADD note text")
	w.move("s", "two", "postgres://cdc@127.0.0.1:1/bank")
	w.wants(w.run(0, "resync", "s", "--table", "public.accounts", "--no-wait").err, "warning: target two: it could not be looked at (no connection: ",
		"if it lacks one of the tables or a right, everything on it waits at the beginning of the copy until it has them")
	w.move("s", "two", w.b)
	w.run(0, "drop-subscription", "s")
	w.nothingLeft()
}

// move gives a target of a subscription another DSN.
func (w *world) move(name, target, dsn string) {
	w.Helper()
	catalog, err := control.OpenCatalog(w.Context(), w.bus.JS, 1)
	if err != nil {
		w.Fatal(err)
	}
	_, err = catalog.Change(w.Context(), name, func(sub *control.Subscription) error {
		for i := range sub.Targets {
			if sub.Targets[i].Name == target {
				sub.Targets[i].DSN = dsn
			}
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// The rights that copying needs on a target: what a check finds is what a copy stops at, and what it proposes is enough.
func TestCopyNeedsRightsOnTheTarget(t *testing.T) {
	w := newWorld(t)
	database := w.query(w.target, "SELECT current_database()::text")
	w.sql(w.a, "INSERT INTO accounts VALUES (1, 'a', 1)", "CREATE TABLE kind (id int PRIMARY KEY)")
	w.sql(w.target, "CREATE TABLE kind (id int PRIMARY KEY)", "CREATE TABLE local (kind int REFERENCES kind)", "CREATE ROLE cdc_poor LOGIN",
		"REVOKE TEMPORARY ON DATABASE "+database+" FROM PUBLIC", "GRANT SET ON PARAMETER session_replication_role TO cdc_poor",
		"GRANT CREATE ON DATABASE "+database+" TO cdc_poor", "GRANT SELECT, INSERT, UPDATE, DELETE ON accounts, kind TO cdc_poor")
	t.Cleanup(func() { w.sql(w.target, "DROP OWNED BY cdc_poor", "DROP ROLE cdc_poor") })
	target := strings.Replace(w.target, "postgres@", "cdc_poor@", 1)
	args := []string{"--shard", "a=" + w.a, "--target", "poor=" + target}
	truncate := append([]string{"--if-target-has-rows", "truncate"}, args...)

	temporary := `GRANT TEMPORARY ON DATABASE "` + database + `" TO "cdc_poor"`
	r := w.run(1, append([]string{"check"}, truncate...)...)
	w.wants(r.out, "error    target poor: role cdc_poor may not make temporary tables", temporary,
		"target poor: role cdc_poor lacks rights on tables: public.accounts (TRUNCATE), so their rows cannot be copied",
		`GRANT TRUNCATE ON "public"."accounts" TO "cdc_poor"; or --copy-data=false`, "2 errors, ")
	w.run(0, append([]string{"check", "--copy-data=false"}, truncate...)...)
	w.sql(w.target, temporary)
	w.run(0, append([]string{"check"}, args...)...)
	w.sql(w.target, `GRANT TRUNCATE ON "public"."accounts" TO "cdc_poor"`, "INSERT INTO kind VALUES (7)")

	stopNode, stopWorker := w.startNode(), w.startWorker()
	w.run(0, append([]string{"create-subscription", "s", "--wait"}, truncate...)...) // kind, which local refers to, is emptied without TRUNCATE
	w.equal("s")
	stopNode()
	stopWorker()
	w.sql(w.target, "ALTER TABLE cdc.copying OWNER TO postgres", "GRANT SELECT, INSERT ON cdc.copying TO cdc_poor", "REVOKE TRUNCATE ON accounts FROM cdc_poor")
	w.wants(w.run(1, "check", "s").out, "target poor: role cdc_poor lacks rights on tables in which the progress is kept: cdc.copying (UPDATE, DELETE)",
		`GRANT UPDATE, DELETE ON "cdc"."copying" TO "cdc_poor"`)
	w.wants(w.run(1, "resync", "s", "--table", "public.accounts").err, "nothing was changed", "cdc.copying (UPDATE, DELETE)", "public.accounts (TRUNCATE)")
	w.wants(w.run(1, "resync", "s", "--table", "public.accounts", "--if-target-has-rows", "merge").err, "target poor: role cdc_poor lacks rights on tables in which the progress is kept")
	w.sql(w.target, "DROP TABLE cdc.copying", "ALTER TABLE cdc.progress OWNER TO postgres")
	r = w.run(1, "check", "s")
	w.wants(r.out, "target poor: role cdc_poor may not make what is missing in the schema cdc, where the progress is kept: cdc.copying", `ALTER TABLE cdc.progress OWNER TO "cdc_poor"`)
	w.sql(w.target, `ALTER TABLE cdc.progress OWNER TO "cdc_poor"`)
	w.wants(w.run(0, "check", "s").out, "0 errors")
	w.run(0, "drop-subscription", "s")
	w.nothingLeft()
}

// Nobody looks whether targets have the tables that join by themselves.
func TestFollowWarns(t *testing.T) {
	w := newWorld(t)
	const warning = "warning: new tables: a new table joins by itself, and a target that does not have it stops until it is created there. Try: create tables on the targets before the shards, or --ddl capture"
	quiet := func(r result) {
		t.Helper()
		if strings.Contains(r.err, "new tables") {
			t.Errorf("warned without a reason:\n%s", r.err)
		}
	}
	w.wants(w.create("s", "--shard", "a="+w.a, "--target", w.target, "--follow-new-tables").err, warning)
	quiet(w.run(0, "alter-subscription", "s", "--retain", "1h"))
	quiet(w.run(0, "alter-subscription", "s", "--ddl", "capture"))
	quiet(w.run(0, "alter-subscription", "s", "--follow-new-tables"))
	w.wants(w.run(0, "alter-subscription", "s", "--ddl", "ignore").err, warning)
	quiet(w.run(0, "alter-subscription", "s", "--follow-new-tables=false"))
	w.wants(w.run(0, "alter-subscription", "s", "--follow-new-tables").err, warning)
	quiet(w.create("capturing", "--shard", "a="+w.a, "--target", w.target, "--follow-new-tables", "--ddl", "capture"))
	quiet(w.create("feed", "--shard", "a="+w.a, "--format", "json", "--follow-new-tables"))
	for _, name := range []string{"s", "capturing", "feed"} {
		w.run(0, "drop-subscription", name)
	}
	w.nothingLeft()
}
