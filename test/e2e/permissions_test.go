package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// permitted is a NATS server with the sample configuration of permissions, and what it refused.
type permitted struct {
	t        *testing.T
	c        *harness.Cluster
	url, dir string
	cdcctl   string
	server.Logger

	mu         sync.Mutex
	violations []string
}

// Errorf is the server's logger: only violations are of interest.
func (p *permitted) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if !strings.Contains(text, "Violation") {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.violations = append(p.violations, text)
}

func (p *permitted) Noticef(string, ...any) {}
func (p *permitted) Warnf(string, ...any)   {}
func (p *permitted) Fatalf(string, ...any)  {}
func (p *permitted) Debugf(string, ...any)  {}
func (p *permitted) Tracef(string, ...any)  {}

func (p *permitted) refused() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.violations)
}

// password is the sample configuration's, of each user.
func password(user string) string { return "secret of " + user }

func newPermitted(t *testing.T, c *harness.Cluster) *permitted {
	t.Helper()
	text, err := os.ReadFile("../../configs/nats-permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	p := &permitted{t: t, c: c, dir: t.TempDir()}
	conf := string(text)
	for old, replacement := range map[string]string{"127.0.0.1:4222": "127.0.0.1:-1", "/var/lib/nats": filepath.Join(p.dir, "nats")} {
		if strings.Count(conf, old) != 1 {
			t.Fatalf("the sample configuration has %q %d times", old, strings.Count(conf, old))
		}
		conf = strings.Replace(conf, old, replacement, 1)
	}
	for _, user := range []string{"node", "worker", "operator", "reader", "accounts_reader"} {
		t.Setenv("CDC_"+strings.ToUpper(user)+"_PASSWORD", strconv.Quote(password(user)))
		if err := os.WriteFile(filepath.Join(p.dir, user), []byte(password(user)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := natstest.Configured(t, conf)
	srv.SetLoggerV2(p, false, false, false)
	p.url = srv.ClientURL()
	p.cdcctl = filepath.Join(p.dir, "cdcctl")
	if out, err := exec.Command("go", "build", "-o", p.cdcctl, "shardcdc/cmd/cdcctl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

// as are the flags with which a program of shardcdc is a user.
func (p *permitted) as(user string) []string {
	return []string{"--nats", p.url, "--nats-user", user, "--nats-password-file", filepath.Join(p.dir, user)}
}

// control runs cdcctl as the operator.
func (p *permitted) control(args ...string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.c.Ctx, p.cdcctl, append(args, p.as("operator")...)...)
	cmd.Env = append(cmd.Environ(), "CDC_CONFIG=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("cdcctl %v: %v\n%s\nrefused: %q", args, err, out, p.refused())
	}
	return string(out)
}

// run runs cdcd until the test ends.
func (p *permitted) run(user string, args ...string) {
	p.t.Helper()
	prog, err := program.Start(program.Options{
		Name: user, Path: harness.Cdcd(), Args: append(append(args, "--node-name", user, "--spill-dir", filepath.Join(p.dir, "spill "+user)), p.as(user)...),
		Log: filepath.Join(p.dir, user+".log"), Env: []string{"CDC_CONFIG="},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := prog.Kill(); err != nil {
			p.t.Error(err)
		}
		if p.t.Failed() {
			p.t.Logf("%s:\n%s", user, prog.Tail(20))
		}
	})
}

// connect connects as a user, with the inbox that the configuration gives it. What the server refuses goes to refused.
func (p *permitted) connect(user, inbox string) (_ jetstream.JetStream, nc *nats.Conn, refused chan error) {
	p.t.Helper()
	refused = make(chan error, 100)
	nc, err := nats.Connect(p.url, nats.UserInfo(user, password(user)), nats.CustomInboxPrefix(inbox),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		p.t.Fatal(err)
	}
	return js, nc, refused
}

// The sample configuration of permissions: with it everything of shardcdc works and nothing that it does is refused; a reader
// of one table reads that, and can do nothing else.
func TestPermissions(t *testing.T) {
	c := harness.New(t, harness.Options{})
	p := newPermitted(t, c)
	var shards []string
	for i, dsn := range c.ShardDSNs() {
		shards = append(shards, "--shard", harness.ShardName(i)+"="+dsn)
		c.Query(dsn, "WITH a AS (INSERT INTO accounts VALUES ($1, 'owner', 5, now())) SELECT 'done'", int64(100+i)) // to be copied
	}
	p.control(append([]string{"create-subscription", "bank", "--format", "json", "--json-layout", "row", "--copy-data=false"}, shards...)...)
	p.control(append([]string{"create-subscription", "twin", "--target", "replica=" + c.TargetDSN()}, shards...)...)
	defer p.control("drop-subscription", "bank")
	defer p.control("drop-subscription", "twin")
	p.run("node", "node", "--nats-durability", "always")
	p.run("worker", "apply")
	for i, dsn := range c.ShardDSNs() {
		p.c.Query(dsn, "WITH a AS (INSERT INTO accounts VALUES ($1, 'owner', 5, now())), n AS (INSERT INTO notes (id, at) VALUES ($1, now())) SELECT 'done'", int64(i))
	}
	p.control("wait", "bank", "--for", "published")
	p.control("wait", "twin", "--for", "applied")
	harness.Until(c.Ctx, t, "the target has the accounts, the copied ones too", func() (bool, string) {
		n := c.Query(c.TargetDSN(), "SELECT count(*)::text FROM accounts")
		return n == "6", n + " accounts"
	})
	p.control("pause", "twin")
	p.control("resume", "twin")
	p.control("status", "bank")
	p.control("list")
	p.control("tail", "bank", "--follow=false")
	p.control("verify", "twin")
	p.control("history", "twin")
	p.control("wait", "twin", "--for", "applied")
	p.mayTrim(t)
	if refused := p.refused(); len(refused) > 0 {
		t.Errorf("the server refused %q", refused)
	}
	t.Run("node", func(t *testing.T) {
		_, nc, refused := p.connect("node", "_INBOX")
		mustRefuse(t, nc, refused, []string{"$JS.API.STREAM.DELETE.CDC_bank", "$JS.API.STREAM.UPDATE.CDC_bank", "$JS.API.STREAM.CREATE.CDC_mine"}, ">", "cdc.>")
	})
	t.Run("worker", func(t *testing.T) {
		_, nc, refused := p.connect("worker", "_INBOX")
		mustRefuse(t, nc, refused, []string{"cdc.bank._tx", "$JS.API.STREAM.PURGE.CDC_bank", "$JS.API.STREAM.DELETE.CDC_bank", "$KV.CDC_SUBSCRIPTIONS.bank"}, ">", "cdc.>")
	})
	t.Run("operator", func(t *testing.T) {
		_, nc, refused := p.connect("operator", "_INBOX")
		mustRefuse(t, nc, refused, []string{"cdc.bank._tx"}, ">", "cdc.>")
	})
	t.Run("reader", p.reader)
	t.Run("accounts", p.accounts)
}

// mayTrim: nodes remove what nobody needs any more, which they do not do in the time of a test.
func (p *permitted) mayTrim(t *testing.T) {
	t.Helper()
	js, _, _ := p.connect("node", "_INBOX")
	s, err := js.Stream(p.c.Ctx, "CDC_bank")
	if err == nil {
		err = s.Purge(p.c.Ctx, jetstream.WithPurgeSequence(1))
	}
	if err != nil {
		t.Error(err)
	}
}

const permittedTime = 20 * time.Second

// reader reads the whole stream with consumers of its own.
func (p *permitted) reader(t *testing.T) {
	js, nc, refused := p.connect("reader", "_INBOX_reader")
	ctx, cancel := context.WithTimeout(t.Context(), permittedTime)
	defer cancel()
	consumer, err := js.OrderedConsumer(ctx, "CDC_bank", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"cdc.bank.public.*", "cdc.bank._tx"}})
	if err != nil {
		t.Fatal(err, p.refused())
	}
	subjects := subjectsOf(t, ctx, consumer, 3)
	for _, want := range []string{"cdc.bank.public.accounts", "cdc.bank.public.notes", "cdc.bank._tx"} {
		if subjects[want] < 3 {
			t.Errorf("%d messages on %s", subjects[want], want)
		}
	}
	t.Run("Go", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "consumer")
		if out, err := exec.Command("go", "build", "-o", path, "shardcdc/docs/consumers/go").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		p.example(t, path, "-behind-csn", "1", "-nats", p.url, "-dsn", p.c.TargetDSN())
	})
	t.Run("Node", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "node")
		p.example(t, installNode(t, dir), filepath.Join(dir, "consumer.js"), "--nats", p.url, "--dsn", p.c.TargetDSN())
	})
	mustRefuse(t, nc, refused, append(hostile("CDC_bank"),
		"$JS.API.STREAM.INFO.CDC_twin", "$JS.API.CONSUMER.CREATE.CDC_twin.mine", "$JS.API.STREAM.MSG.GET.CDC_twin", "$JS.API.DIRECT.GET.CDC_twin.cdc.twin._tx",
	), others...)
}

