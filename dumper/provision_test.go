package dumper_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
)

// freshDatabase is a database without slot or publication.
func freshDatabase(t *testing.T) (*pgx.Conn, string) {
	t.Helper()
	name := fmt.Sprintf("d%d", databases.Add(1))
	exec(t, connect(t, server.DSN()), "CREATE DATABASE "+name)
	return connect(t, server.DSNFor(name)), server.DSNFor(name)
}

func spec(dsn string, tables ...string) dumper.ProvisionSpec {
	return dumper.ProvisionSpec{DSN: dsn, Name: "a", Slot: "cdc_prov", Publication: "cdc_prov", Tables: tables}
}

// nothingLeft: neither slot nor publication.
func nothingLeft(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	var slots, publications int
	row(t, conn, "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'cdc_prov%'), (SELECT count(*) FROM pg_publication)", &slots, &publications)
	if slots+publications != 0 {
		t.Errorf("%d slots and %d publications are left", slots, publications)
	}
}

func TestProvisionAndDeprovision(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE a (id int PRIMARY KEY)", `CREATE SCHEMA "My.S"`, `CREATE TABLE "My.S"."T ""x" (id int PRIMARY KEY)`,
		"CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)",
		"CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)", "CREATE TABLE other (id int)",
		"CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child () INHERITS (parent)")
	ctx := context.Background()
	exec(t, conn, "CREATE TABLE audit (id int)")
	out, err := dumper.Provision(ctx, spec(dsn, "-public.audit", "-public.no*", "public.a*", `"My.S"."T ""x"`, "public.parted*", "public.fleet*", "public.parent", "PUBLIC.A"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`"My.S"."T ""x"`, `"public"."a"`, `"public"."parent"`, `"public"."parted"`}
	if d := cmp.Diff(want, out.Tables); d != "" {
		t.Error(d)
	}
	if len(out.Notes) != 2 || !strings.Contains(out.Notes[0], `"public"."fleeting" is left out: it is unlogged`) ||
		!strings.Contains(out.Notes[1], "-public.no* excludes no table") {
		t.Errorf("notes %q", out.Notes)
	}
	got := newSink()
	d := start(t, dumper.Source{
		Shard: 4, Name: "a", DSN: dsn, Slot: out.Slot, Publications: out.Publications, SystemID: out.SystemID, Timeline: out.Timeline, Start: out.Start,
	}, got, dumper.Options{})
	exec(t, conn, "INSERT INTO parted VALUES (1)", "INSERT INTO other VALUES (2)", "INSERT INTO child VALUES (3)", `INSERT INTO "My.S"."T ""x" VALUES (4)`, "UPDATE parted SET id = 5")
	got.wait(t, "three records", func() bool { return len(got.records) == 3 })
	if s := got.story(); s != "commit insert(1) commit insert(4) commit update(5)" {
		t.Errorf("got %s", s)
	}
	if rel := got.records[0].Fragment.Relations[0].Relation.String(); rel != "public.parted" {
		t.Errorf("a partition's row came as %s", rel)
	}
	again, err := dumper.Provision(ctx, spec(dsn, "public.a"))
	if err == nil || !strings.Contains(err.Error(), `publication "cdc_prov" exists already. Try: --publication cdc_prov`) {
		t.Errorf("again: %+v %v", again, err)
	}
	// The walsender still runs: Deprovision ends it.
	gone, err := dumper.Deprovision(ctx, dumper.DeprovisionSpec{DSN: dsn, Name: "a", Slot: "cdc_prov", Publication: "cdc_prov"})
	if err != nil || gone != (dumper.Deprovisioned{Slot: "cdc_prov", Publication: "cdc_prov"}) {
		t.Errorf("%+v %v", gone, err)
	}
	if err := d.failed(); err == nil || !strings.Contains(err.Error(), `slot "cdc_prov" does not exist`) {
		t.Errorf("the dumper of a dropped slot: %v", err)
	}
	nothingLeft(t, conn)
	gone, err = dumper.Deprovision(ctx, dumper.DeprovisionSpec{DSN: dsn, Name: "a", Slot: "cdc_prov", Publication: "cdc_prov"})
	if err != nil || gone != (dumper.Deprovisioned{}) {
		t.Errorf("the second time: %+v %v", gone, err)
	}
}

func TestDeprovisionLeavesWhatIsNotOurs(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE PUBLICATION mine")
	gone, err := dumper.Deprovision(context.Background(), dumper.DeprovisionSpec{DSN: dsn, Slot: "none", Publication: "mine"})
	if err != nil || gone != (dumper.Deprovisioned{}) {
		t.Errorf("%+v %v", gone, err)
	}
}

