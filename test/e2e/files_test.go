package e2e

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
	"shardcdc/test/harness"
)

// A bank, a folder of statements and one of JSON texts, while the worker that writes both is killed again and again. In the end
// psql makes the bank of the statements in an empty database, and both folders have every transaction once.
func TestFiles(t *testing.T) {
	statements, texts := filepath.Join(t.TempDir(), "sql"), filepath.Join(t.TempDir(), "json")
	c := harness.New(t, harness.Options{Limit: 3 * time.Minute, Targets: []control.Target{
		{Name: "statements", DSN: "file://" + statements + "?rotate_bytes=300kB"},
		{Name: "texts", DSN: "file://" + texts + "?format=json&rotate_every=3s"},
	}})
	node, worker := c.Node("node"), c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	for range 12 {
		b.Committed(1 + dice.Int64N(150))
		if dice.IntN(4) == 0 {
			c.Kill(node)
			node = c.Node("node")
		}
		c.Kill(worker)
		worker = c.Apply()
		if dice.IntN(3) > 0 {
			b.Progressed()
		}
	}
	b.Progressed()
	c.Finish(b)
	c.WaitAppliedOn("statements")
	c.WaitAppliedOn("texts")

	inSQL := chain(t, statements, ".sql", regexp.MustCompile(`^-- csn ([0-9]+) previous ([0-9]+) `))
	inJSON := chain(t, texts, ".json", regexp.MustCompile(`^\{"csn":"([0-9]+)","previous":"([0-9]+)",`))
	if !slices.Equal(inSQL, inJSON) {
		t.Errorf("%d transactions in statements, %d in texts, not the same", len(inSQL), len(inJSON))
	}
	if st := b.Stats(); int64(len(inSQL)) < st.Transactions {
		t.Errorf("%d transactions, the bank committed %d", len(inSQL), st.Transactions)
	}
	sameFed(t, c, feed(t, c, statements), bank.Tables)
	c.Do("status", c.Sub.Name)
	c.Do("drop-subscription", c.Sub.Name)
	if _, err := os.Stat(filepath.Join(statements, "00000000000000000000.index")); err != nil {
		t.Errorf("dropping the subscription took the files: %v", err)
	}
}

// The same for rows that were there before, copied under traffic: a worker that begins anew, and each new file, knows what the
// copy of a table without a key contains.
func TestFilesCopied(t *testing.T) {
	statements := filepath.Join(t.TempDir(), "sql")
	s := harness.NewCopied(t, 10_000, harness.Options{
		Limit: 3 * time.Minute, CopyArgs: []string{"--copy-rate", "2MB"},
		Targets: []control.Target{{Name: "statements", DSN: "file://" + statements + "?rotate_bytes=400kB"}},
	})
	s.Node("node")
	worker := s.Apply()
	for n := int64(1); s.Copied(n * 1500); n++ {
		s.Kill(worker)
		worker = s.Apply()
	}
	s.CopyEnds()
	s.Churn.Changed(200)
	s.Churn.Stop()
	s.Bank.StopTraffic()
	s.WaitApplied()
	s.WaitAppliedOn("statements")
	sameFed(t, s.Cluster, feed(t, s.Cluster, statements), append(slices.Clone(bank.Tables), harness.ChurnTables...))
}

// sameFed compares what psql made with the target.
func sameFed(t *testing.T, c *harness.Cluster, fed string, tables []string) {
	t.Helper()
	for _, table := range tables {
		sql := "SELECT coalesce(string_agg(r, E'\\n' ORDER BY r COLLATE \"C\"), '') FROM (SELECT t::text FROM " + table + " t) x(r)"
		if got, want := c.Query(fed, sql), c.Query(c.TargetDSN(), sql); got != want || got == "" && table == "accounts" {
			t.Errorf("table %s: psql made\n%.500s\nand the target has\n%.500s", table, got, want)
		}
	}
}

// indexLine is what a reader needs of an index.
type indexLine struct {
	Offset, Length        int64
	Previous, First, Last string
	Transactions          int
}

// chain reads a folder by its indexes, as docs/files.md says, and returns the CSNs, of which each says the one before.
func chain(t *testing.T, folder, ending string, first *regexp.Regexp) (csns []string) {
	t.Helper()
	indexes, err := filepath.Glob(filepath.Join(folder, "*.index"))
	if err != nil || len(indexes) < 3 {
		t.Fatalf("%d files in %s, %v: nothing was rotated", len(indexes), folder, err)
	}
	last := ""
	for _, name := range indexes {
		data, err := os.ReadFile(strings.TrimSuffix(name, ".index") + ending)
		if err != nil {
			t.Fatal(err)
		}
		index, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, entries, _ := strings.Cut(string(index), "\n")
		for line := range strings.Lines(entries) {
			var e indexLine
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			part := data[e.Offset : e.Offset+e.Length]
			n := 0
			for text := range strings.Lines(string(part)) {
				m := first.FindStringSubmatch(text)
				if m == nil {
					continue
				}
				if n++; m[2] != last && last != "" || n == 1 && m[1] != e.First {
					t.Fatalf("%s: csn %s behind %s, and the one before is %s; the index says %+v", name, m[1], m[2], last, e)
				}
				last = m[1]
				csns = append(csns, last)
			}
			if n != e.Transactions || last != e.Last {
				t.Fatalf("%s: %d transactions to %s, the index says %+v", name, n, last, e)
			}
		}
	}
	return csns
}

// feed lets psql run the files, in the order of their names, in a database that is empty.
func feed(t *testing.T, c *harness.Cluster, folder string) (dsn string) {
	t.Helper()
	name := c.Sub.Name + "_fed"
	if err := harness.Run(c.Ctx, c.Target.DSN(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := harness.Run(context.Background(), c.Target.DSN(), "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	names, err := filepath.Glob(filepath.Join(folder, "*.sql"))
	if err != nil {
		t.Fatal(err)
	}
	dsn = c.Target.DSNFor(name)
	for _, file := range names {
		out, err := exec.CommandContext(c.Ctx, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", file).CombinedOutput()
		if err != nil {
			t.Fatalf("psql %s: %v\n%.2000s", file, err, out)
		}
	}
	return dsn
}
