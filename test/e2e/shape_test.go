package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/test/harness"
)

const (
	shapeRules = `
tables:
  - table: public.people
    rows: 'region == "eu" and balance > 0.1'
    rename: crm.person
    rename_columns: {name: initial}
    mask: {ssn: {hash: "${CDC_TEST_MASK_KEY}"}, note: {redact: "***"}, name: {truncate: 1}}
    key: [id, region]
  - table: public.event*
    exclude_columns: [body]
    mask: {who: {nullify: true}}
  - table: public.audit
    exclude: true
`
	shapeTables = `
CREATE TABLE people (id int, region text, name text, ssn text, note text, balance numeric, PRIMARY KEY (id, region));
ALTER TABLE people REPLICA IDENTITY FULL;
ALTER TABLE people ALTER note SET STORAGE EXTERNAL;
CREATE TABLE events (id int PRIMARY KEY, who text, body text, plain text);
CREATE TABLE audit (id int PRIMARY KEY, what text);`
	shapeOnTarget = `
CREATE SCHEMA crm;
CREATE TABLE crm.person (id int, region text, initial text, ssn text, note text, balance numeric, PRIMARY KEY (id, region));
CREATE TABLE events (id int PRIMARY KEY, who text, plain text);`
	maskKey = "e2e-key-that-nobody-stores-0123456789"
)

// shapedRows are people and events as the rules make them, by the databases' own words.
const (
	shapeSource = `SELECT coalesce(string_agg(l, E'\n'), '') FROM (
  SELECT format('p %s %s %s ssn=%s %s %s', id, region, left(name, 1), ssn, CASE WHEN note IS NOT NULL THEN '***' END, balance) l FROM people WHERE region = 'eu' AND balance > 0.1
  UNION ALL SELECT format('e %s %s', id, plain) FROM events) x`
	shapeTarget = `SELECT coalesce(string_agg(l, E'\n'), '') FROM (
  SELECT format('p %s %s %s ssn=%s %s %s', id, region, initial, ssn, note, balance) l FROM crm.person
  UNION ALL SELECT format('e %s %s%s', id, plain, who) FROM events) x`
)

// A target follows tables that are renamed, filtered and masked, from the copy on, while the node is killed; and what is masked or
// left out is nowhere in the store of NATS.
func TestShape(t *testing.T) {
	t.Setenv("CDC_TEST_MASK_KEY", maskKey)
	file := filepath.Join(t.TempDir(), "shape.yaml")
	if err := os.WriteFile(file, []byte(shapeRules), 0o600); err != nil {
		t.Fatal(err)
	}
	people := func(shard, from, to int, region string) string {
		return fmt.Sprintf(`INSERT INTO people SELECT n * 3 + %d, '%s', 'Zoe' || n, 'TOPSECRET-ssn-' || n %% 7, CASE WHEN n %% 5 > 0 THEN repeat('TOPSECRET-note', 300) END, (n - 3) / 10.0
FROM generate_series(%d, %d) n`, shard, region, from, to)
	}
	c := harness.New(t, harness.Options{
		Tables: shapeTables, OnTarget: shapeOnTarget, Patterns: []string{"public.people", "public.events", "public.audit"},
		Copy: harness.CopyToEmpty, CopyArgs: []string{"--shape", file, "--memory-bytes-max", "2MiB"},
		Before: func(c *harness.Cluster) {
			c.Transact(false, func(i int) []string {
				return []string{people(i, 1, 200, "eu"), people(i, 201, 300, "us"), fmt.Sprintf("INSERT INTO audit VALUES (%d, 'TOPSECRET-audit')", i)}
			})
		},
	})
	node := c.Node("node")
	c.Apply()
	c.Consistent()
	c.WaitApplied()
	sameShaped(t, c)

	for round := range 4 {
		c.Transact(round%2 == 0, func(i int) []string {
			return []string{
				fmt.Sprintf("UPDATE people SET region = 'eu' WHERE region = 'us' AND id / 3 %% 4 = %d", round), // in, with a large value that is not touched
				fmt.Sprintf("UPDATE people SET region = 'fr' WHERE region = 'eu' AND id / 3 %% 5 = %d", round), // out
				fmt.Sprintf("UPDATE people SET balance = -balance WHERE id / 3 %% 7 = %d", round),
				fmt.Sprintf("UPDATE people SET ssn = ssn || 'x', name = 'Ada' WHERE id / 3 %% 11 = %d", round),
				fmt.Sprintf("DELETE FROM people WHERE id / 3 %% 13 = %d", round),
				fmt.Sprintf("INSERT INTO events VALUES (%d, 'TOPSECRET-who', 'TOPSECRET-body', 'VISIBLE')", round*3+i),
			}
		})
		c.Transact(round%2 == 1, func(i int) []string { // nothing of it is in the stream
			return []string{fmt.Sprintf("INSERT INTO audit VALUES (%d, 'TOPSECRET-audit')", 10+round*3+i)}
		})
		c.Kill(node)
		node = c.Node("node")
	}
	c.WaitApplied()
	sameShaped(t, c)

	c.Transact(true, func(i int) []string { return []string{people(i, 1000, 4000, "eu")} }) // larger than memory
	c.Transact(true, func(i int) []string { return []string{"TRUNCATE audit", "TRUNCATE events"} })
	c.WaitApplied()
	sameShaped(t, c)
	if out, err := c.Try("verify", c.Sub.Name); err == nil || !strings.Contains(out, "the subscription's rules (--shape) decide what of it is in the stream") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	c.Kill(node)
	err := harness.Run(c.Ctx, c.ShardDSN(0), "ALTER TABLE people RENAME TO persons", "INSERT INTO persons VALUES (90000, 'eu', 'Zoe', 'TOPSECRET-renamed', 'TOPSECRET', 9)")
	if err != nil {
		t.Fatal(err)
	}
	c.Node("node")
	pausetest.Until(c.Ctx, t, "a table without its rule stops the stream", func() bool {
		out, _ := c.Try("status", c.Sub.Name)
		return strings.Contains(out, "table public.persons was public.people when its rule was found")
	})
	store := stored(t, c.StoreDir(0))
	if store("TOPSECRET") || store(maskKey) || !store("VISIBLE") || !store("CDC_TEST_MASK_KEY") {
		t.Errorf("in the store: secrets %v, the key %v, other values %v, the key's name %v", store("TOPSECRET"), store(maskKey), store("VISIBLE"), store("CDC_TEST_MASK_KEY"))
	}
}

func sameShaped(t *testing.T, c *harness.Cluster) {
	t.Helper()
	var want []string
	for _, dsn := range c.ShardDSNs() {
		for line := range strings.Lines(c.Query(dsn, shapeSource)) {
			line = strings.TrimSpace(line)
			if before, rest, ok := strings.Cut(line, "ssn="); ok {
				ssn, after, _ := strings.Cut(rest, " ")
				h := hmac.New(sha256.New, []byte(maskKey))
				h.Write([]byte(ssn))
				line = before + "ssn=" + hex.EncodeToString(h.Sum(nil)) + " " + after
			}
			want = append(want, line)
		}
	}
	var got []string
	for line := range strings.Lines(c.Query(c.TargetDSN(), shapeTarget)) {
		got = append(got, strings.TrimSpace(line))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the target is not the image of the source (-want +got):\n%s", diff)
	}
	t.Logf("%d rows are as they should be", len(want))
}

// stored looks for a text in the files of a store.
func stored(t *testing.T, dir string) func(text string) bool {
	t.Helper()
	return func(text string) (found bool) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			found = found || bytes.Contains(data, []byte(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
}