func TestProvisionRefuses(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE good (id int PRIMARY KEY)", "CREATE TABLE full_ident (id int)", "ALTER TABLE full_ident REPLICA IDENTITY FULL",
		"CREATE TABLE bare (id int)", "CREATE TABLE nothing (id int PRIMARY KEY)", "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
		"CREATE TABLE parted (id int) PARTITION BY RANGE (id)", "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)",
		"CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)")
	for _, test := range []struct {
		name   string
		tables []string
		want   []string
	}{
		{"identity", []string{"public.*"}, []string{
			`shard a: these tables cannot be published:`,
			`"public"."bare" has no replica identity: every UPDATE and DELETE on it would fail. Try: ALTER TABLE "public"."bare" ADD PRIMARY KEY (...), or ALTER TABLE "public"."bare" REPLICA IDENTITY FULL`,
			`"public"."nothing" has no replica identity`, `"public"."parted_1" has no replica identity`,
		}},
		{"unlogged by name", []string{"public.fleeting"}, []string{`ALTER TABLE "public"."fleeting" SET LOGGED`}},
		{"no such table", []string{"public.good", "public.nope"}, []string{"public.nope matches no table. Try: correct the name"}},
		{"no schema", []string{"good"}, []string{`table pattern "good" names no schema. Try: public.good`}},
		{"no name", []string{"public."}, []string{"is no name"}},
		{"open quote", []string{`public."x`}, []string{"does not end"}},
		{"three parts", []string{`a.b.c`}, []string{`".c" is left over`}},
		{"a misspelt one among exclusions", []string{"public.good", "public.godo", "-public.bare"}, []string{"public.godo matches no table"}},
		{"all excluded", []string{"public.good", "-public.g*"}, []string{"no table is left to publish"}},
		{"none", nil, []string{"neither tables nor publications are given"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := dumper.Provision(context.Background(), spec(dsn, test.tables...))
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "full_ident") {
				t.Errorf("full_ident has an identity: %v", err)
			}
			nothingLeft(t, conn)
		})
	}
}

// TestProvisionBlocked: making the slot would wait for a prepared transaction and an open one; both are named, and the
// publication that was made before is gone again.
func TestProvisionBlocked(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE t (id int PRIMARY KEY)", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'old one'")
	open := connect(t, dsn)
	exec(t, open, "BEGIN", "INSERT INTO t VALUES (2)")
	s := spec(dsn, "public.t")
	s.SlotTimeout = 300 * time.Millisecond
	_, err := dumper.Provision(context.Background(), s)
	for _, want := range []string{`slot "cdc_prov" could not be made within 300ms`, "prepared transaction 'old one'", fmt.Sprintf("pid %d,", open.PgConn().PID()), "Try: finish them"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	nothingLeft(t, conn)
	exec(t, open, "ROLLBACK")
	exec(t, conn, "ROLLBACK PREPARED 'old one'")
}

