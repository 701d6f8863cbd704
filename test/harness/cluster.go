package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline"
	"shardcdc/pipeline/await"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/program"
)

// TargetName is the name of the target in the subscription.
const TargetName = "replica"

// Options of a Cluster.
type Options struct {
	Format format.Format // of the subscription; default internal. Others have no target.
	Lease  time.Duration // of nodes; 1 s
	Limit  time.Duration // of the test; 2 minutes

	Proxied     bool              // proxies stand between everything: see Cluster
	NATSServers int               // 1; 3: a cluster, and everything in it is kept three times
	All         bool              // cdcd all instead of a NATS server alone; Node and Apply are not to be called
	Store       string            // of NATS; default: in the test's folder
	Skew        time.Duration     // max_clock_skew of the subscription; 0: the default
	Retain      time.Duration     // of the subscription; 0: for ever
	Tables      string            // SQL that makes tables beside the bank's, in every database
	OnTarget    string            // instead of Tables, on the target
	Patterns    []string          // of the tables in the subscription; default public.*
	Settings    map[string]string // of every database
	Targets     []control.Target  // besides the one on PostgreSQL; they make tables that are missing
	// Copy makes the subscription copy the rows that are there: those that Before put there, say.
	Copy     Copy
	CopyArgs []string // more flags of create-subscription
	// Before is called when the databases are there, and the subscription is not.
	Before func(*Cluster)
	// Servers of this test alone, the shards' and then the target's, instead of those that the tests share.
	Servers []*throwaway.Server
}

// Cluster is what a test works with. Its methods fail the test.
type Cluster struct {
	Ctx     context.Context // ends with the test's time
	Seed    uint64
	Servers []*throwaway.Server // of the shards
	Target  *throwaway.Server
	Bus     *control.Bus
	Sub     *control.Subscription
	NATS    *program.Program // the only server, or the first one of a cluster

	// With Options.Proxied: between the node and each shard, the worker and the target, and each of them and NATS. The test
	// itself and the bank do not use them; Marks do.
	ShardProxies                     []*Proxy
	TargetProxy, NodeNATS, ApplyNATS *Proxy
	// Reused are gids that Audit may find in more than one transaction.
	Reused map[string]bool
	// Extra is how many transactions the test has committed besides the bank, for Finish.
	Extra int64

	t                      *testing.T
	options                Options
	database               string
	dir                    string
	audit                  *auditor
	url, nodeURL, applyURL string
	peers                  []*peer
	gids                   atomic.Int64 // of Transact

	mu       sync.Mutex
	programs []*program.Program
}

var clusters atomic.Int64

