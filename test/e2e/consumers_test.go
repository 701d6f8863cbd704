package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

// consumerRig is a cluster whose stream one of the examples of docs/consumers reads, into a database where a commit that breaks
// the bank's law fails: so every step that the consumer commits is looked at, not only those that a test happens to see.
type consumerRig struct {
	*harness.Cluster
	t    *testing.T
	log  string
	path string
	args []string
}

// lawSQL: whenever a transaction commits, the money is all there, or no account is yet. Every position is kept, and every effect
// on an account, to be counted.
const lawSQL = `
CREATE TABLE balances (id bigint PRIMARY KEY, shard text NOT NULL, balance bigint NOT NULL);
CREATE TABLE consumed (stream text PRIMARY KEY, csn text NOT NULL, seq bigint NOT NULL);
CREATE TABLE steps (step bigint GENERATED ALWAYS AS IDENTITY, csn numeric NOT NULL, seq bigint NOT NULL);
CREATE TABLE effects (account bigint NOT NULL);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_TABLE_NAME = 'balances' THEN
		INSERT INTO effects VALUES (NEW.id);
	ELSE
		INSERT INTO steps (csn, seq) VALUES (NEW.csn::numeric, NEW.seq);
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER effect AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER step AFTER UPDATE ON consumed FOR EACH ROW EXECUTE FUNCTION note();
CREATE FUNCTION law() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE accounts bigint; money bigint;
BEGIN
	SELECT count(*), coalesce(sum(balance), 0) INTO accounts, money FROM balances;
	IF NOT (accounts = 0 OR (accounts = %[1]d AND money = %[2]d)) THEN
		RAISE EXCEPTION 'there are %% accounts with %% together', accounts, money;
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER law AFTER INSERT OR UPDATE OR DELETE ON balances DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION law();`

const (
	consumerAccounts = 60
	consumerOpening  = 1000
)

func newConsumerRig(t *testing.T, f format.Format) *consumerRig {
	t.Helper()
	c := harness.New(t, harness.Options{
		Format: f, Limit: 3 * time.Minute, OnTarget: fmt.Sprintf(lawSQL, consumerAccounts, consumerAccounts*consumerOpening),
	})
	return &consumerRig{Cluster: c, t: t, log: filepath.Join(t.TempDir(), "consumer.log")}
}

// start starts the consumer.
func (r *consumerRig) start() *program.Program {
	r.t.Helper()
	p, err := program.Start(program.Options{Name: "consumer", Path: r.path, Args: r.args, Log: r.log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			r.t.Error(err)
		}
		if r.t.Failed() {
			r.t.Logf("the consumer's log:\n%s", program.Tail(r.log, 30))
		}
	})
	return p
}

// goesOn waits until the consumer has committed more than it had.
func (r *consumerRig) goesOn(p *program.Program) {
	r.t.Helper()
	before := r.steps()
	harness.Until(r.Ctx, r.t, "the consumer commits", func() (bool, string) {
		if !p.Running() {
			r.t.Fatalf("the consumer ended: %v", p.Err())
		}
		return r.steps() > before, fmt.Sprintf("%d steps", before)
	})
}

