package feed

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// psql feeds a file to PostgreSQL's client; it returns what that says when it fails.
func psql(t testing.TB, db, file string) string {
	t.Helper()
	return client(t, psqlCommand(db), file)
}

func psqlCommand(db string) *exec.Cmd {
	return exec.Command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.DSNFor(db))
}

// mysqlClient feeds a file to MariaDB's client.
func mysqlClient(t testing.TB, db, file string) string {
	t.Helper()
	return client(t, mysqlCommand(db, "--batch", "--max-allowed-packet=1G"), file)
}

func mysqlCommand(db string, options ...string) *exec.Cmd {
	args := append([]string{"--no-defaults", "-h", "127.0.0.1", "-P", strconv.Itoa(mariadb.Port()), "-u", "root"}, options...)
	return exec.Command("mariadb", append(args, db)...)
}

func client(t testing.TB, cmd *exec.Cmd, file string) string {
	t.Helper()
	cmd.Stdin = strings.NewReader(file)
	out, err := cmd.CombinedOutput()
	if err == nil {
		if strings.Contains(string(out), "WARNING") {
			t.Errorf("%s: %s", cmd.Path, out)
		}
		return ""
	}
	if len(out) == 0 {
		t.Fatal(err)
	}
	text := string(out)
	return text[:min(len(text), 1000)] + " … " + text[max(0, len(text)-500):]
}

func feeds(t testing.TB, said string) {
	t.Helper()
	if said != "" {
		t.Fatalf("%.3000s", said)
	}
}
