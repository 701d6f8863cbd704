package matrix

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/throwaway"
)

func run(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql[:min(len(sql), 300)], err)
		}
	}
}

// The same statements give the same rows, and every difference that is planted then is found.
func TestCompare(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a server")
	}
	server, err := throwaway.Start(t.Context(), throwaway.Options{Name: "matrix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := New(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	const shards = 2
	var dsns []string
	for _, name := range []string{"a", "b", "target"} {
		run(t, server.DSN(), "CREATE DATABASE "+name)
		dsns = append(dsns, server.DSNFor(name))
	}
	target := dsns[shards]
	run(t, target, m.DDL(Target))
	for i, dsn := range dsns[:shards] {
		fill := append(append([]string{"BEGIN"}, m.Fill(i, shards)...), "COMMIT")
		run(t, dsn, append([]string{m.DDL(Source)}, fill...)...)
		run(t, target, fill...)
	}
	tables := slices.DeleteFunc(m.Tables(), func(name string) bool { // these have defaults of a time and of a sequence
		return name == "public.serials" || name == "public.identity_beside"
	})
	compare := func(tables ...string) Difference {
		t.Helper()
		d, err := Compare(t.Context(), tables, dsns[:shards], target)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := compare(tables...)
	if d.Count != 0 || d.Tables != len(tables) || d.Rows < 10_000 {
		t.Fatalf("%+v", d)
	}
	t.Logf("%d types, %d tables, %d rows", m.Kinds(), d.Tables, d.Rows)
	text := slices.IndexFunc(m.kinds, func(k kind) bool { return k.typ == "text" })
	number := slices.IndexFunc(m.kinds, func(k kind) bool { return k.typ == "numeric" })
	found := map[string]int64{}
	for _, planted := range []struct {
		table, sql string
		count      int64
	}{
		{"public.types", fmt.Sprintf("UPDATE types SET c%d = '' WHERE id = (SELECT min(id) FROM types WHERE c%[1]d IS NULL)", text), 2},
		{"public.types", fmt.Sprintf("UPDATE types SET c%d = '1.00' WHERE id = (SELECT min(id) FROM types WHERE c%[1]d::text = '1.0')", number), 2},
		{"public.full_with_key", "UPDATE full_with_key SET v = 0 WHERE id = (SELECT min(id) FROM full_with_key WHERE v::text = '-0')", 2},
		{"public.duplicates", "DELETE FROM duplicates WHERE ctid = (SELECT min(ctid) FROM duplicates WHERE b = 'x')", 1},
		{"public.no_columns", "DELETE FROM no_columns WHERE ctid = (SELECT min(ctid) FROM no_columns)", 1},
		{"public.empty_full", "INSERT INTO empty_full VALUES (NULL)", 1},
		{"public.by_range", "UPDATE by_range SET v = -1 WHERE id = 1", 2},
		{"public.child_of", "UPDATE child_of SET extra = 'y' WHERE id = 101", 2},
		{`"s.ch.""q"."Ünï.cödé 日本語"`, `UPDATE "s.ch.""q"."Ünï.cödé 日本語" SET "%d" = NULL WHERE "select" = 1`, 2},
		{"public.toast", "UPDATE toast SET b = substr(b, 2) WHERE id = 20", 2},
		{"public.wide", "UPDATE wide SET c1598 = c1598 + 1 WHERE id = 0", 2},
	} {
		run(t, target, planted.sql)
		before := found[planted.table]
		if d := compare(planted.table); d.Count != before+planted.count {
			t.Errorf("%s: %d differences more, want %d: %s", planted.sql, d.Count-before, planted.count, strings.Join(d.Examples, "\n"))
		}
		found[planted.table] += planted.count
	}
}
