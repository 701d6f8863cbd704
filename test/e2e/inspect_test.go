package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline"
	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/reading"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/test/harness"
)

// far is a place that no network leads to: a NATS server and a database of its own.
type far struct {
	*harness.Cluster
	t      *testing.T
	url    string
	bus    *control.Bus
	cdcctl string
	target string
}

func newFar(t *testing.T, c *harness.Cluster) *far {
	t.Helper()
	srv, err := embedded.Start(c.Ctx, embedded.Options{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	bus, err := control.Connect(c.Ctx, control.Connection{Name: "test", Extra: []nats.Option{srv.InProcess()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
	f := &far{Cluster: c, t: t, url: srv.URL(), bus: bus, cdcctl: harness.CdcctlPath(t), target: c.Target.DSNFor(c.Sub.Name + "_far")}
	f.execute("CREATE DATABASE " + c.Sub.Name + "_far")
	t.Cleanup(func() { f.execute("DROP DATABASE IF EXISTS " + c.Sub.Name + "_far WITH (FORCE)") })
	if err := bank.CreateTables(c.Ctx, f.target); err != nil {
		t.Fatal(err)
	}
	return f
}

// execute runs a statement on the target's server.
func (f *far) execute(sql string) {
	f.t.Helper()
	ctx := context.WithoutCancel(f.Ctx) // also when the test's time is over
	conn, err := pgx.Connect(ctx, f.Target.DSN())
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		f.t.Errorf("%s: %v", sql, err)
	}
}

// start starts a program beside the far NATS server.
func (f *far) start(path string, args ...string) *program.Program {
	f.t.Helper()
	p, err := program.Start(program.Options{
		Name: filepath.Base(path), Path: path, Args: append(args, "--nats", f.url), Log: filepath.Join(f.t.TempDir(), "far.log"), Env: []string{"CDC_CONFIG="},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			f.t.Error(err)
		}
	})
	return p
}

// run runs cdcctl beside the far NATS server.
func (f *far) run(args ...string) {
	f.t.Helper()
	cmd := exec.CommandContext(f.Ctx, f.cdcctl, append(args, "--nats", f.url)...)
	cmd.Env = append(cmd.Environ(), "CDC_CONFIG=")
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("cdcctl %v: %v\n%s", args, err, out)
	}
}

// last is where the far stream ends; 0: there is none.
func (f *far) last() pipeline.Seq {
	s, err := reading.Live(f.Ctx, f.bus.JS, f.Sub.Name)
	if err != nil {
		return 0
	}
	_, last := s.Borders()
	return last
}

// exported is what cdcctl export -o json says, as far as this test needs it.
type exported struct {
	CSN  string       `json:"csn"`
	Last pipeline.Seq `json:"last"`
}

// A stream is carried where no network leads, with the rows that were there before it, in files that are written while it flows, and
// by an import that is killed on its way: the far target becomes equal to the source.
func TestCarriedOver(t *testing.T) {
	var b *harness.Bank
	c := harness.New(t, harness.Options{Copy: harness.CopyToEmpty, Before: func(c *harness.Cluster) {
		b = c.OpenBankUnwatched(bank.Config{AbandonEvery: 100, PerSecond: 600})
		b.Committed(200)
	}})
	node := c.Node("node")
	c.Running()
	export := func(n int, from string) (string, exported) {
		t.Helper()
		file := filepath.Join(t.TempDir(), fmt.Sprintf("bank-%d.cdc", n))
		var e exported
		out := c.Do("export", c.Sub.Name, "--to", file, "--from-csn", from, "-o", "json")
		if err := json.Unmarshal([]byte(out), &e); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return file, e
	}
	b.Committed(2000)
	c.CopyEnds()
	first, one := export(1, "0")
	c.Kill(node)
	c.Node("node")
	c.Running()
	b.Committed(300)
	second, two := export(2, one.CSN)
	b.Committed(300)
	b.StopTraffic()
	c.WaitPublished()
	third, three := export(3, two.CSN)
	t.Logf("files up to sequence %d, %d and %d", one.Last, two.Last, three.Last)

	f := newFar(t, c)
	dies := f.start(f.cdcctl, "import", first, "--target", "far="+f.target)
	harness.Until(c.Ctx, t, "a part is imported", func() (bool, string) {
		if !dies.Running() {
			t.Fatal(dies.Err())
		}
		return f.last() > 0, "nothing is"
	})
	if err := dies.Kill(); err != nil {
		t.Fatal(err)
	}
	if at := f.last(); at >= one.Last {
		t.Fatalf("the import was not killed on its way: it is at %d of %d", at, one.Last)
	} else {
		t.Logf("killed at sequence %d of %d", at, one.Last)
	}
	f.start(harness.Cdcd(), "apply", "--spill-dir", t.TempDir())
	f.run("import", first, "--target", "far="+f.target)
	f.run("import", second)
	f.run("wait", c.Sub.Name, "--for", "applied", "--timeout", "60s")
	f.run("import", third)
	f.run("wait", c.Sub.Name, "--for", "applied", "--timeout", "60s")
	if at := f.last(); at != three.Last {
		t.Errorf("the far stream ends at %d, want %d", at, three.Last)
	}
	d, err := bank.Compare(c.Ctx, c.ShardDSNs(), f.target)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range d.Examples {
		t.Error(e)
	}
	if d.Count > 0 || d.Rows == 0 {
		t.Errorf("%d differences in %d rows", d.Count, d.Rows)
	}
}
