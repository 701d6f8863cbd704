package throwaway_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"

	"shardcdc/pipeline/throwaway"
)

// What was committed is there after kill -9, and nothing is left behind at the end.
func TestMariaDB(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := throwaway.StartMariaDB(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(m.LogFile())
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(folder); !os.IsNotExist(err) {
			t.Errorf("%s is left behind: %v", folder, err)
		}
	}()
	query := func(text string) (n int) {
		db, err := sql.Open("mysql", m.DriverDSN())
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRowContext(ctx, text).Scan(&n); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return n
	}
	if n := query("CREATE TABLE t (i INT PRIMARY KEY); INSERT INTO t VALUES (42); SELECT i FROM t"); n != 42 {
		t.Error(n)
	}
	if err := m.Stop(ctx, throwaway.Kill); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if n := query("SELECT i FROM t"); n != 42 {
		t.Error(n)
	}
	if err := m.Stop(ctx, throwaway.Fast); err != nil {
		t.Fatal(err)
	}
}
