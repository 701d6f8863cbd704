package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// A Workload says what is written before anybody drains it.
type Workload struct {
	Letter, Title string
	Shards        int
	Full          int     // its size with -size 1, in the unit of its fill
	Least         int     // and at least
	Tables        string  // SQL that makes the tables, and rows that are there before the slots are, on shards and target
	Pgbench       float64 // the tables are pgbench's instead; scale with -size 1
	Fill          func(ctx context.Context, f *filling) error
	// Law is SQL with one boolean: whether what the target shows is something that the source was. It must be cheap.
	Law string
}

// filling is one run of a workload's Fill.
type filling struct {
	dsns []string // of the shards
	n    int
	lab  *lab
	// What was written, but for the markers.
	written Count
}

// tenColumns is a row of 217 bytes.
const tenColumns = `CREATE TABLE item (id bigint PRIMARY KEY, qty int, at timestamptz, price numeric(12,2), sold bool, ref uuid,
  code varchar(20), name text, weight float8, doc jsonb);
CREATE FUNCTION add_items(first bigint, last bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO item SELECT g, g % 1000, timestamptz '2026-01-31 12:00:00+00' + g * interval '1 s', g % 100000 / 100.0, g % 2 = 0, md5(g::text)::uuid,
    'code ' || g, repeat('x', 60), g / 7.0, jsonb_build_object('id', g, 'tag', 'a') FROM generate_series(first, last) AS g $$;
CREATE PROCEDURE add_one_by_one(n bigint) LANGUAGE plpgsql AS $$
  BEGIN FOR g IN 1..n LOOP PERFORM add_items(g, g); COMMIT; END LOOP; END $$;`

// The rows of one writer appear in the order of their keys: nothing is missing below the last one.
const prefixLaw = `SELECT count(*) = least(500, coalesce(max(id), 0)) FROM item WHERE id > (SELECT max(id) - 500 FROM item)`

var workloads = []Workload{
	{
		Letter: "a", Title: "one-row insert transactions", Shards: 1, Full: 300_000, Least: 500, Tables: tenColumns, Law: prefixLaw,
		Fill: func(ctx context.Context, f *filling) error {
			f.written = Count{int64(f.n), int64(f.n)}
			return execute(ctx, f.dsns[0], quick, fmt.Sprintf("CALL add_one_by_one(%d)", f.n))
		},
	},
	{
		Letter: "b", Title: "transactions of 10,000 inserts", Shards: 1, Full: 100, Least: 2, Tables: tenColumns,
		Law: `SELECT coalesce(max(id), 0) % 10000 = 0 FROM item`,
		Fill: func(ctx context.Context, f *filling) error {
			f.written = Count{int64(f.n), int64(f.n) * bulkRows}
			return execute(ctx, f.dsns[0], quick, fmt.Sprintf(
				"DO $$ BEGIN FOR g IN 0..%d LOOP PERFORM add_items(g * %d + 1, (g + 1) * %[2]d); COMMIT; END LOOP; END $$", f.n-1, bulkRows))
		},
	},
	{
		Letter: "c", Title: "pgbench TPC-B", Shards: 1, Full: 60_000, Least: 400, Pgbench: 10,
		Law: `SELECT (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)`,
		Fill: func(ctx context.Context, f *filling) error {
			const clients = 4
			each := f.n / clients
			f.written = Count{int64(each) * clients, 4 * int64(each) * clients}
			return f.lab.pgbench(ctx, f.dsns[0], "-n", "-c", fmt.Sprint(clients), "-j", "2", "-t", fmt.Sprint(each), "-M", "prepared")
		},
	},
	{
		Letter: "d", Title: "updates of wide rows with TOAST", Shards: 1, Full: 15_000, Least: 100, Fill: fillWide,
		Tables: `CREATE TABLE wide (id int PRIMARY KEY, n int, ` + wideColumns() + `, big text NOT NULL);
ALTER TABLE wide ALTER big SET STORAGE EXTERNAL;
INSERT INTO wide SELECT g, 0` + strings.Repeat(", repeat('v', 50)", wideTexts) + `, repeat(md5(g::text), 200) FROM generate_series(1, 1000) AS g`,
		Law: `SELECT sum(n) % 10 = 0 FROM wide`,
	},
	{
		Letter: "e", Title: "three shards, every second transaction a transfer by two-phase commit", Shards: 3, Full: 40_000, Least: 120, Fill: fillTransfers,
		Tables: fmt.Sprintf(`CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO account SELECT g, 1000 FROM generate_series(0, %d) AS g`, accounts-1),
		Law:    fmt.Sprintf(`SELECT sum(balance) = 1000 * %d FROM account`, accounts),
	},
	{
		Letter: "f", Title: "one hot row", Shards: 1, Full: 150_000, Least: 500,
		Tables: `CREATE TABLE hot (id int PRIMARY KEY, n bigint, twice bigint); INSERT INTO hot VALUES (1, 0, 0)`,
		Law:    `SELECT twice = 2 * n FROM hot`,
		Fill: func(ctx context.Context, f *filling) error {
			f.written = Count{int64(f.n), int64(f.n)}
			return execute(ctx, f.dsns[0], quick, fmt.Sprintf(
				"DO $$ BEGIN FOR g IN 1..%d LOOP UPDATE hot SET n = n + 1, twice = twice + 2; COMMIT; END LOOP; END $$", f.n))
		},
	},
}

