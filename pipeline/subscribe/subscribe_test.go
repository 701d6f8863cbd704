package subscribe_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

func exec(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestCreateAndDrop(t *testing.T) {
	servers, err := throwaway.StartMany(t.Context(), throwaway.Options{Name: "a"}, throwaway.Options{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		t.Cleanup(func() { _ = s.Close() })
		exec(t, s.DSN(), "CREATE TABLE accounts (id int PRIMARY KEY)")
	}
	bus := natstest.Bus(t)
	sub, notes, err := subscribe.Create(t.Context(), bus, subscribe.Spec{
		Name: "bank", Shards: []subscribe.Shard{{Name: "a", DSN: servers[0].DSN()}, {Name: "b", DSN: servers[1].DSN()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		if n.Severity != subscribe.Info {
			t.Errorf("a note on good shards: %s", n)
		}
	}
	for i, sh := range sub.Shards {
		if sh.Slot != "cdc_bank_"+sh.Name || !sh.OwnSlot || sh.SystemID == "" || sh.Timeline == 0 || sh.Start == 0 || sh.DSN != servers[i].DSN() {
			t.Errorf("shard %d: %+v", i, sh)
		}
	}
	_, _, err = subscribe.Create(t.Context(), bus, subscribe.Spec{Name: "bank", Shards: []subscribe.Shard{{Name: "a", DSN: servers[0].DSN()}}})
	if err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("the same name again: %v", err)
	}
	dropped, err := subscribe.Drop(t.Context(), bus, "bank", subscribe.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(dropped.Removed) != 6 || len(dropped.Left) != 0 { // two slots, two publications, stream, entry
		t.Errorf("dropped: %+v", dropped)
	}
	if _, err := subscribe.Drop(t.Context(), bus, "bank", subscribe.Options{}); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("dropped again: %v", err)
	}
}

// Shards may be databases of one server, where slots have one name space; long names are shortened.
func TestShardsOfOneServer(t *testing.T) {
	server, err := throwaway.Start(t.Context(), throwaway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	long := strings.Repeat("n", 40)
	spec := subscribe.Spec{Name: long}
	for _, name := range []string{"a" + long[1:], "b" + long[1:]} {
		exec(t, server.DSN(), "CREATE DATABASE "+name)
		exec(t, server.DSNFor(name), "CREATE TABLE accounts (id int PRIMARY KEY)")
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: name, DSN: server.DSNFor(name)})
	}
	bus := natstest.Bus(t)
	if _, _, err := subscribe.Create(t.Context(), bus, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := subscribe.Drop(t.Context(), bus, long, subscribe.Options{}); err != nil {
		t.Fatal(err)
	}
}
