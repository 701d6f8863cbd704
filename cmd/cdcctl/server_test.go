package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/node"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/throwaway"
)

// patience bounds every wait for something that will happen.
const patience = 30 * time.Second

// servers are shared by the tests; each test has databases of its own.
var servers struct {
	once        sync.Once
	a, b, t, w  *throwaway.Server // w: wal_level is not logical
	err         error
	databaseSeq int
}

func startServers(t *testing.T) {
	t.Helper()
	servers.once.Do(func() {
		all, err := throwaway.StartMany(context.Background(),
			throwaway.Options{Name: "a"}, throwaway.Options{Name: "b"}, throwaway.Options{Name: "t"},
			throwaway.Options{Name: "w", Settings: map[string]string{"wal_level": "replica"}})
		if servers.err = err; err == nil {
			servers.a, servers.b, servers.t, servers.w = all[0], all[1], all[2], all[3]
		}
	})
	if servers.err != nil {
		t.Fatal(servers.err)
	}
}

func closeServers() {
	for _, s := range []*throwaway.Server{servers.a, servers.b, servers.t, servers.w} {
		if s != nil {
			_ = s.Close()
		}
	}
}

// world is what a test works in: a NATS server, databases a, b and t, and cdcctl.
type world struct {
	*testing.T
	bus *control.Bus
	env []string
	// a, b and target are DSNs.
	a, b, target string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	startServers(t)
	srv, bus := natstest.Embedded(t)
	w := &world{T: t, bus: bus, env: environment(t, "CDC_NATS="+srv.URL())}
	servers.databaseSeq++
	name := fmt.Sprintf("d%d", servers.databaseSeq)
	for dsn, s := range map[*string]*throwaway.Server{&w.a: servers.a, &w.b: servers.b, &w.target: servers.t} {
		w.sql(s.DSN(), "CREATE DATABASE "+name)
		*dsn = s.DSNFor(name)
		w.sql(*dsn, "CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance numeric)")
	}
	return w
}

// sql runs statements one by one.
func (w *world) sql(dsn string, statements ...string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		w.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
			w.Fatalf("%s: %v", s, err)
		}
	}
}

// query returns a result as text, its rows separated by blanks.
func (w *world) query(dsn, sql string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		w.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
	text, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(text, " ")
}

// result of a cdcctl that ran.
type result struct {
	out, err string
	code     int
}

func (w *world) command(args ...string) *exec.Cmd {
	path := strings.TrimPrefix(strings.SplitN(w.env[0], ":", 2)[0], "PATH=")
	cmd := exec.CommandContext(w.Context(), path+"/cdcctl", args...)
	cmd.Env = w.env
	return cmd
}

// run runs cdcctl and wants the exit code.
func (w *world) run(code int, args ...string) result {
	w.Helper()
	var out, errs bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	w.Logf("%5.0f ms  cdcctl %s", time.Since(began).Seconds()*1000, args[0])
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	r := result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
	if r.code != code {
		w.Fatalf("cdcctl %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// create makes a subscription whose stream begins with the transactions from now on: what is copied would be in the way of
// a test about something else.
func (w *world) create(args ...string) result {
	w.Helper()
	return w.run(0, append([]string{"create-subscription", "--copy-data=false"}, args...)...)
}

// wants checks that a text has all parts.
func (w *world) wants(text string, parts ...string) {
	w.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			w.Errorf("want %q in\n%s", p, text)
		}
	}
}

func (w *world) decode(text string, into any) {
	w.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		w.Fatalf("%v in\n%s", err, text)
	}
}

// start runs something until the returned function is called, which waits for its end.
func (w *world) start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			w.Errorf("it ended: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); done.Wait() }) }
	w.Cleanup(stop)
	return stop
}

func (w *world) startNode() (stop func()) {
	w.Helper()
	n, err := node.New(w.Context(), w.bus, node.Config{Name: "n1", Durability: node.DurableAcks, LeaseTTL: 2 * time.Second, NewTables: 200 * time.Millisecond, SpillDir: w.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	return w.start(n.Run)
}

func (w *world) startWorker() (stop func()) {
	w.Helper()
	k, err := node.NewWorker(w.Context(), w.bus, node.WorkerConfig{Name: "n1", SpillDir: w.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	return w.start(k.Run)
}

// nothingLeft checks that no trace of any subscription is left, on the test's shards and in NATS, but for its history.
func (w *world) nothingLeft() {
	w.Helper()
	for name, dsn := range map[string]string{"a": w.a, "b": w.b} {
		if left := w.query(dsn, "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"); left != "" {
			w.Errorf("slots left on %s: %s", name, left)
		}
		if left := w.query(dsn, "SELECT pubname::text FROM pg_publication"); left != "" {
			w.Errorf("publications left on %s: %s", name, left)
		}
	}
	if left := w.query(w.target, "SELECT nspname::text FROM pg_namespace WHERE nspname = 'cdc'"); left != "" {
		w.Errorf("schema left on the target: %s", left)
	}
	for _, bucket := range []string{"CDC_SUBSCRIPTIONS", "CDC_LEASES", "CDC_SKIPS"} {
		kv, err := w.bus.JS.KeyValue(w.Context(), bucket)
		if err != nil {
			continue // never made
		}
		if keys, err := kv.Keys(w.Context()); err == nil {
			w.Errorf("keys left in %s: %v", bucket, keys)
		}
	}
	for name := range w.bus.JS.StreamNames(w.Context()).Name() {
		if !strings.HasPrefix(name, "KV_") && name != "CDC_HISTORY" {
			w.Errorf("stream left: %s", name)
		}
	}
}

// until waits for a condition.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	pausetest.Within(patience, w, what, ok)
}
