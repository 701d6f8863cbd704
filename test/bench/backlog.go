package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline"
)

// A Backlog is what all contenders drain. Its last rows on each shard are two markers: the position of the first is where
// the backlog ends; the second only lets readers that stop at a position see that they have passed it.
type Backlog struct {
	*Workload
	lab      *lab
	database string          // on every shard
	seed     string          // database of the target to be copied: the tables as they were before the backlog
	stream   string          // folder of a NATS server whose stream holds everything; empty: not filled yet
	ends     []pipeline.LSN  // by shard: behind the first marker
	tables   []string        // of the workload, and the markers'
	want     map[string]Sums // by table: what the source holds, all shards together
	// Expected is everything in it, both markers of each shard too.
	Expected Count
	WALBytes int64
}

const publication = "bench"

// slotName is the slot of a contender in a round, on every shard.
func slotName(contender, round int) string { return fmt.Sprintf("bench_%d_%d", contender, round) }

// streamSlot is the slot from which the stream is filled.
const streamSlot = "bench_stream"

// buildBacklog makes tables, slots, and the backlog.
func buildBacklog(ctx context.Context, l *lab, w *Workload, o Options, contenders []Contender) (b *Backlog, err error) {
	b = &Backlog{Workload: w, lab: l, database: "source_" + w.Letter, seed: "seed_" + w.Letter}
	if err := execute(ctx, l.target().DSN(), "CREATE DATABASE "+b.seed); err != nil {
		return nil, err
	}
	if err := l.makeTables(ctx, w, l.target().DSNFor(b.seed), o.Size); err != nil {
		return nil, err
	}
	begins := make([]pipeline.LSN, w.Shards)
	for i := range w.Shards {
		if err := execute(ctx, l.shard(i).DSN(), "CREATE DATABASE "+b.database); err != nil {
			return nil, err
		}
		if err := l.makeTables(ctx, w, b.dsn(i), o.Size); err != nil {
			return nil, err
		}
		if err := b.makeSlots(ctx, i, o.Warmups+o.Rounds, contenders); err != nil {
			return nil, err
		}
		if begins[i], err = b.position(ctx, i); err != nil {
			return nil, err
		}
	}
	f := &filling{dsns: b.dsns(), n: w.size(o.Size), lab: l}
	if err := w.Fill(ctx, f); err != nil {
		return nil, fmt.Errorf("workload %s: %w", w.Letter, err)
	}
	b.Expected = f.written
	for i := range w.Shards {
		end, err := b.end(ctx, i)
		if err != nil {
			return nil, err
		}
		b.ends = append(b.ends, end)
		b.WALBytes += int64(end - begins[i])
		b.Expected.Transactions += 2
		b.Expected.Rows += 2
	}
	return b, b.sum(ctx)
}

func (b *Backlog) dsn(shard int) string { return b.lab.shard(shard).DSNFor(b.database) }

func (b *Backlog) dsns() (dsns []string) {
	for i := range b.Shards {
		dsns = append(dsns, b.dsn(i))
	}
	return dsns
}

func (b *Backlog) makeSlots(ctx context.Context, shard, rounds int, contenders []Contender) error {
	statements := []string{"CREATE PUBLICATION " + publication + " FOR ALL TABLES"}
	slot := func(name string, twoPhase bool) {
		statements = append(statements, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput', false, %v)", name, twoPhase))
	}
	if slices.ContainsFunc(contenders, func(c Contender) bool { return c.Reads() == Stream }) {
		slot(streamSlot, true)
	}
	for c, contender := range contenders {
		for round := range rounds {
			if contender.Reads() != Stream {
				slot(slotName(c, round), contender.Reads() == TwoPhaseSlot)
			}
		}
	}
	return execute(ctx, b.dsn(shard), statements...)
}

// end writes the markers. Between them the position is read on the same connection: everything before is flushed.
func (b *Backlog) end(ctx context.Context, shard int) (pipeline.LSN, error) {
	conn, err := pgx.Connect(ctx, b.dsn(shard))
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.Background())
	var text string
	for n := 1; n <= 2; n++ {
		if _, err := conn.Exec(ctx, "INSERT INTO "+markerTable+" VALUES ($1, $2)", shard, n); err != nil {
			return 0, err
		}
		if n == 1 {
			if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
				return 0, err
			}
		}
	}
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return 0, err
	}
	return pipeline.ParseLSN(text)
}

func (b *Backlog) position(ctx context.Context, shard int) (pipeline.LSN, error) {
	return lsn(ctx, b.dsn(shard), "SELECT pg_current_wal_insert_lsn()::text")
}