// New makes databases with the bank's tables, starts NATS, and creates the subscription.
func New(t *testing.T, o Options) *Cluster {
	t.Helper()
	if o.Lease == 0 {
		o.Lease = time.Second
	}
	if o.Limit == 0 {
		o.Limit = 2 * time.Minute
	}
	c := &Cluster{
		Ctx: Context(t, o.Limit), Seed: Seed(t), Servers: shared.servers[:Shards], Target: shared.servers[Shards],
		Reused: map[string]bool{}, t: t, options: o, database: fmt.Sprintf("bank%d", clusters.Add(1)), dir: t.TempDir(),
	}
	if o.Servers != nil {
		c.Servers, c.Target = o.Servers[:Shards], o.Servers[Shards]
	}
	t.Cleanup(c.close)
	var wait sync.WaitGroup
	for _, s := range c.all() {
		wait.Go(func() { c.makeDatabase(s) })
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	c.startNATS()
	if o.Before != nil {
		o.Before(c)
	}
	c.subscribe()
	t.Cleanup(c.tell) // while everything still runs, the proxies too
	return c
}

// all are the servers of the shards and the target.
func (c *Cluster) all() []*throwaway.Server { return append(slices.Clone(c.Servers), c.Target) }

func (c *Cluster) makeDatabase(s *throwaway.Server) {
	conn, err := pgx.Connect(c.Ctx, s.DSN())
	if err != nil {
		c.t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(c.Ctx, "CREATE DATABASE "+c.database); err != nil {
		c.t.Error(err)
		return
	}
	if err := bank.CreateTables(c.Ctx, s.DSNFor(c.database)); err != nil {
		c.t.Error(err)
	}
	sql := c.options.Tables
	if s == c.Target && c.options.OnTarget != "" {
		sql = c.options.OnTarget
	}
	for name, value := range c.options.Settings {
		sql += fmt.Sprintf("; ALTER DATABASE %s SET %s = '%s'", c.database, name, value)
	}
	if err := c.execute(s.DSNFor(c.database), sql); err != nil {
		c.t.Error(err)
	}
}

// execute runs statements on a connection of their own.
func (c *Cluster) execute(dsn, sql string) error {
	conn, err := pgx.Connect(c.Ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(c.Ctx, sql)
	return err
}

// ShardDSN is the test's database on a shard.
func (c *Cluster) ShardDSN(i int) string { return c.Servers[i].DSNFor(c.database) }

// ShardDSNs are all of them.
func (c *Cluster) ShardDSNs() (dsns []string) {
	for i := range c.Servers {
		dsns = append(dsns, c.ShardDSN(i))
	}
	return dsns
}

// TargetDSN is the test's database on the target.
func (c *Cluster) TargetDSN() string { return c.Target.DSNFor(c.database) }

func (c *Cluster) subscribe() {
	c.t.Helper()
	spec := subscribe.Spec{Name: c.database, Format: c.options.Format, Tables: c.options.Patterns, MaxClockSkew: c.options.Skew, Retain: c.options.Retain}
	if c.options.Format.Name == "" {
		spec.Targets = append([]control.Target{{Name: TargetName, DSN: c.viaProxy(c.TargetDSN(), c.Target, &c.TargetProxy)}}, c.options.Targets...)
		spec.CreateTables = len(c.options.Targets) > 0
	}
	c.ShardProxies = make([]*Proxy, len(c.Servers))
	for i, s := range c.Servers {
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: ShardName(i), DSN: c.viaProxy(c.ShardDSN(i), s, &c.ShardProxies[i])})
	}
	c.audit = newAuditor()
	if c.options.Copy != NoCopy {
		c.subscribeWithCopy(spec)
		return
	}
	var err error
	if c.Sub, _, err = subscribe.Create(c.Ctx, c.Bus, spec); err != nil {
		c.t.Fatal(err)
	}
}

// viaProxy makes the proxy, if the test wants proxies, and returns the DSN to use.
func (c *Cluster) viaProxy(dsn string, s *throwaway.Server, p **Proxy) string {
	c.t.Helper()
	if !c.options.Proxied {
		return dsn
	}
	*p = NewProxy(c.t, serverAddress(s), PostgreSQL)
	text, err := through(dsn, *p)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func serverAddress(s *throwaway.Server) string { return fmt.Sprintf("127.0.0.1:%d", s.Port()) }

// start runs a program that ends with the test. Its log is shown if the test fails.
func (c *Cluster) start(name, path string, args ...string) *program.Program {
	c.t.Helper()
	p, err := program.Start(program.Options{
		Name: name, Path: path, Args: args, Log: filepath.Join(c.dir, name+".log"), Env: []string{"CDC_CONFIG="},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.programs = append(c.programs, p)
	return p
}

// Node starts a capture node of the given name. Nodes of one name share a log.
func (c *Cluster) Node(name string) *program.Program {
	c.t.Helper()
	return c.start(name, shared.cdcd, "node", "--nats", c.nodeURL, "--nats-durability", "always", "--node-name", name,
		"--lease-ttl", c.options.Lease.String(), "--nats-replicas", strconv.Itoa(len(c.peers)), "--spill-dir", c.SpillDir(name))
}

// SpillDir is where the process of that name keeps what is too large for its memory.
func (c *Cluster) SpillDir(name string) string { return filepath.Join(c.dir, "spill", name) }

// Apply starts an apply worker.
func (c *Cluster) Apply() *program.Program { return c.Worker("apply") }

// Worker starts an apply worker of the given name. Workers of one name share a log.
func (c *Cluster) Worker(name string) *program.Program {
	c.t.Helper()
	return c.start(name, shared.cdcd, "apply", "--nats", c.applyURL, "--node-name", name,
		"--lease-ttl", c.options.Lease.String(), "--nats-replicas", strconv.Itoa(len(c.peers)), "--spill-dir", c.SpillDir(name))
}

// Owner is the program, of those given, that has the connection; nil: none has.
func (c *Cluster) Owner(ends Ends, programs ...*program.Program) *program.Program {
	c.t.Helper()
	for _, p := range programs {
		if has, err := hasConnection(p.PID(), ends); err != nil && p.Running() {
			c.t.Fatal(err)
		} else if has {
			return p
		}
	}
	return nil
}

// Kill is kill -9.
func (c *Cluster) Kill(p *program.Program) {
	c.t.Helper()
	if err := p.Kill(); err != nil {
		c.t.Fatal(err)
	}
}

// Capture is the status of the node that captures; ok is false when none answers.
func (c *Cluster) Capture() (st control.CaptureStatus, ok bool) {
	st, err := control.AskCapture(c.Ctx, c.Bus.NC, c.Sub.Name)
	return st, err == nil
}

// Running waits until a node captures, and says which.
func (c *Cluster) Running() (node string) {
	c.t.Helper()
	Until(c.Ctx, c.t, "a node captures", func() (bool, string) {
		st, ok := c.Capture()
		node = st.Node
		return ok && st.State == "running", fmt.Sprintf("%s %s %s", st.Node, st.State, st.Error)
	})
	return node
}

// WaitPublished waits until everything committed so far is in the stream, and returns a sequence behind it.
func (c *Cluster) WaitPublished() pipeline.Seq {
	c.t.Helper()
	marks, err := await.Marks(c.Ctx, c.Sub)
	if err != nil {
		c.t.Fatal(err)
	}
	seq, err := await.Published(c.Ctx, c.Bus, c.Sub, marks)
	if err != nil {
		c.t.Fatal(err)
	}
	return seq
}

// WaitApplied waits until everything committed so far is on the target.
func (c *Cluster) WaitApplied() {
	c.t.Helper()
	c.WaitAppliedOn(TargetName)
}

// WaitAppliedOn is the same for any target of the subscription.
func (c *Cluster) WaitAppliedOn(target string) {
	c.t.Helper()
	if err := await.Applied(c.Ctx, c.Bus, c.Sub, target, c.WaitPublished()); err != nil {
		c.t.Fatal(err)
	}
}

// Equal compares source and target row by row.
func (c *Cluster) Equal() {
	c.t.Helper()
	d, err := bank.Compare(c.Ctx, c.ShardDSNs(), c.TargetDSN())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range d.Examples {
		c.t.Error(e)
	}
	if d.Count > 0 {
		c.t.Fatalf("%d differences in %d rows", d.Count, d.Rows)
	}
	c.t.Logf("%d rows are equal", d.Rows)
}

// Query runs a query that gives one text on a database.
func (c *Cluster) Query(dsn, sql string, args ...any) (text string) {
	c.t.Helper()
	conn, err := pgx.Connect(c.Ctx, dsn)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(c.Ctx, sql, args...).Scan(&text); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// Confirmed is the slot's confirmed position on a shard.
func (c *Cluster) Confirmed(shard int) pipeline.LSN {
	c.t.Helper()
	return c.lsn(shard, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '"+c.Sub.Shards[shard].Slot+"'")
}

// Written is a shard's WAL position: everything done so far lies before it.
func (c *Cluster) Written(shard int) pipeline.LSN {
	c.t.Helper()
	return c.lsn(shard, "SELECT pg_current_wal_insert_lsn()::text")
}

func (c *Cluster) lsn(shard int, sql string) pipeline.LSN {
	c.t.Helper()
	at, err := pipeline.ParseLSN(c.Query(c.ShardDSN(shard), sql))
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

// Limit bounds what is waited for from now on until the returned function is called.
func (c *Cluster) Limit(d time.Duration, what string) (end func()) {
	outer := c.Ctx
	ctx, cancel := context.WithTimeoutCause(outer, d, fmt.Errorf("%s took longer than %s", what, d))
	c.Ctx = ctx
	return func() {
		cancel()
		c.Ctx = outer
	}
}

// Resubscribe drops the subscription and creates it again: what an error that names a loss asks for. The target's rows
// stay as they are.
func (c *Cluster) Resubscribe() {
	c.t.Helper()
	if _, err := subscribe.Drop(c.Ctx, c.Bus, c.Sub.Name, subscribe.Options{}); err != nil {
		c.t.Fatal(err)
	}
	c.subscribe()
}