// TestProvisionCancelled: the caller gives up while the slot is being made.
func TestProvisionCancelled(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE t (id int PRIMARY KEY)", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'old two'")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := dumper.Provision(ctx, spec(dsn, "public.t"))
		done <- err
	}()
	await(t, "the slot is being made", func() bool {
		var n int
		row(t, conn, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_create_logical%' AND wait_event_type = 'Lock' AND application_name = 'cdc cdc_prov'", &n)
		return n > 0
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	exec(t, conn, "ROLLBACK PREPARED 'old two'")
	nothingLeft(t, conn)
}

// TestProvisionFailoverSlot: a standby that is promoted has the slot, from 17 on. A server that refuses failover together
// with two_phase gets a plain slot, and the caller is told.
func TestProvisionFailoverSlot(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE t (id int PRIMARY KEY)")
	refused := false
	if server.Version() >= 17 {
		_, err := conn.Exec(t.Context(), "SELECT pg_create_logical_replication_slot('cdc_prov_try', 'pgoutput', false, true, true)")
		refused = err != nil
		if !refused {
			exec(t, conn, "SELECT pg_drop_replication_slot('cdc_prov_try')")
		}
	}
	out, err := dumper.Provision(t.Context(), spec(dsn, "public.t"))
	if err != nil {
		t.Fatal(err)
	}
	var twoPhase, failover bool
	row(t, conn, "SELECT two_phase, coalesce(to_jsonb(s) ->> 'failover', 'f')::bool FROM pg_replication_slots AS s WHERE slot_name = 'cdc_prov'", &twoPhase, &failover)
	want := server.Version() >= 17 && !refused
	if !twoPhase || failover != want || out.Failover != want || (len(out.Notes) > 0) != refused {
		t.Errorf("PostgreSQL %d (refused %v): two_phase %v, failover %v; %+v", server.Version(), refused, twoPhase, failover, out)
	}
	if _, err := dumper.Deprovision(t.Context(), dumper.DeprovisionSpec{DSN: dsn, Slot: "cdc_prov", Publication: "cdc_prov"}); err != nil {
		t.Error(err)
	}
	nothingLeft(t, conn)
}

// TestProvisionGenerated: a published table never makes updates fail on the source, and its rows can be found again.
func TestProvisionGenerated(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE whole (a int, g int GENERATED ALWAYS AS (a * 2) STORED)", "ALTER TABLE whole REPLICA IDENTITY FULL",
		"CREATE TABLE plain (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED)",
		"CREATE TABLE keyed (a int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)")
	if server.Version() >= 18 {
		exec(t, conn, "CREATE TABLE virt (a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL)", "ALTER TABLE virt REPLICA IDENTITY FULL",
			"CREATE TABLE virt_key (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) VIRTUAL)")
	}
	_, err := dumper.Provision(t.Context(), spec(dsn, "public.*"))
	for name, want := range map[string]bool{
		`"whole" has`: false, `"plain" has`: false, `"virt_key" has`: false,
		`"keyed" has a generated column in its replica identity, which PostgreSQL`:                                       server.Version() < 18,
		`"virt" has a virtual generated column in its replica identity: every UPDATE and DELETE on it would fail. Try: `: server.Version() >= 18,
	} {
		if err == nil || strings.Contains(err.Error(), name) != want {
			t.Errorf("%s: want %v in error %v", name, want, err)
		}
	}
	nothingLeft(t, conn)
	patterns := []string{"public.plain", "public.whole"}
	if server.Version() >= 18 {
		patterns = append(patterns, "public.keyed", "public.virt_key")
	}
	out, err := dumper.Provision(t.Context(), spec(dsn, patterns...))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Notes) > 0 != (server.Version() >= 18) {
		t.Errorf("notes %q", out.Notes)
	}
	for _, table := range out.Tables {
		column := "a"
		if strings.Contains(table, "plain") || strings.Contains(table, "virt_key") {
			column = "id"
		}
		exec(t, conn, fmt.Sprintf("INSERT INTO %s VALUES (1)", table), fmt.Sprintf("UPDATE %s SET %s = 2", table, column), "DELETE FROM "+table)
	}
	if _, err := dumper.Deprovision(t.Context(), dumper.DeprovisionSpec{DSN: dsn, Slot: "cdc_prov", Publication: "cdc_prov"}); err != nil {
		t.Error(err)
	}
	nothingLeft(t, conn)
}

func TestProvisionWithWhatExists(t *testing.T) {
	s := newShard(t)
	out, err := dumper.Provision(context.Background(), dumper.ProvisionSpec{DSN: s.src.DSN, Name: "a", Slot: s.src.Slot, UseSlot: true, Publications: []string{"p"}})
	if err != nil || out.Start != s.src.Start || out.SystemID != s.src.SystemID {
		t.Errorf("%+v %v, want start %s", out, err, s.src.Start)
	}
	_, err = dumper.Provision(context.Background(), dumper.ProvisionSpec{DSN: s.src.DSN, Name: "a", Slot: "x", UseSlot: true, Publications: []string{"p"}})
	if err == nil || !strings.Contains(err.Error(), `shard a: slot "x" does not exist`) {
		t.Errorf("error %v", err)
	}
	_, err = dumper.Provision(context.Background(), dumper.ProvisionSpec{DSN: s.src.DSN, Name: "a", Slot: s.src.Slot, Publications: []string{"p"}})
	if err == nil || !strings.Contains(err.Error(), "exists already. Try: another name, or SELECT pg_drop_replication_slot(") {
		t.Errorf("error %v", err)
	}
	_, err = dumper.Provision(context.Background(), dumper.ProvisionSpec{DSN: s.src.DSN, Name: "a", Slot: "x", Publications: []string{"nope"}})
	if err == nil || !strings.Contains(err.Error(), `publication "nope" does not exist`) {
		t.Errorf("error %v", err)
	}
}