// example runs an example as the reader, until it has read the stream.
func (p *permitted) example(t *testing.T, path string, args ...string) {
	t.Helper()
	prog, err := program.Start(program.Options{
		Name: "example", Path: path, Args: args, Log: filepath.Join(t.TempDir(), "log"),
		Env: []string{"NATS_USER=reader", "NATS_PASSWORD=" + password("reader")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := prog.Kill(); err != nil {
			t.Error(err)
		}
	}()
	harness.Until(p.c.Ctx, t, "the example has read the stream", func() (bool, string) {
		if !prog.Running() {
			t.Fatalf("it ended: %v; refused: %q", prog.Err(), p.refused())
		}
		if p.c.Query(p.c.TargetDSN(), "SELECT (to_regclass('consumed') IS NOT NULL)::text") == "false" {
			return false, "it has no tables yet"
		}
		csn := p.c.Query(p.c.TargetDSN(), "SELECT coalesce(max(csn), 'none') FROM consumed WHERE csn <> '0'")
		return csn != "none", "it has read nothing"
	})
	p.c.Query(p.c.TargetDSN(), "WITH gone AS (DELETE FROM consumed) SELECT 'done'")
}

// accounts reads its table through the consumer that was made for it.
func (p *permitted) accounts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), permittedTime)
	defer cancel()
	operator, _, _ := p.connect("operator", "_INBOX")
	if _, err := operator.CreateConsumer(ctx, "CDC_bank", jetstream.ConsumerConfig{
		Durable: "accounts", AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		FilterSubjects: []string{"cdc.bank.public.accounts", "cdc.bank._tx", "cdc.bank._ctl.epoch"},
	}); err != nil {
		t.Fatal(err)
	}
	js, nc, refused := p.connect("accounts_reader", "_INBOX_accounts")
	for range 2 { // the second time from its own position, as after a crash
		if _, err := js.ResetConsumerToSequence(ctx, "CDC_bank", "accounts", 1); err != nil {
			t.Fatal(err, p.refused())
		}
		consumer, err := js.Consumer(ctx, "CDC_bank", "accounts")
		if err != nil {
			t.Fatal(err, p.refused())
		}
		subjects := subjectsOf(t, ctx, consumer, 3)
		if subjects["cdc.bank.public.accounts"] < 3 || len(subjects) != 3 {
			t.Errorf("messages by subject: %v", subjects)
		}
	}
	mustRefuse(t, nc, refused, append(hostile("CDC_bank"),
		"$JS.API.STREAM.INFO.CDC_bank", "$JS.API.STREAM.MSG.GET.CDC_bank", "$JS.API.DIRECT.GET.CDC_bank.cdc.bank.public.notes",
		"$JS.API.CONSUMER.CREATE.CDC_bank.accounts", "$JS.API.CONSUMER.CREATE.CDC_bank.mine.cdc.bank.public.notes", "$JS.API.CONSUMER.DELETE.CDC_bank.accounts",
	), others...)
}