const (
	bulkRows  = 10_000
	wideTexts = 20
	wideRows  = 10 // updated by a transaction
	// accounts are on all shards, but a shard changes only those whose remainder is its number, so that sums over all shards
	// need no care. The target has each once.
	accounts = 9_999
)

// quick: the backlog is written as fast as it goes; it is flushed before it is drained.
const quick = "SET synchronous_commit = off"

func wideColumns() string {
	var columns []string
	for i := range wideTexts {
		columns = append(columns, fmt.Sprintf("v%d text", i))
	}
	return strings.Join(columns, ", ")
}

// fillWide: transactions of ten updates, of which one also changes the value that is stored apart.
func fillWide(ctx context.Context, f *filling) error {
	f.written = Count{int64(f.n), int64(f.n) * wideRows}
	return execute(ctx, f.dsns[0], quick, fmt.Sprintf(`DO $$ BEGIN FOR g IN 0..%d LOOP
  UPDATE wide SET n = n + 1, v0 = repeat('w', 40) || g WHERE id BETWEEN g * 10 %% 1000 + 1 AND g * 10 %% 1000 + 9;
  UPDATE wide SET n = n + 1, big = reverse(big) WHERE id = g * 10 %% 1000 + 10;
  COMMIT; END LOOP; END $$`, f.n-1))
}

const coordinators = 8

// fillTransfers: several coordinators; half of the transactions move money between two accounts of a shard, half between two
// shards.
func fillTransfers(ctx context.Context, f *filling) error {
	each := f.n / coordinators / 2 * 2
	f.written = Count{int64(each) * coordinators, 2 * int64(each) * coordinators}
	group, ctx := errgroup.WithContext(ctx)
	for c := range coordinators {
		group.Go(func() error {
			t, err := newTransfers(ctx, f.dsns, c, coordinators, quick)
			if err != nil {
				return err
			}
			defer t.close()
			for i := range each {
				if err := t.transfer(ctx, i, i%2 == 0); err != nil {
					return fmt.Errorf("coordinator %d, transfer %d: %w", c, i, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// transfers is one coordinator. Coordinators use different accounts, so none waits for another.
type transfers struct {
	shards []*pgx.Conn
	number int
	of     int
	random *rand.Rand
}

func newTransfers(ctx context.Context, dsns []string, number, of int, setting string) (*transfers, error) {
	t := &transfers{number: number, of: of, random: rand.New(rand.NewPCG(uint64(number), 1))}
	for _, dsn := range dsns {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.close()
			return nil, err
		}
		t.shards = append(t.shards, conn)
		if _, err := conn.Exec(ctx, setting); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

func (t *transfers) close() {
	for _, conn := range t.shards {
		_ = conn.Close(context.Background()) // Everything is committed, or has failed before.
	}
}

// account is one of this coordinator on a shard.
func (t *transfers) account(shard int) int {
	perShard := accounts / len(t.shards)
	own := perShard / t.of
	return (t.number*own+t.random.IntN(own))*len(t.shards) + shard
}

const move = "UPDATE account SET balance = balance + %d WHERE id = %d"

func (t *transfers) transfer(ctx context.Context, i int, distributed bool) error {
	n := len(t.shards)
	from := t.random.IntN(n)
	out := fmt.Sprintf(move, -1, t.account(from))
	if !distributed {
		_, err := t.shards[from].Exec(ctx, "BEGIN; "+out+"; "+fmt.Sprintf(move, 1, t.account(from))+"; COMMIT", pgx.QueryExecModeSimpleProtocol)
		return err
	}
	to := (from + 1 + t.random.IntN(n-1)) % n
	into := fmt.Sprintf(move, 1, t.account(to))
	gid := fmt.Sprintf("bench_%d_%d", t.number, i)
	for _, step := range []struct {
		shard int
		sql   string
	}{
		{from, "BEGIN; " + out + "; PREPARE TRANSACTION '" + gid + "'"},
		{to, "BEGIN; " + into + "; PREPARE TRANSACTION '" + gid + "'"},
		{from, "COMMIT PREPARED '" + gid + "'"},
		{to, "COMMIT PREPARED '" + gid + "'"},
	} {
		if _, err := t.shards[step.shard].Exec(ctx, step.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", step.sql, err)
		}
	}
	return nil
}

func workload(letter string) *Workload {
	for i := range workloads {
		if workloads[i].Letter == letter {
			return &workloads[i]
		}
	}
	return nil
}

func letters() string {
	text := ""
	for _, w := range workloads {
		text += w.Letter
	}
	return text
}

// size is the workload's own for a part of the full one.
func (w *Workload) size(part float64) int { return max(w.Least, int(float64(w.Full)*part)) }