// slotStart is the position from which a slot delivers.
func (b *Backlog) slotStart(ctx context.Context, shard int, slot string) (pipeline.LSN, error) {
	return lsn(ctx, b.dsn(shard), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", slot)
}

func lsn(ctx context.Context, dsn, sql string, args ...any) (pipeline.LSN, error) {
	text, err := query[string](ctx, dsn, sql, args...)
	if err != nil {
		return 0, err
	}
	return pipeline.ParseLSN(text)
}

// Sums tell the contents of a table: rows, and the sum of their hashes.
type Sums struct {
	Rows int64
	Hash string
}

// sum finds out what the target has to hold in the end. Tables whose rows are divided among the shards are summed up over
// them; rows that every shard has at the beginning are changed on one of them only, so the target's is what the
// shard that owns them shows.
func (b *Backlog) sum(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, b.dsn(0))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(ctx, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
	if err != nil {
		return err
	}
	if b.tables, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return err
	}
	b.want, err = b.sums(ctx, func(shard int) (string, string) {
		if b.Shards == 1 {
			return b.dsn(0), "true"
		}
		return b.dsn(shard), fmt.Sprintf("mod(%%s, %d) = %d", b.Shards, shard)
	}, b.Shards)
	return err
}

// sums adds up the tables of several databases; of each only the rows that the condition names, in which %s is the column
// that the rows are divided by.
func (b *Backlog) sums(ctx context.Context, of func(i int) (dsn, where string), n int) (map[string]Sums, error) {
	total := map[string]Sums{}
	for _, table := range b.tables {
		column := "id"
		if table == markerTable {
			column = "shard"
		}
		all := Sums{Hash: "0"}
		for i := range n {
			dsn, where := of(i)
			if where != "true" {
				where = fmt.Sprintf(where, column)
			}
			part, err := sumOf(ctx, dsn, table, where, all.Hash)
			if err != nil {
				return nil, err
			}
			all = Sums{Rows: all.Rows + part.Rows, Hash: part.Hash}
		}
		total[table] = all
	}
	return total, nil
}

// sumOf adds a table's hashes to a sum.
func sumOf(ctx context.Context, dsn, table, where, sum string) (s Sums, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return s, err
	}
	defer conn.Close(context.Background())
	sql := fmt.Sprintf("SELECT count(*), (coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) + $1::text::numeric)::text FROM %s AS t WHERE %s", table, where)
	if err := conn.QueryRow(ctx, sql, sum).Scan(&s.Rows, &s.Hash); err != nil {
		return s, fmt.Errorf("%s: %w", sql, err)
	}
	return s, nil
}

// check compares a target with the source.
func (b *Backlog) check(ctx context.Context, target string) error {
	got, err := b.sums(ctx, func(int) (string, string) { return target, "true" }, 1)
	if err != nil {
		return err
	}
	var errs []error
	for _, table := range b.tables {
		if got[table] != b.want[table] {
			errs = append(errs, fmt.Errorf("table %s: the target has %d rows with sum %s, the source %d with sum %s",
				table, got[table].Rows, got[table].Hash, b.want[table].Rows, b.want[table].Hash))
		}
	}
	return errors.Join(errs...)
}

// makeTarget makes a database on the target with the tables as they were before the backlog.
func (b *Backlog) makeTarget(ctx context.Context, name string) (dsn string, err error) {
	return b.lab.target().DSNFor(name), execute(ctx, b.lab.target().DSN(), "CREATE DATABASE "+name+" TEMPLATE "+b.seed+" STRATEGY FILE_COPY", "CHECKPOINT")
}

func (b *Backlog) dropTarget(ctx context.Context, name string) error {
	return execute(ctx, b.lab.target().DSN(), "DROP DATABASE "+name+" WITH (FORCE)")
}

// dropSlots removes a drain's slots: they keep WAL.
func (b *Backlog) dropSlots(ctx context.Context, slot string) error {
	var errs []error
	for i := range b.Shards {
		errs = append(errs, dropSlot(ctx, b.dsn(i), slot))
	}
	return errors.Join(errs...)
}

// dropSlot waits until the slot's reader has left.
func dropSlot(ctx context.Context, dsn, slot string) error {
	return until(ctx, dsn, "slot "+slot+" is free", "SELECT coalesce(bool_and(NOT active), true) FROM pg_replication_slots WHERE slot_name = $1", []any{slot}, func() error {
		return execute(ctx, dsn, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	})
}

// Close removes databases of a workload.
func (b *Backlog) Close(ctx context.Context) error {
	errs := []error{b.dropTarget(ctx, b.seed)}
	if b.stream != "" {
		errs = append(errs, os.RemoveAll(b.stream))
	}
	for i := range b.Shards {
		errs = append(errs, execute(ctx, b.dsn(i), "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"),
			execute(ctx, b.lab.shard(i).DSN(), "DROP DATABASE "+b.database+" WITH (FORCE)"))
	}
	return errors.Join(errs...)
}
