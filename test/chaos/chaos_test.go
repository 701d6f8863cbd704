package chaos

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/throwaway"
	"shardcdc/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// everything reports whether all tests are wanted, and not the selection.
func everything() bool { return os.Getenv("CDC_CHAOS") == "all" }

// whole leaves a test out of the selection.
func whole(t *testing.T) {
	t.Helper()
	if !everything() {
		t.Skip("left out of the selection. Try: make chaos")
	}
}

// cannot skips a test that this machine cannot run; a CI that wants everything has to be able to.
func cannot(t *testing.T, format string, args ...any) {
	t.Helper()
	if everything() && os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// must ends the test.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect opens a connection that ends with the test.
func connect(t *testing.T, c *harness.Cluster, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(c.Ctx, dsn)
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// execute runs statements, each in a transaction of its own, on a connection of their own.
func execute(t *testing.T, c *harness.Cluster, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(c.Ctx, dsn)
	must(t, err)
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(c.Ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// restart stops a server and starts it again.
func restart(t *testing.T, c *harness.Cluster, s *throwaway.Server, mode throwaway.Mode) {
	t.Helper()
	must(t, s.Stop(c.Ctx, mode))
	must(t, s.Start(c.Ctx))
}

// arrives waits until the target's journal has an entry.
func arrives(t *testing.T, c *harness.Cluster, entry string) {
	t.Helper()
	harness.Until(c.Ctx, t, "journal entry "+entry+" is on the target", func() (bool, string) {
		n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM journal WHERE entry = "+entry)
		return n != "0", n
	})
}

func contains(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
