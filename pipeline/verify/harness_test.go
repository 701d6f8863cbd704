package verify

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"shardcdc/pipeline/await"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/node"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

const shards = 3

// servers are shared by all tests: the shards', and then the target's.
var servers []*throwaway.Server

func TestMain(m *testing.M) {
	var err error
	servers, err = throwaway.StartMany(context.Background(), make([]throwaway.Options, shards+1)...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	for _, s := range servers {
		if err := s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// place is a database on every server, a NATS server and a subscription.
type place struct {
	*testing.T
	ctx    context.Context
	bus    *control.Bus
	dsns   []string // the last one is the target's
	conns  []*pgx.Conn
	sub    *control.Subscription
	log    *slog.Logger
	spec   subscribe.Spec
	stop   func() // of the worker
	nodeOf func()
}

var seedFlag = flag.Uint64("seed", 0, "seed of random choices; 0: a random one, which is printed")

// seed is the test's seed, which it logs.
func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("seed %d (repeat the choices with -seed=%d)", s, s)
	return s
}

var places int

const target = shards

// newPlace makes tables everywhere.
func newPlace(t *testing.T, tables string) *place {
	t.Helper()
	return newPlaceWith(t, "", tables)
}

// newPlaceWith is newPlace with options for the target's database.
func newPlaceWith(t *testing.T, options, tables string) *place {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	p := &place{T: t, ctx: ctx, bus: natstest.Bus(t), log: slog.New(slog.DiscardHandler)}
	places++
	p.spec = subscribe.Spec{Name: fmt.Sprintf("v%d", places)}
	for i, s := range servers {
		admin, err := pgx.Connect(ctx, s.DSN())
		p.must(err)
		create := "CREATE DATABASE " + p.spec.Name
		if i == target {
			create += " " + options
		}
		_, err = admin.Exec(ctx, create)
		p.must(err)
		p.must(admin.Close(ctx))
		p.dsns = append(p.dsns, s.DSNFor(p.spec.Name))
		p.conns = append(p.conns, p.connect(i))
		p.sql(i, tables)
		if i == target {
			p.spec.Targets = []control.Target{{Name: "t", DSN: p.dsns[i]}}
		} else {
			p.spec.Shards = append(p.spec.Shards, subscribe.Shard{Name: string(rune('a' + i)), DSN: p.dsns[i]})
		}
	}
	t.Cleanup(p.close)
	return p
}

func (p *place) connect(i int) *pgx.Conn {
	p.Helper()
	config, err := pgx.ParseConfig(p.dsns[i])
	p.must(err)
	config.RuntimeParams["client_encoding"] = "UTF8"
	conn, err := pgx.ConnectConfig(p.ctx, config)
	p.must(err)
	p.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// close rolls back what is prepared, so that the database can go, and drops the subscription.
func (p *place) close() {
	if p.stop != nil {
		p.stop()
	}
	if p.nodeOf != nil {
		p.nodeOf()
	}
	for i := range shards {
		rows, err := p.conns[i].Query(p.ctx, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
		p.must(err)
		gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		p.must(err)
		for _, g := range gids {
			p.sql(i, "ROLLBACK PREPARED "+literal(g))
		}
	}
	if p.sub != nil {
		_, err := subscribe.Drop(p.ctx, p.bus, p.sub.Name, subscribe.Options{})
		p.must(err)
	}
}

// start subscribes and runs a node and a worker.
func (p *place) start() {
	p.Helper()
	var err error
	p.sub, _, err = subscribe.Create(p.ctx, p.bus, p.spec)
	p.must(err)
	n, err := node.New(p.ctx, p.bus, node.Config{Name: "n", Durability: node.DurableAcks, LeaseTTL: 2 * time.Second, Heartbeat: 200 * time.Millisecond, SpillDir: p.TempDir(), Log: p.log})
	p.must(err)
	p.nodeOf = p.run(n.Run)
	p.startWorker()
}

func (p *place) startWorker() {
	p.Helper()
	w, err := node.NewWorker(p.ctx, p.bus, node.WorkerConfig{Name: "w", LeaseTTL: 2 * time.Second, SpillDir: p.TempDir(), Log: p.log})
	p.must(err)
	p.stop = p.run(w.Run)
}

// run runs something until the returned function is called, which waits for its end.
func (p *place) run(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = fn(ctx) })
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); running.Wait() }) }
	p.Cleanup(stop)
	return stop
}

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// sql runs statements in one implicit transaction.
func (p *place) sql(server int, statements ...string) {
	p.Helper()
	for _, s := range statements {
		if _, err := p.conns[server].Exec(p.ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
			p.Fatalf("server %d: %s: %v", server, s, err)
		}
	}
}

