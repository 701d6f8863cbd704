package subscribe_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

// triggers counts the event triggers on a database.
func triggers(t *testing.T, dsn string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_event_trigger").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// The event triggers come and go with the subscription, and check looks for them.
func TestDDLTriggers(t *testing.T) {
	server, err := throwaway.Start(t.Context(), throwaway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	dsn := server.DSN()
	exec(t, dsn, "CREATE TABLE accounts (id int PRIMARY KEY)", "CREATE TABLE audit (id int PRIMARY KEY)", "CREATE ROLE plain LOGIN REPLICATION", "GRANT CREATE ON DATABASE postgres TO plain")
	bus := natstest.Bus(t)
	spec := subscribe.Spec{Name: "bank", Shards: []subscribe.Shard{{Name: "a", DSN: dsn}}, DDL: control.DDLStop}

	warned := false
	asPlain := spec
	asPlain.Shards = []subscribe.Shard{{Name: "a", DSN: strings.Replace(dsn, "//postgres@", "//plain@", 1)}}
	for _, f := range subscribe.Check(t.Context(), bus, asPlain) {
		warned = warned || strings.Contains(f.What, "role plain is no superuser")
	}
	if !warned {
		t.Error("check does not say that the role may not make event triggers")
	}

	failing := spec
	failing.Slot, failing.Publications = "nothere", []string{"neither"}
	if _, _, err := subscribe.Create(t.Context(), bus, failing); err == nil || triggers(t, dsn) != 0 {
		t.Error("a failed Create left triggers:", triggers(t, dsn), err)
	}

	sub, _, err := subscribe.Create(t.Context(), bus, spec)
	if err != nil {
		t.Fatal(err)
	}
	missing := func() bool {
		for _, f := range subscribe.CheckExisting(t.Context(), bus, sub) {
			if strings.Contains(f.What, "event triggers that capture DDL are missing") {
				return true
			}
		}
		return false
	}
	if missing() {
		t.Error("they are there, and check misses them")
	}
	exec(t, dsn, "DROP EVENT TRIGGER cdc_bank_ddl_end")
	if !missing() {
		t.Error("one is gone, and check says nothing")
	}
	if err := subscribe.InstallDDL(t.Context(), sub); err != nil || missing() {
		t.Error("not made anew:", err)
	}
	dropped, err := subscribe.Drop(t.Context(), bus, "bank", subscribe.Options{})
	if err != nil || triggers(t, dsn) != 0 || !strings.Contains(strings.Join(dropped.Removed, "\n"), "shard a: event trigger cdc_bank_ddl_drop") {
		t.Errorf("%+v, %v, %d triggers are left", dropped, err, triggers(t, dsn))
	}
}