func (r *consumerRig) steps() int64 {
	r.t.Helper()
	n, err := strconv.ParseInt(r.Query(r.TargetDSN(), "SELECT count(*)::text FROM steps"), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// abandon leaves in the stream what a writer may leave that dies: transactions of a unit without its end, and a part of a payload.
func (r *consumerRig) abandon() {
	r.t.Helper()
	name := r.Sub.Name
	for _, m := range []struct{ subject, part, data string }{
		{wire.TableSubject(name, "public", "accounts"), "", `{"csn":"5","shard":"a","op":"insert","schema":"public","table":"accounts","key":{"id":1},"after":{"id":1,"balance":7}}`},
		{wire.Subject(name), "", `{"csn":"5","previous":"0","changes":[{"shard":"a","op":"insert","schema":"public","table":"accounts","key":{"id":1},"after":{"id":1,"balance":7}}],"tables":[{"schema":"public","table":"accounts","changes":1}]}`},
		{wire.TableSubject(name, "public", "accounts"), "1/2", `{"csn":`},
		{wire.Subject(name), "1/2", `{"csn":`},
	} {
		msg := nats.NewMsg(m.subject)
		msg.Data = []byte(m.data)
		msg.Header.Set(wire.HeaderFormat, format.JSON)
		msg.Header.Set(wire.HeaderCSN, "5")
		msg.Header.Set(wire.HeaderUnit, "0")
		if m.part != "" {
			msg.Header.Set(wire.HeaderPart, m.part)
		}
		if _, err := r.Bus.JS.PublishMsg(r.Ctx, msg); err != nil {
			r.t.Fatal(err)
		}
	}
}

// lastCSN is that of the last transaction in the stream.
func (r *consumerRig) lastCSN() string {
	r.t.Helper()
	s, err := r.Bus.JS.Stream(r.Ctx, wire.StreamName(r.Sub.Name))
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(r.Ctx, wire.Subject(r.Sub.Name))
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Header.Get(wire.HeaderCSN)
}

// arrives waits until the consumer has everything that was committed before.
func (r *consumerRig) arrives(p *program.Program) {
	r.t.Helper()
	r.WaitPublished()
	want := r.lastCSN()
	harness.Until(r.Ctx, r.t, "the consumer is at the stream's end, csn "+want, func() (bool, string) {
		if !p.Running() {
			r.t.Fatalf("the consumer ended: %v", p.Err())
		}
		have := r.Query(r.TargetDSN(), "SELECT csn FROM consumed")
		return have == want, "it is at " + have
	})
}

// run kills the consumer and the node under load, and compares what the consumer has at the end.
func (r *consumerRig) run() (p *program.Program, b *harness.Bank) {
	t := r.t
	t.Helper()
	r.abandon()
	node := r.Node("node")
	b = r.OpenBank(bank.Config{Accounts: consumerAccounts, Opening: consumerOpening, AbandonEvery: 100, InDoubt: time.Second})
	p = r.start()
	r.goesOn(p)
	dice := rand.New(rand.NewPCG(r.Seed, 0))
	for round := range 10 {
		b.Committed(1 + dice.Int64N(60))
		if round%3 == 0 { // its message is in parts
			account := 1 + dice.Int64N(consumerAccounts)
			r.Query(r.ShardDSN(int(account%harness.Shards)), "WITH a AS (UPDATE accounts SET owner = repeat('x', 3000000) WHERE id = $1),"+
				" j AS (INSERT INTO journal VALUES ($1, 'transfer', now())) SELECT 'done'", account)
		}
		if dice.IntN(3) == 0 {
			r.Kill(node)
			node = r.Node("node")
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		p = r.start()
		if dice.IntN(2) == 0 { // else the next kill hits one that starts
			r.goesOn(p)
		}
	}
	r.goesOn(p)
	b.StopTraffic()
	r.arrives(p)
	r.equal()
	if b.Stats().Distributed == 0 {
		t.Error("no transaction was distributed")
	}
	t.Logf("%d transactions, %d of them distributed, in %d steps", b.Stats().Transactions, b.Stats().Distributed, r.steps())
	return p, b
}

// balances compares the accounts of all shards with the consumer's.
func (r *consumerRig) balances() {
	r.t.Helper()
	const list = "SELECT coalesce(string_agg(id || ' ' || balance, E'\n' ORDER BY id), '') FROM "
	for i, dsn := range r.ShardDSNs() {
		want := r.Query(dsn, list+"accounts")
		have := r.Query(r.TargetDSN(), list+"balances WHERE shard = $1", harness.ShardName(i))
		if have != want || want == "" {
			r.t.Errorf("shard %s: the consumer has\n%s\nthe shard\n%s", harness.ShardName(i), have, want)
		}
	}
}

// equal is balances, and each side of a transfer had its effect once (it left a row in the journal, too), the positions rose, and
// the last one is of today: its CSN is a time.
func (r *consumerRig) equal() {
	r.t.Helper()
	r.balances()
	for i, dsn := range r.ShardDSNs() {
		want := r.Query(dsn, "SELECT count(*)::text FROM journal WHERE what = 'transfer'")
		have := r.Query(r.TargetDSN(), "SELECT count(*)::text FROM effects WHERE account % $1 = $2", int64(harness.Shards), int64(i))
		if have != want || want == "0" {
			r.t.Errorf("shard %s: the consumer changed balances %s times, the shard %s times", harness.ShardName(i), have, want)
		}
	}
	fell := r.Query(r.TargetDSN(), "SELECT count(*)::text FROM (SELECT csn <= lag(csn) OVER w OR seq <= lag(seq) OVER w FROM steps WINDOW w AS (ORDER BY step)) AS s (fell) WHERE fell")
	if fell != "0" {
		r.t.Errorf("the consumer's position did not rise %s times", fell)
	}
	age := r.Query(r.TargetDSN(), "SELECT (now() - to_timestamp((csn::numeric / 4096 / 1e6)::float8 + 946684800) BETWEEN '-1 min' AND '5 min')::text FROM consumed")
	if age != "true" {
		r.t.Error("the CSN of the last transaction is not the time of its commit")
	}
}

// The Go example.
func TestConsumerGo(t *testing.T) {
	r := newConsumerRig(t, format.Format{Name: format.JSON})
	r.path = filepath.Join(t.TempDir(), "consumer")
	if out, err := exec.Command("go", "build", "-o", r.path, "shardcdc/docs/consumers/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.args = []string{"-nats", r.Bus.NC.ConnectedUrl(), "-subscription", r.Sub.Name, "-dsn", r.TargetDSN()}
	p, b := r.run()
	r.anew(p, b)
}

// anew: a consumer that came too late begins behind the last transaction, and the rows are sent again, while transactions go on.
func (r *consumerRig) anew(p *program.Program, b *harness.Bank) {
	t := r.t
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	r.execute("DROP TRIGGER law ON balances; DELETE FROM balances; DELETE FROM consumed")
	r.args = append(r.args, "-behind-csn", r.lastCSN())
	p = r.start()
	b.StartTraffic()
	b.Committed(50)
	r.Cdcctl("resync", r.Sub.Name, "--table", "public.accounts", "--no-wait")
	b.Committed(50)
	harness.Until(r.Ctx, t, "all rows have come again", func() (bool, string) {
		n := r.Query(r.TargetDSN(), "SELECT count(*)::text FROM balances")
		return n == strconv.Itoa(consumerAccounts), n + " rows"
	})
	b.StopTraffic()
	r.arrives(p)
	r.balances()
}

// execute runs statements in the consumer's database.
func (r *consumerRig) execute(sql string) {
	r.t.Helper()
	conn, err := pgx.Connect(r.Ctx, r.TargetDSN())
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(r.Ctx, sql); err != nil {
		r.t.Fatal(err)
	}
}

// The Node.js example: the same from rows one by one.
func TestConsumerNode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	path := installNode(t, dir)
	r := newConsumerRig(t, format.Format{Name: format.JSON, JSON: format.JSONOptions{Layout: format.ByRow}})
	r.path = path
	r.args = []string{filepath.Join(dir, "consumer.js"), "--nats", r.Bus.NC.ConnectedUrl(), "--subscription", r.Sub.Name, "--dsn", r.TargetDSN()}
	r.run()
}

// installNode copies the example to dir, installs what it needs there, and returns the path of node. A machine that cannot reach
// the registry of packages leaves the test out.
func installNode(t *testing.T, dir string) (path string) {
	t.Helper()
	for _, program := range []string{"npm", "node"} {
		var err error
		if path, err = exec.LookPath(program); err != nil {
			t.Skipf("NOT TESTED: the Node.js example, because there is no %s in PATH", program)
		}
	}
	if err := os.CopyFS(dir, os.DirFS("../../docs/consumers/node")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=0")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return path
	}
	for _, sign := range []string{"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "E403", "ENETUNREACH"} {
		if ctx.Err() != nil || strings.Contains(string(out), sign) {
			t.Skipf("NOT TESTED: the Node.js example, because the registry of packages cannot be reached:\n%s", out)
		}
	}
	t.Fatalf("npm ci: %v\n%s", err, out)
	return ""
}

// The example of the nats CLI.
func TestConsumerCLI(t *testing.T) {
	const script = "../../docs/consumers/nats-cli.sh"
	if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := exec.LookPath("nats"); err != nil {
		t.Skip("NOT TESTED: the example of the nats CLI, because there is no nats in PATH")
	}
	r := newConsumerRig(t, format.Format{Name: format.JSON})
	r.Node("node")
	b := r.OpenBank(bank.Config{Accounts: consumerAccounts, Opening: consumerOpening})
	b.Committed(10)
	b.StopTraffic()
	r.WaitPublished()
	cmd := exec.CommandContext(r.Ctx, "sh", script, r.Sub.Name)
	cmd.Env = append(cmd.Environ(), "NATS_URL="+r.Bus.NC.ConnectedUrl())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"previous":"0"`) {
		t.Errorf("%v\n%s", err, out)
	}
}
