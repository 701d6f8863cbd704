package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(childMain(role))
	}
	goleak.VerifyTestMain(m)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{5, 1, 3}, Spread{3, 1, 5}},
		{[]float64{4, 1, 2, 9}, Spread{3, 1, 9}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("%v: %v, want %v", test.values, got, test.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(i+1))
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 50, 0.99: 99, 0.999: 100, 1: 100} {
		if got := quantile(hundred, q); got != want {
			t.Errorf("quantile %v of 1 to 100: %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestOptions(t *testing.T) {
	if o, err := options([]string{"-workloads", "ae", "-contenders", "^capture$"}); err != nil || !o.Contenders.MatchString("capture") {
		t.Error(o, err)
	}
	_, err := options([]string{"-workloads", "ax", "-contenders", "(", "-rounds", "0", "-loads", "50,much"})
	for _, want := range []string{`-loads: "much" is no percentage`, `there is no 'x'. Try: letters of abcdef`, "-contenders: ", "rounds 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// Ratios are of the same round.
func TestConclude(t *testing.T) {
	drain := func(round int, seconds, ours, sender float64) Drain {
		return Drain{Round: round, Seconds: seconds, Processes: map[string]Usage{
			"capture": {CPUSeconds: ours, AllocBytes: 500}, "walsender": {CPUSeconds: sender},
		}}
	}
	r := &Results{Backlog: Count{100, 1_000}, Contenders: []*Result{
		{Name: "pg_recvlogical tcp", Drains: []Drain{drain(1, 10, 0, 9), drain(2, 30, 0, 9), drain(3, 9, 0, 9)}},
		{Name: "capture", Drains: []Drain{drain(1, 5, 1, 4), drain(2, 10, 1, 4), drain(3, 9, 3, 4)}},
	}}
	r.conclude()
	if len(r.Ratios) != 2 {
		t.Fatalf("%d ratios: %v", len(r.Ratios), r.Ratios)
	}
	for i, want := range []string{
		"capture: times as fast as pg_recvlogical tcp: 2.00 [1.00 3.00]",
		"capture: CPU time, in times of its walsender's: 0.25 [0.25 0.75]",
	} {
		if got := r.Ratios[i].String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	c := r.Contenders[1]
	if c.Seconds != (Spread{9, 5, 10}) || c.Rows.Most != 200 || c.Processes["capture"].CPUSeconds != 1000 || c.Processes["capture"].AllocBytes != 500_000 {
		t.Errorf("%+v", c)
	}
}

func TestDelays(t *testing.T) {
	began := time.Now()
	var acked, seen []time.Time
	for i := range 100 {
		acked = append(acked, began.Add(time.Duration(i)*time.Second))
		seen = append(seen, acked[i].Add(time.Duration(i)*time.Millisecond))
	}
	seen[0] = acked[0].Add(-time.Second) // before the client was told
	var d Delay
	d.conclude(acked, seen)
	if d.P50 != 49 || d.P99 != 98 || d.Most != 99 {
		t.Errorf("%+v", d)
	}
}

func TestMarkerOf(t *testing.T) {
	marker := `{"csn":"1","changes":[{"index":0,"op":"relation","table":"bench_marker"},{"index":1,"op":"insert","table":"bench_marker","after":{"shard":0,"n":42}}]}`
	if n, ok, err := markerOf([]byte(marker)); n != 42 || !ok || err != nil {
		t.Error(n, ok, err)
	}
	if _, ok, err := markerOf([]byte(`{"changes":[{"op":"insert","table":"item","after":{"id":1}}]}`)); ok || err != nil {
		t.Error(ok, err)
	}
	if _, _, err := markerOf([]byte(`bench_marker`)); err == nil {
		t.Error("no error")
	}
}

func TestChildAnswersWithItsError(t *testing.T) {
	_, err := startChild(testContext(t), "sweeper", Config{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), `role "sweeper" is unknown`) {
		t.Error(err)
	}
}

// A run with real servers, as small as can be: every kind of contender, three shards.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL servers")
	}
	o := Options{
		Workloads: "e", Contenders: regexp.MustCompile(`^(pg_recvlogical tcp|capture|dumpers|durable json|native commit=off|stored commit=on workers=4|path commit=off workers=2)$`),
		Rounds: 1, Size: 1e-9, Delays: true, Loads: []float64{0.5}, DelayTime: 200 * time.Millisecond, Limit: time.Minute, Out: t.TempDir(),
	}
	var out strings.Builder
	if err := run(testContext(t), o, contenders, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text, err := os.ReadFile(filepath.Join(o.Out, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Workloads) != 1 || len(r.Delays) != 3 || r.Merge == nil || len(r.Verdicts) == 0 || r.Machine.Settings["fsync"] != "on" {
		t.Fatalf("%s", text)
	}
	for _, w := range r.Workloads {
		for _, c := range w.Contenders {
			if len(c.Drains) != 1 || c.Seconds.Median <= 0 || len(c.Processes) == 0 {
				t.Errorf("%s, %s: %+v", w.Letter, c.Name, c)
			}
		}
	}
}

// late is a contender that is stopped in the middle, wherever it is then.
type late struct{ Contender }

func (l late) Drain(ctx context.Context, b *Backlog, slot string) (Drain, error) {
	b.Expected.Rows++
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return l.Contender.Drain(ctx, b, slot)
}

// A contender that fails ends the run; no process and no file is left, but for the report.
func TestNothingIsLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL servers")
	}
	o := Options{Workloads: "a", Contenders: regexp.MustCompile("."), Rounds: 1, Size: 1e-9, Limit: time.Minute, Out: t.TempDir()}
	files, err := os.MkdirTemp("", "bench-test-") // t.TempDir is closed to the user that servers run as
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(files) }) // It is empty, or the test has failed.
	if err := os.Chmod(files, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", files)
	var out strings.Builder
	err = run(testContext(t), o, func(int) []Contender { return []Contender{late{&durable{format: "internal"}}} }, &out)
	if err == nil || !strings.Contains(err.Error(), "workload a: durable internal, round 0: ") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(files); err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", files, left, err)
	}
	goleak.VerifyNone(t) // A goroutine waits for each process.
	if _, err := os.Stat(filepath.Join(o.Out, jsonReport)); err != nil {
		t.Error(err)
	}
}

// testLab is a lab with one shard.
func testLab(t *testing.T) (context.Context, *lab) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL servers")
	}
	ctx := testContext(t)
	l, err := openLab(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, l
}