// tx runs a distributed transaction up to PREPARE.
func (p *place) prepare(gid string, parts map[int]string) {
	p.Helper()
	for i, sql := range parts {
		p.sql(i, "BEGIN", sql, "PREPARE TRANSACTION "+literal(gid))
	}
}

// applied waits until the target has everything.
func (p *place) applied() {
	p.Helper()
	marks, err := await.Marks(p.ctx, p.sub)
	p.must(err)
	seq, err := await.Published(p.ctx, p.bus, p.sub, marks)
	p.must(err)
	p.must(await.Applied(p.ctx, p.bus, p.sub, "t", seq))
}

func (p *place) config() Config {
	return Config{Bus: p.bus, Subscription: p.sub, Target: p.sub.Targets[0], Timeout: 30 * time.Second}
}

func (p *place) verify(change ...func(*Config)) *Report {
	p.Helper()
	cfg := p.config()
	for _, c := range change {
		c(&cfg)
	}
	r, err := Run(p.ctx, cfg)
	p.must(err)
	return r
}

// asReader makes a comparison's sessions those of a role that may read the tables, and sees nothing of others' sessions.
func (p *place) asReader(c *Config) {
	p.Helper()
	as := func(server int, dsn string) string {
		p.sql(server, "DO $$ BEGIN CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader; EXCEPTION WHEN duplicate_object THEN END $$")
		config, err := url.Parse(dsn)
		p.must(err)
		config.User = url.User("reader")
		return config.String()
	}
	sub := *c.Subscription
	sub.Shards = slices.Clone(sub.Shards)
	for i := range sub.Shards {
		sub.Shards[i].DSN = as(i, sub.Shards[i].DSN)
	}
	c.Subscription, c.Target.DSN = &sub, as(target, c.Target.DSN)
}

// text is a report in one line per table and row.
func text(r *Report) string {
	var b strings.Builder
	for _, t := range r.Tables {
		fmt.Fprintf(&b, "%s.%s %s", t.Schema, t.Table, t.Verdict)
		if t.Problem != "" {
			fmt.Fprintf(&b, " problem: %s", t.Problem)
		}
		for _, n := range t.Notes {
			fmt.Fprintf(&b, " note: %s", n)
		}
		fmt.Fprintf(&b, " rows %d/%d differing %d missing %d extra %d undecided %d repaired %d\n", t.RowsSource, t.RowsTarget, t.Differing, t.Missing, t.Extra, t.Undecided, t.Repaired)
		for i := range t.Rows {
			row := &t.Rows[i]
			fmt.Fprintf(&b, "  %s %s %d/%d", row, row.Kind, row.Source, row.Target)
			for _, more := range [][]string{row.Columns, {row.Reason}, {row.Repair}} {
				if s := strings.Join(more, ","); s != "" {
					b.WriteString(" " + s)
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (p *place) want(r *Report, want string) {
	p.Helper()
	if got := text(r); strings.TrimSpace(got) != strings.TrimSpace(want) {
		p.Errorf("verdict %s\n%s\nwant\n%s", r.Verdict, got, want)
	}
}
