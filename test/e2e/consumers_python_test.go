package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/pipeline/wire"
	"shardcdc/test/harness"
)

const consumerPython = "../../docs/consumers/python"

// The Python example. First it takes the stream's messages from a file, and is thrown away between any two of them; then it runs
// as it is, with nats-py or, where that is not installed, with a stub of it that has the messages from the file.
func TestConsumerPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("NOT TESTED: the Python example, because there is no python3 in PATH")
	}
	r := newConsumerRig(t, format.Format{Name: format.JSON})
	r.abandon()
	r.Node("node")
	b := r.OpenBank(bank.Config{Accounts: consumerAccounts, Opening: consumerOpening})
	b.Committed(200)
	b.StopTraffic()
	var want strings.Builder
	for id := int64(1); id <= consumerAccounts; id++ {
		shard := int(id % harness.Shards)
		fmt.Fprintf(&want, "%s %d %s\n", harness.ShardName(shard), id, r.Query(r.ShardDSN(shard), "SELECT balance::text FROM accounts WHERE id = $1", id))
	}
	lines := r.lines(uint64(r.WaitPublished()))

	t.Run("crashes", func(t *testing.T) {
		var input strings.Builder
		dice := rand.New(rand.NewPCG(r.Seed, 0))
		for _, line := range lines {
			input.WriteString(line)
			if dice.IntN(10) == 0 {
				input.WriteString("crash\n")
			}
		}
		cmd := exec.CommandContext(r.Ctx, python, "testdata/feed.py", r.Sub.Name, filepath.Join(t.TempDir(), "balances.db"))
		cmd.Env = append(cmd.Environ(), "PYTHONPATH="+consumerPython, "PYTHONDONTWRITEBYTECODE=1")
		cmd.Stdin = strings.NewReader(input.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if string(out) != want.String() {
			t.Errorf("the consumer has\n%s\nwant\n%s", out, want.String())
		}
	})

	t.Run("program", func(t *testing.T) {
		dir := t.TempDir()
		env := []string{"PYTHONDONTWRITEBYTECODE=1"}
		if exec.Command(python, "-c", "import nats").Run() != nil {
			t.Log("NOT TESTED with nats-py, which is not installed: with a stub")
			feed := filepath.Join(dir, "feed")
			if err := os.WriteFile(feed, []byte(strings.Join(lines, "")), 0o600); err != nil {
				t.Fatal(err)
			}
			env = append(env, "PYTHONPATH=testdata/stub", "FEED="+feed)
		}
		db := filepath.Join(dir, "balances.db")
		p, err := program.Start(program.Options{
			Name: "consumer", Path: python, Args: []string{filepath.Join(consumerPython, "consumer.py"), r.Bus.NC.ConnectedUrl(), r.Sub.Name, db},
			Env: env, Log: filepath.Join(dir, "log"),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
		}()
		harness.Until(r.Ctx, t, "the consumer has the balances", func() (bool, string) {
			if !p.Running() {
				t.Fatalf("it ended: %v", p.Err())
			}
			have := r.sqlite(python, db)
			return have == want.String(), have
		})
	})
}

// lines are the messages of the stream that a consumer of transactions reads, as JSON.
func (r *consumerRig) lines(last uint64) (lines []string) {
	r.t.Helper()
	stream, err := r.Bus.JS.Stream(r.Ctx, wire.StreamName(r.Sub.Name))
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := uint64(1); seq <= last; seq++ {
		m, err := stream.GetMsg(r.Ctx, seq)
		if err != nil {
			r.t.Fatal(err)
		}
		if m.Subject != wire.Subject(r.Sub.Name) && m.Subject != wire.EpochSubject(r.Sub.Name) {
			continue
		}
		headers := map[string]string{}
		for name := range m.Header {
			headers[name] = m.Header.Get(name)
		}
		line, err := json.Marshal(map[string]any{"subject": m.Subject, "headers": headers, "data": m.Data, "seq": seq})
		if err != nil {
			r.t.Fatal(err)
		}
		lines = append(lines, string(line)+"\n")
	}
	return lines
}

// sqlite is what stands in the table of balances; empty while there is none.
func (r *consumerRig) sqlite(python, path string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.Ctx, python, "-c", `
import sqlite3, sys
try:
    rows = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True).execute("SELECT shard, id, balance FROM balances ORDER BY id")
except sqlite3.OperationalError:
    rows = []
for row in rows:
    print(*row)`, path)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return string(out)
}