// Wrong data, and a state that never was, fail a drain.
func TestWrongDataFails(t *testing.T) {
	ctx, l := testLab(t)
	all := []Contender{&captureOnly{}, &durable{format: "json"}, &path{commit: "off", workers: 1}, &stored{commit: "off", workers: 2}, &native{commit: "off"}}
	b, err := buildBacklog(ctx, l, workload("a"), Options{Rounds: 3, Size: 1e-9}, all)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(name string, contender, round int, want string) {
		t.Helper()
		_, err := all[contender].Drain(ctx, b, slotName(contender, round))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s: %v, want %q", all[contender].Name(), name, err, want)
		}
	}
	right := b.Expected
	b.Expected.Transactions++
	expect("a transaction more was expected", 0, 0, "the backlog has 503 with 502")
	expect("a transaction more was expected", 1, 0, "the backlog has 503 with 502")
	b.Expected = right
	b.want["item"] = Sums{Rows: 500, Hash: "1"}
	for contender := 2; contender < len(all); contender++ {
		expect("other rows were expected", contender, 0, "table item: the target has 500 rows")
	}
	if err := execute(ctx, l.target().DSNFor(b.seed), "ALTER TABLE item DROP COLUMN doc"); err != nil {
		t.Fatal(err)
	}
	expect("a target that refuses rows", 2, 1, "the apply worker stopped: ")
	if err := execute(ctx, l.target().DSNFor(b.seed), "ALTER TABLE item ADD COLUMN doc jsonb"); err != nil {
		t.Fatal(err)
	}
	broken := *b.Workload
	broken.Law = "SELECT count(*) < 0 FROM item"
	b.Workload = &broken
	for contender := 2; contender < 4; contender++ {
		expect("a law that is broken", contender, 2, "a state that the source never had")
	}
	if left, err := os.ReadDir(l.dir); err != nil || len(left) != 1 { // the stream
		t.Errorf("drains left %v, %v", left, err)
	}
}

// Each law holds before and after, and says no when a part of a transaction is missing.
func TestLaws(t *testing.T) {
	ctx, l := testLab(t)
	breaks := map[string]string{
		"a": "DELETE FROM item WHERE id = (SELECT max(id) - 1 FROM item)",
		"b": "DELETE FROM item WHERE id = (SELECT max(id) FROM item)",
		"c": "UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1",
		"d": "UPDATE wide SET n = n + 1 WHERE id = 1",
		"e": "UPDATE account SET balance = balance + 1 WHERE id = 3",
		"f": "UPDATE hot SET n = n + 1",
	}
	for i := range workloads {
		w := workloads[i]
		t.Run(w.Letter, func(t *testing.T) {
			name := "law_" + w.Letter
			if err := execute(ctx, l.target().DSN(), "CREATE DATABASE "+name); err != nil {
				t.Fatal(err)
			}
			dsn := l.target().DSNFor(name)
			if err := l.makeTables(ctx, &w, dsn, 1e-9); err != nil {
				t.Fatal(err)
			}
			holds := func(when string, want bool) {
				t.Helper()
				if got, err := query[bool](ctx, dsn, w.Law); got != want || err != nil {
					t.Errorf("%s: %v, %v", when, got, err)
				}
			}
			holds("before", true)
			f := &filling{dsns: []string{dsn}, n: w.size(1e-9), lab: l}
			if w.Shards > 1 {
				f.dsns = nil
			} else if err := w.Fill(ctx, f); err != nil {
				t.Fatal(err)
			}
			holds("after", true)
			if err := execute(ctx, dsn, breaks[w.Letter]); err != nil {
				t.Fatal(err)
			}
			holds(fmt.Sprintf("after %s", breaks[w.Letter]), false)
		})
	}
}