// others are where others get their messages and answers.
var others = []string{">", "_INBOX.>", "cdc.>", "$JS.>", "$KV.>"}

// hostile is what no reader may ask for or write.
func hostile(stream string) []string {
	return []string{
		"cdc.bank._tx", "cdc.bank.public.accounts", "cdc.bank._ctl.epoch",
		"$JS.API.STREAM.PURGE." + stream, "$JS.API.STREAM.DELETE." + stream, "$JS.API.STREAM.MSG.DELETE." + stream, "$JS.API.STREAM.UPDATE." + stream,
		"$JS.API.STREAM.CREATE.CDC_mine", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.SNAPSHOT." + stream,
		"$KV.CDC_LEASES.bank", "$KV.CDC_SUBSCRIPTIONS.bank", "$JS.API.DIRECT.GET.KV_CDC_SUBSCRIPTIONS.$KV.CDC_SUBSCRIPTIONS.bank", "_CDC.status.capture.bank", "cdc_history.bank",
	}
}

// subjectsOf reads up to the n-th end of a transaction, and counts messages.
func subjectsOf(t *testing.T, ctx context.Context, consumer jetstream.Consumer, n int) map[string]int {
	t.Helper()
	messages, err := consumer.Messages(jetstream.PullMaxBytes(8 << 20))
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	count := map[string]int{}
	for count["cdc.bank._tx"] < n {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatal(err, count)
		}
		count[m.Subject()]++
	}
	return count
}

// mustRefuse publishes on each subject, and subscribes to what others get: the server refuses all of it.
func mustRefuse(t *testing.T, nc *nats.Conn, refused chan error, subjects []string, subscriptions ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, subject := range subjects {
		want[fmt.Sprintf("Publish to %q", subject)] = true
		if err := nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range subscriptions {
		want[fmt.Sprintf("Subscription to %q", subject)] = true
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(permittedTime); err != nil {
		t.Fatal(err)
	}
	limit := time.After(permittedTime)
	for len(want) > 0 {
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Fatal(err)
			}
			for text := range want {
				if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(text)) {
					delete(want, text)
				}
			}
		case <-limit:
			t.Fatalf("not refused: %v", want)
		}
	}
}
