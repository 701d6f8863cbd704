package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/throwaway"
)

// settings of every server, source and target, besides those of package throwaway. fsync is on.
var settings = map[string]string{
	"autovacuum":                      "off",
	"shared_buffers":                  "256MB",
	"max_wal_size":                    "64GB", // no checkpoint in the middle of a drain
	"checkpoint_timeout":              "1h",
	"max_replication_slots":           "400",
	"max_wal_senders":                 "50",
	"max_worker_processes":            "50",
	"max_logical_replication_workers": "20",
	"wal_retrieve_retry_interval":     "100ms", // a native subscription that was enabled starts soon
	"log_min_messages":                "warning",
	"log_replication_commands":        "off",
	"log_checkpoints":                 "off",
}

// lab is the servers of a run: shards, and one for targets.
type lab struct {
	servers []*throwaway.Server
	bin     string // folder of PostgreSQL's programs
	dir     string
}

func openLab(ctx context.Context, shards int) (l *lab, err error) {
	l = &lab{}
	if l.dir, err = os.MkdirTemp("", "cdc-bench-"); err != nil {
		return nil, err
	}
	if l.bin, _, err = throwaway.Find(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	var options []throwaway.Options
	for i := range shards + 1 {
		name := fmt.Sprint("shard", i)
		if i == shards {
			name = "target"
		}
		options = append(options, throwaway.Options{Name: name, Settings: settings})
	}
	if l.servers, err = throwaway.StartMany(ctx, options...); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for _, s := range l.servers {
		if err := execute(ctx, s.DSN(), "CREATE ROLE "+streamer+" SUPERUSER LOGIN", "ALTER ROLE "+streamer+" SET logical_decoding_work_mem = '1MB'"); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// streamer is a user whose walsenders send what is larger than 1 MB, as the transactions of workload (b) are, before it is
// committed: with the default of 64 MB no transaction here is.
const streamer = "bench_streamer"

func (l *lab) Close() error {
	var errs []error
	for _, s := range l.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

func (l *lab) shard(i int) *throwaway.Server { return l.servers[i] }

func (l *lab) target() *throwaway.Server { return l.servers[len(l.servers)-1] }

// folder is a new one for the files of one drain.
func (l *lab) folder() (string, error) { return os.MkdirTemp(l.dir, "drain-") }

// program is the path of one of PostgreSQL's client programs: of the servers' version, else from the PATH.
func (l *lab) program(name string) (string, error) {
	path := filepath.Join(l.bin, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w. Try: apt-get install postgresql-client postgresql-contrib", err)
	}
	return path, nil
}

func (l *lab) pgbench(ctx context.Context, dsn string, args ...string) error {
	path, err := l.program("pgbench")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, append(args, dsn)...)
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c synchronous_commit=off")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", path, err, said.Bytes())
	}
	return nil
}

// execute runs statements one after the other on a connection of their own.
func execute(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// query reads one value.
func query[T any](ctx context.Context, dsn, sql string, args ...any) (value T, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return value, err
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		return value, fmt.Errorf("%s: %w", sql, err)
	}
	return value, nil
}

// makeTables makes a workload's tables, and the markers'.
func (l *lab) makeTables(ctx context.Context, w *Workload, dsn string, part float64) error {
	if w.Pgbench > 0 {
		scale := strconv.Itoa(int(max(1, math.Ceil(w.Pgbench*part))))
		if err := l.pgbench(ctx, dsn, "-i", "-I", "dtGp", "-q", "-s", scale); err != nil {
			return err
		}
	} else if err := execute(ctx, dsn, w.Tables); err != nil {
		return err
	}
	return execute(ctx, dsn, "CREATE TABLE "+markerTable+" (shard int, n bigint, PRIMARY KEY (shard, n))", "VACUUM ANALYZE")
}

// markerTable tells where a backlog ends, and carries the delays' markers.
const markerTable = "bench_marker"
