package subscribe_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

// A thousand tables are looked at within seconds, and a large one without a scan.
func TestKeysOfManyTables(t *testing.T) {
	server, err := throwaway.Start(t.Context(), throwaway.Options{Settings: map[string]string{"max_locks_per_transaction": "4096"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	spec := subscribe.Spec{CopyData: true}
	for i, name := range []string{"a", "b", "c"} {
		exec(t, server.DSN(), "CREATE DATABASE "+name)
		exec(t, server.DSNFor(name),
			fmt.Sprintf("DO $$BEGIN FOR i IN 1 .. 1000 LOOP EXECUTE format('CREATE TABLE t%%s (id int PRIMARY KEY); INSERT INTO t%%s SELECT n * 3 + %d FROM generate_series(1, 60) n', i, i); END LOOP; END$$", i),
			fmt.Sprintf("CREATE TABLE big (id int PRIMARY KEY); INSERT INTO big SELECT n * 3 + %d FROM generate_series(1, 200000) n", i))
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: name, DSN: server.DSNFor(name)})
	}
	shared := func(when string) (found []string) {
		t.Helper()
		began := time.Now()
		for _, f := range subscribe.Check(t.Context(), nil, spec) {
			if f.About == "copy" {
				found = append(found, f.String())
			}
		}
		t.Logf("%s: %s", when, time.Since(began).Round(time.Millisecond))
		return found
	}
	if found := shared("unique"); len(found) > 0 {
		t.Errorf("keys are unique: %q", found)
	}
	exec(t, server.DSNFor("c"), "INSERT INTO t777 VALUES (3)", "INSERT INTO big VALUES (600000)")
	found := shared("on two shards")
	for _, want := range []string{"public.big, (id) = (600000) on shards a and c", "public.t777, (id) = (3) on shards a and c"} {
		if len(found) != 1 || !strings.Contains(strings.ReplaceAll(found[0], "shards c and a", "shards a and c"), want) {
			t.Errorf("found %q, want %q", found, want)
		}
	}
	const scans = "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables) + (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE idx_tup_read > 1000)"
	for _, name := range []string{"a", "b", "c"} {
		exec(t, server.DSNFor(name), "DO $$BEGIN IF ("+scans+") > 0 THEN RAISE 'a table was scanned'; END IF; END$$")
	}
}
