package dumper_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/dumper"
)

// findings lists what is not fine, one line each.
func findings(t *testing.T, spec dumper.CheckSpec) (lines []string) {
	t.Helper()
	all, err := dumper.Check(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Error("nothing was looked at")
	}
	for _, f := range all {
		if f.Severity != dumper.OK {
			if f.Try == "" && !strings.Contains(f.What, "Try: ") {
				t.Errorf("%q says not what to do", f.What)
			}
			lines = append(lines, f.Severity.String()+": "+f.What)
		}
	}
	return lines
}

// owners lists the remedies for tables of others.
func owners(t *testing.T, dsn string) (tries []string) {
	t.Helper()
	all, err := dumper.Check(context.Background(), dumper.CheckSpec{DSN: dsn, Tables: []string{"public.*"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if strings.Contains(f.What, "may not publish tables of role") {
			tries = append(tries, f.Try)
		}
	}
	return tries
}

func TestCheck(t *testing.T) {
	conn, dsn := freshDatabase(t)
	exec(t, conn, "CREATE TABLE good (id int PRIMARY KEY)")
	if got := findings(t, dumper.CheckSpec{DSN: dsn, Tables: []string{"public.*"}}); got != nil {
		t.Errorf("a good shard: %q", got)
	}
	exec(t, conn, "CREATE TABLE bare (id int)", "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
		"DROP ROLE IF EXISTS cdc_low", "CREATE ROLE cdc_low LOGIN",
		"DROP ROLE IF EXISTS app_owner", "CREATE ROLE app_owner", "CREATE TABLE other (id int PRIMARY KEY)", "ALTER TABLE good OWNER TO app_owner", "BEGIN; INSERT INTO good VALUES (1); PREPARE TRANSACTION 'check'")
	low := strings.Replace(dsn, "postgres@", "cdc_low@", 1)
	got := findings(t, dumper.CheckSpec{DSN: low, Tables: []string{"public.*"}})
	exec(t, conn, "ROLLBACK PREPARED 'check'")
	for i, line := range got {
		if strings.Contains(line, "prepared transaction 'check', since ") {
			got[i] = "warning: prepared transaction"
		}
	}
	want := []string{
		`error: role "cdc_low" may not replicate`, `error: role "cdc_low" may not create a publication`, "warning: prepared transaction",
		`error: "public"."bare" has no replica identity: every UPDATE and DELETE on it would fail`,
		`warning: "public"."fleeting" is left out: it is unlogged`,
		`error: role "cdc_low" may not publish tables of role "app_owner": "public"."good"`,
		`error: role "cdc_low" may not publish tables of role "postgres": "public"."bare", "public"."other"`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if tries := owners(t, low); !slices.Equal(tries, []string{
		`GRANT "app_owner" TO "cdc_low", or have "app_owner" create a publication, and name it with --publication`,
		`have "postgres" create a publication, and name it with --publication`, // not GRANT: it is a superuser
	}) {
		t.Errorf("%q", tries)
	}
	exec(t, conn, "GRANT app_owner, postgres TO cdc_low")
	if tries := owners(t, low); tries != nil {
		t.Errorf("after the GRANT: %q", tries)
	}
	exec(t, conn, "ALTER TABLE good OWNER TO postgres", "DROP ROLE app_owner")
	if got := findings(t, dumper.CheckSpec{DSN: dsn, Publications: []string{"nope"}}); len(got) != 1 || got[0] != `error: publication "nope" does not exist` {
		t.Errorf("%q", got)
	}
	if got := findings(t, dumper.CheckSpec{DSN: "postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable"}); len(got) != 1 || !strings.HasPrefix(got[0], "error: no connection") || strings.Contains(got[0], "hunter2") {
		t.Errorf("%q", got)
	}
	if got := findings(t, dumper.CheckSpec{DSN: dsn, Tables: []string{"nope"}}); len(got) != 1 || !strings.Contains(got[0], "Try: public.nope") {
		t.Errorf("%q", got)
	}
	if server.Version() >= 18 { // last, because it stays for a moment
		exec(t, conn, "ALTER SYSTEM SET idle_replication_slot_timeout = '1d'", "SELECT pg_reload_conf()")
		await(t, "the setting holds", func() bool {
			got := findings(t, dumper.CheckSpec{DSN: dsn, Publications: []string{"nope"}})
			return len(got) == 2 && strings.Contains(got[0], "idle_replication_slot_timeout is 1d")
		})
		exec(t, conn, "ALTER SYSTEM RESET idle_replication_slot_timeout", "SELECT pg_reload_conf()")
	}
}
