package main

import (
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

// Everything that is wrong with servers is found at once, and nothing is changed.
func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	const closed = "postgres://cdc@127.0.0.1:1/bank"
	w.sql(w.b, "CREATE TABLE bare (id int)")
	r := w.run(1, "create-subscription", "bad", "--shard", "a="+w.a, "--shard", "twin="+strings.Replace(w.a, "127.0.0.1", "localhost", 1),
		"--shard", "b="+w.b, "--shard", "c="+closed, "--shard", "w="+servers.w.DSN(), "--target", "x="+closed, "--target", "self="+w.b)
	w.wants(r.err, "subscription bad cannot be created, nothing was changed",
		"shard twin: it is the same database as shard a",
		`shard b: "public"."bare" has no replica identity`, "REPLICA IDENTITY FULL",
		"shard c: no connection: ", "check host, port, database, user, password and pg_hba.conf",
		"shard w: wal_level is replica. Try: ALTER SYSTEM SET wal_level = logical",
		"target x: no connection", "target self: it is one of the shards")
	w.nothingLeft()

	w.wants(w.run(1, "create-subscription", "bad", "--shard", "a="+w.a, "--publication", "nope").err, `shard a: publication "nope" does not exist`)
	w.wants(w.run(1, "create-subscription", "bad", "--shard", "a="+w.a, "--tables", "public.nothing").err, "public.nothing matches no table")
	w.wants(w.run(1, "create-subscription", "bad", "--shard", "a="+w.a+"&password=${NO_SUCH}").err, "refers to ${NO_SUCH}, which is not set")
	w.nothingLeft()
}

// The wrong password is in no output.
func TestNoPasswordIsShown(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "CDC_TEST_SECRET=swordfish")
	dsn := strings.Replace(w.a, "postgres@127.0.0.1", "postgres:${CDC_TEST_SECRET}@127.0.0.1", 1)
	r := w.create("quiet", "--shard", "a="+dsn)
	all := r.out + r.err
	for _, args := range [][]string{
		{"list"}, {"list", "-o", "json"}, {"status", "quiet"}, {"status", "quiet", "-o", "json"}, {"check", "quiet"}, {"drop-subscription", "quiet"},
	} {
		r := w.run(0, args...)
		all += r.out + r.err
	}
	r = w.run(1, "check", "--shard", "a="+strings.Replace(dsn, "/d", "/nodb", 1))
	all += r.out + r.err
	if strings.Contains(all, "swordfish") {
		t.Errorf("the password is shown:\n%s", all)
	}
	w.wants(all, "${CDC_TEST_SECRET}")
	w.nothingLeft()
}

// Slots and publications that somebody else made are not taken, and given ones are used and stay.
func TestGivenSlotAndPublication(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "CREATE PUBLICATION p FOR TABLE accounts", "SELECT pg_create_logical_replication_slot('cdc_mine_a', 'pgoutput', false, false)",
		"SELECT pg_create_logical_replication_slot('given', 'pgoutput', false, true)")
	w.wants(w.run(1, "create-subscription", "mine", "--shard", "a="+w.a).err, `slot "cdc_mine_a" exists already`, "pg_drop_replication_slot('cdc_mine_a')")
	w.wants(w.run(1, "create-subscription", "s", "--shard", "a="+w.a, "--slot", "cdc_mine_a", "--publication", "p").err, "made without two_phase")
	w.sql(w.a, "CREATE PUBLICATION cdc_other FOR TABLE accounts")
	w.wants(w.run(1, "create-subscription", "other", "--shard", "a="+w.a).err, `publication "cdc_other" exists already`)
	w.sql(w.a, "DROP PUBLICATION cdc_other", "SELECT pg_drop_replication_slot('cdc_mine_a')")

	stop := w.read("given", "p")
	w.wants(w.run(1, "create-subscription", "s", "--shard", "a="+w.a, "--slot", "given", "--publication", "p").err, `slot "given" is in use by pid`)
	stop()
	w.until("the slot is free", func() bool {
		return w.query(w.a, "SELECT active::text FROM pg_replication_slots WHERE slot_name = 'given'") == "false"
	})
	w.create("s", "--shard", "a="+w.a, "--slot", "given", "--publication", "p")
	w.startNode()
	w.run(0, "resume", "s")
	w.sql(w.a, "INSERT INTO accounts VALUES (1, 'Alice', 1)")
	w.run(0, "wait", "s", "--for", "published")
	w.wants(w.run(0, "tail", "s", "--follow=false").out, `id=1 owner="Alice"`)
	w.run(0, "drop-subscription", "s")
	if got := w.query(w.a, "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"); got != "given" {
		t.Errorf("the given slot is gone: %q", got)
	}
	if got := w.query(w.a, "SELECT pubname::text FROM pg_publication"); got != "p" {
		t.Errorf("the given publication is gone: %q", got)
	}
	w.sql(w.a, "SELECT pg_drop_replication_slot('given')", "DROP PUBLICATION p")
	w.nothingLeft()
}

