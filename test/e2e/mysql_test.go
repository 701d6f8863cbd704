package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// notesOnMySQL: notes hold infinity and NaN, which only columns of text can keep. The other tables the target makes itself.
const notesOnMySQL = `CREATE TABLE notes (id BIGINT PRIMARY KEY, title LONGTEXT, body LONGTEXT, tags LONGTEXT, price VARCHAR(40), ratio VARCHAR(40), raw LONGBLOB,
	extra LONGTEXT, flag TINYINT(1), day VARCHAR(20), took VARCHAR(127), at DATETIME(6)) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin`

// compared are the columns of the bank's tables in a form that is one text on both sides.
var compared = map[string]struct{ source, target string }{
	"accounts": {"id, owner, balance, $updated", "id, owner, balance, updated"},
	"history":  {"id, transfer, sides, version, account, amount, detail, $at", "id, transfer, sides, version, account, amount, detail, at"},
	"journal":  {"entry, what, $at", "entry, what, at"},
	"markers":  {"id, shard, $sent", "id, shard, sent"},
	"rows":     {"id, v, payload, $at", "id, v, payload, at"},
	"heap":     {"shard, v, what", "shard, v, what"},
	"short":    {"a, b, v", "a, b, v"},
	"notes": {
		"id, title, body, array_to_json(tags)::text, price, ratio, upper(encode(raw, 'hex')), extra, flag::int, day, took, $at",
		"id, title, body, tags, price, ratio, HEX(raw), extra, flag, day, took, at",
	},
}

// A bank on PostgreSQL and its copy on MariaDB, while the worker and MariaDB are killed again and again: no snapshot there is half
// a transfer, and in the end every row is there once.
func TestMySQL(t *testing.T) {
	maria, db := newMariaDB(t)
	c := harness.New(t, harness.Options{Limit: 3 * time.Minute, Targets: []control.Target{{Name: "maria", DSN: maria.DSN()}}})
	c.Node("node")
	worker := c.Apply()
	b := c.OpenBank(bank.Config{PerSecond: 150, AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	c.WaitAppliedOn("maria")
	watching, stop := context.WithCancel(c.Ctx)
	watched := make(chan error, 1)
	var snapshots int
	go func() { watched <- watchMySQL(watching, db, &snapshots) }()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	for round := range 8 {
		b.Committed(1 + dice.Int64N(150))
		if round%2 == 0 {
			c.Kill(worker)
			worker = c.Apply()
		}
		if round%4 > 1 {
			mode := []throwaway.Mode{throwaway.Kill, throwaway.Fast}[dice.IntN(2)]
			if err := maria.Stop(c.Ctx, mode); err != nil {
				t.Fatal(err)
			}
			if err := maria.Start(c.Ctx); err != nil {
				t.Fatal(err)
			}
		}
		if dice.IntN(3) > 0 {
			c.WaitAppliedOn("maria")
		}
	}
	c.Finish(b)
	c.WaitAppliedOn("maria")
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if snapshots == 0 {
		t.Error("nothing was looked at")
	}
	t.Logf("%d snapshots of MariaDB", snapshots)
	for _, table := range bank.Tables {
		sameOnMySQL(t, c, db, table)
	}
	c.Do("status", c.Sub.Name)
	if out, err := c.Try("verify", c.Sub.Name, "--target", "maria"); err == nil || !strings.Contains(out+err.Error(), "only targets on PostgreSQL are compared") {
		t.Errorf("verify: %s %v", out, err)
	}
	c.Do("drop-subscription", c.Sub.Name)
	if rows := mysqlRows(t, db, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'cdc' AND table_name LIKE 'cdc\\_%'"); len(rows) > 0 {
		t.Errorf("dropping the subscription left %s", rows)
	}
}

func newMariaDB(t *testing.T) (*throwaway.MariaDB, *sql.DB) {
	t.Helper()
	maria, err := throwaway.StartMariaDB(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := maria.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := mysql.SetLogger(log.New(io.Discard, "", 0)); err != nil { // it tells of each connection that breaks
		t.Fatal(err)
	}
	db, err := sql.Open("mysql", maria.DriverDSN()+"&time_zone=%27%2B00%3A00%27")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.ExecContext(t.Context(), notesOnMySQL); err != nil {
		t.Fatal(err)
	}
	return maria, db
}

// Rows that are there already are copied to MariaDB under load, with rows that move, new keys and TRUNCATE, while the worker is killed.
func TestMySQLCopied(t *testing.T) {
	maria, db := newMariaDB(t)
	s := harness.NewCopied(t, 5_000, harness.Options{Limit: 3 * time.Minute, Targets: []control.Target{{Name: "maria", DSN: maria.DSN()}}, CopyArgs: []string{"--copy-rate", "2MB"}})
	s.Churn.Truncates()
	s.Node("node")
	worker := s.Apply()
	dice := rand.New(rand.NewPCG(s.Seed, 0))
	for n := int64(1); n < 4 && s.Copied(dice.Int64N(n*2000)); n++ {
		s.Kill(worker)
		worker = s.Apply()
	}
	s.WatchConsistent()
	s.Finish()
	s.WaitAppliedOn("maria")
	for table := range compared {
		sameOnMySQL(t, s.Cluster, db, table)
	}
}

// Workers that stand still are overtaken, at whatever they were doing, and do no harm when they go on.
func TestMySQLStandsStill(t *testing.T) {
	maria, db := newMariaDB(t)
	c := harness.New(t, harness.Options{Limit: 3 * time.Minute, Targets: []control.Target{{Name: "maria", DSN: maria.DSN()}}})
	c.Node("node")
	workers := []*program.Program{c.Apply(), c.Worker("other")}
	b := c.OpenBank(bank.Config{PerSecond: 150, AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	dice := rand.New(rand.NewPCG(c.Seed, 0))
	for round := range 4 {
		c.WaitAppliedOn("maria")
		b.Committed(1 + dice.Int64N(50))
		still := workers[round%2]
		if err := still.Pause(); err != nil {
			t.Fatal(err)
		}
		b.Committed(1 + dice.Int64N(50))
		c.WaitAppliedOn("maria")
		if err := still.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	c.Finish(b)
	c.WaitAppliedOn("maria")
	for _, table := range bank.Tables {
		sameOnMySQL(t, c, db, table)
	}
}

// watchMySQL reads snapshots until ctx ends: money neither comes nor goes, and a transfer has all of its sides.
func watchMySQL(ctx context.Context, db *sql.DB, snapshots *int) error {
	total := int64(-1)
	for ctx.Err() == nil {
		sum, torn, err := snapshotOfMySQL(ctx, db)
		switch {
		case err != nil: // it is being killed
		case torn > 0:
			return fmt.Errorf("%d transfers are there with some of their sides", torn)
		case total >= 0 && sum != total:
			return fmt.Errorf("the accounts hold %d, and held %d before", sum, total)
		default:
			total = sum
			*snapshots++
		}
		_ = pause.For(ctx, 20*time.Millisecond)
	}
	return nil
}

func snapshotOfMySQL(ctx context.Context, db *sql.DB) (sum int64, torn int, err error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return 0, 0, err
	}
	err = tx.QueryRowContext(ctx, "SELECT COALESCE(SUM(balance), 0) FROM accounts").Scan(&sum)
	if err == nil {
		err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT transfer FROM history GROUP BY transfer
			HAVING COUNT(*) <> MAX(sides) OR MIN(version) <> MAX(version) OR SUM(amount) <> 0) torn`).Scan(&torn)
	}
	return sum, torn, errors.Join(err, tx.Rollback())
}

// sameOnMySQL compares a table of all shards with MariaDB's, row by row.
func sameOnMySQL(t *testing.T, c *harness.Cluster, db *sql.DB, table string) {
	t.Helper()
	columns := compared[table]
	var want []string
	for _, dsn := range c.ShardDSNs() {
		want = append(want, pgRows(t, c.Ctx, dsn, "SELECT "+utc(columns.source)+" FROM "+table)...)
	}
	got := mysqlRows(t, db, "SELECT "+columns.target+" FROM `"+table+"`")
	slices.Sort(want)
	slices.Sort(got)
	if slices.Equal(got, want) && (len(got) > 0 || table == "heap" || table == "short") { // which a TRUNCATE may have emptied
		t.Logf("%s: %d rows are equal", table, len(got))
		return
	}
	t.Errorf("%s: %d rows, the shards have %d", table, len(got), len(want))
	shown := 0
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] && shown < 3 {
			t.Errorf("%s:\n%.500s\nshards:\n%.500s", table, got[i], want[i])
			shown++
		}
	}
}

// utc writes a time as MySQL does.
func utc(columns string) string {
	fields := strings.Split(columns, "$")
	for i := 1; i < len(fields); i++ {
		fields[i] = "to_char(" + fields[i] + " AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
	}
	return strings.Join(fields, "")
}

func pgRows(t *testing.T, ctx context.Context, dsn, query string) (lines []string) {
	t.Helper()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, query).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	for _, row := range results[0].Rows {
		var texts []string
		for _, v := range row {
			if v == nil {
				v = []byte("NULL")
			} else {
				v = append([]byte("="), v...)
			}
			texts = append(texts, string(v))
		}
		lines = append(lines, strings.Join(texts, "|"))
	}
	return lines
}

func mysqlRows(t *testing.T, db *sql.DB, query string) (lines []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, v := range values {
			if v.Valid {
				texts = append(texts, "="+v.String)
			} else {
				texts = append(texts, "NULL")
			}
		}
		lines = append(lines, strings.Join(texts, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