// read holds a slot as another reader would.
func (w *world) read(slot, publication string) (stop func()) {
	w.Helper()
	conn, err := pgconn.Connect(w.Context(), w.a+"&replication=database&application_name=other")
	if err != nil {
		w.Fatal(err)
	}
	err = pglogrepl.StartReplication(w.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + publication + "'"},
	})
	if err != nil {
		w.Fatal(err)
	}
	return func() { _ = conn.Close(w.Context()) }
}

func TestExcludedTables(t *testing.T) {
	w := newWorld(t)
	w.sql(w.a, "CREATE TABLE audit (id int)", "CREATE TABLE orders_1 (id int PRIMARY KEY)", `CREATE TABLE "Orders" (id int PRIMARY KEY)`)
	w.create("some", "--shard", "a="+w.a, "--tables", `public.*,-public.audit,-public."Orders"`)
	if got := w.query(w.a, "SELECT tablename::text FROM pg_publication_tables ORDER BY 1"); got != "accounts orders_1" {
		t.Errorf("published: %q", got)
	}
	w.run(0, "drop-subscription", "some")
	w.nothingLeft()
}

// A shard that cannot be reached: the drop says so, stays resumable, and goes on; or forgets the shard.
func TestDropWithoutAShard(t *testing.T) {
	w := newWorld(t)
	own, err := throwaway.Start(t.Context(), throwaway.Options{Name: "own"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	w.sql(own.DSN(), "CREATE TABLE accounts (id int PRIMARY KEY)")
	stop := func() {
		t.Helper()
		if err := own.Stop(t.Context(), throwaway.Fast); err != nil {
			t.Fatal(err)
		}
	}
	w.create("part", "--shard", "a="+w.a, "--shard", "own="+own.DSN())
	stop()
	r := w.run(1, "drop-subscription", "part")
	w.wants(r.err, "subscription part stays in state dropping", "shard own", "--force")
	w.wants(r.out, "removed shard a: slot cdc_part")
	w.wants(w.run(0, "status", "part").out, "part: dropping. Try: cdcctl drop-subscription part, which goes on")
	w.wants(w.run(1, "resume", "part").err, "is being dropped")
	if err := own.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wants(w.run(0, "drop-subscription", "part").out, "removed shard own: slot cdc_part_own")
	w.nothingLeft()

	w.create("part", "--shard", "a="+w.a, "--shard", "own="+own.DSN())
	stop()
	var dropped subscribe.Dropped
	w.decode(w.run(0, "drop-subscription", "part", "--force", "-o", "json").out, &dropped)
	if len(dropped.Left) != 1 || !strings.Contains(dropped.Left[0], "pg_drop_replication_slot('cdc_part_own')") {
		t.Errorf("left behind: %q", dropped.Left)
	}
	w.nothingLeft()
}

// A lost Create may leave a stream without an entry; dropping the name removes it.
func TestDropLeftoverStream(t *testing.T) {
	w := newWorld(t)
	w.create("ghost", "--shard", "a="+w.a)
	catalog, err := control.OpenCatalog(t.Context(), w.bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.Delete(t.Context(), "ghost"); err != nil {
		t.Fatal(err)
	}
	w.sql(w.a, "SELECT pg_drop_replication_slot('cdc_ghost_a')", "DROP PUBLICATION cdc_ghost")
	w.wants(w.run(1, "create-subscription", "ghost", "--shard", "a="+w.a).err, "create stream CDC_ghost: it exists already", "cdcctl drop-subscription ghost", "Everything that had been made was removed again")
	w.wants(w.run(0, "drop-subscription", "ghost").out, "removed stream CDC_ghost")
	w.nothingLeft()
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	r := w.run(0, "check", "--shard", "a="+w.a, "--shard", "b="+w.b, "--target", w.target)
	w.wants(r.out, "NATS: nats-server 2.", "shard a: wal_level is logical", "clocks: shard ", "target target1: every table (1) is there with its columns, and role postgres may write it", "0 errors, 0 warnings.")
	w.sql(w.a, "CREATE TABLE extra (id int PRIMARY KEY)", "ALTER TABLE accounts ADD COLUMN note text, ADD COLUMN twice numeric GENERATED ALWAYS AS (balance * 2) STORED",
		"CREATE SCHEMA parts", "CREATE TABLE parts.whole (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE parts.one PARTITION OF parts.whole DEFAULT")
	w.sql(w.target, "CREATE SCHEMA parts", "CREATE TABLE parts.whole (id int PRIMARY KEY)")
	w.sql(w.target, "DROP ROLE IF EXISTS cdc_low", "CREATE ROLE cdc_low LOGIN", "GRANT INSERT ON accounts TO cdc_low")
	low := strings.Replace(w.target, "postgres@", "cdc_low@", 1)
	var findings []subscribe.Finding
	w.decode(w.run(1, "check", "-o", "json", "--copy-data=false", "--shard", "a="+w.a, "--tables", "public.*,parts.*", "--target", "low="+low).out, &findings)
	var texts []string
	for _, f := range findings {
		if f.Severity != subscribe.Info {
			texts = append(texts, string(f.Severity)+" "+f.String())
		}
	}
	all := strings.Join(texts, "\n")
	w.wants(all, "error target low: role cdc_low may not create the schema cdc", "GRANT CREATE ON DATABASE", "error target low: role cdc_low may not set session_replication_role",
		"warning target low: tables are missing there: public.extra;", "target low: columns are missing there: public.accounts (note);", `ALTER TABLE "public"."accounts" ADD COLUMN "note" `,
		`target low: role cdc_low may not use the schemas of tables: "parts";`, `GRANT USAGE ON SCHEMA "parts" TO "cdc_low"`,
		"target low: role cdc_low lacks rights on tables: parts.whole (SELECT, INSERT, UPDATE, DELETE), public.accounts (SELECT, UPDATE, DELETE);",
		`GRANT SELECT, INSERT, UPDATE, DELETE ON "parts"."whole", "public"."accounts" TO "cdc_low"`)
	if len(texts) != 6 {
		t.Errorf("findings:\n%s", all)
	}
	w.sql(w.target, "GRANT CREATE ON DATABASE "+w.query(w.target, "SELECT current_database()::text")+" TO cdc_low", "GRANT SET ON PARAMETER session_replication_role TO cdc_low",
		`GRANT USAGE ON SCHEMA "parts" TO "cdc_low"`, `GRANT SELECT, INSERT, UPDATE, DELETE ON "parts"."whole", "public"."accounts" TO "cdc_low"`)
	w.wants(w.run(0, "check", "--copy-data=false", "--shard", "a="+w.a, "--tables", "public.*,parts.*", "--target", "low="+low).out, "0 errors, 2 warnings.")

	w.env = append(w.env, "CDC_NATS=nats://127.0.0.1:1")
	w.wants(w.run(1, "check", "--shard", "a="+w.a).out, "error    NATS: connect to NATS", "shard a: wal_level is logical", "1 error, ")
}

func TestCheckExistingFindsWhatIsGone(t *testing.T) {
	w := newWorld(t)
	w.create("worn", "--shard", "a="+w.a, "--shard", "b="+w.b)
	w.sql(w.a, "SELECT pg_drop_replication_slot('cdc_worn_a')")
	w.sql(w.b, "DROP PUBLICATION cdc_worn")
	if err := w.bus.JS.DeleteStream(t.Context(), "CDC_worn"); err != nil {
		t.Fatal(err)
	}
	w.wants(w.run(1, "check", "worn").out, `shard a: slot "cdc_worn_a" does not exist`, `shard b: publication "cdc_worn" does not exist`, "stream CDC_worn: it is gone", "3 errors")
	w.run(0, "drop-subscription", "worn")
	w.nothingLeft()
}
