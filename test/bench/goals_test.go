package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// judged is a report of one workload of 1000 rows with two rounds.
func judged(letter string, contenders map[string][]Drain) *Report {
	r := &Results{Letter: letter, Title: "some rows", Backlog: Count{100, 1000}}
	for _, c := range inOrder(contenders) {
		r.Contenders = append(r.Contenders, &Result{Name: c, Drains: contenders[c]})
	}
	r.conclude()
	report := &Report{Workloads: []*Results{r}, Machine: Machine{PostgreSQL: "PostgreSQL 15.18 (Debian) on x86_64", Files: "ext4"}}
	report.judge()
	return report
}

// inOrder is the names in the report's order.
func inOrder(of map[string][]Drain) (names []string) {
	for _, c := range contenders(18) {
		if of[c.Name()] != nil {
			names = append(names, c.Name())
		}
	}
	return names
}

func drainOf(seconds float64, processes map[string]Usage) Drain {
	return Drain{Seconds: seconds, Processes: processes}
}

func line(t *testing.T, r *Report, what, wanted string) goalLine {
	t.Helper()
	for _, l := range r.goalLines() {
		if l.what == what && l.wanted == wanted {
			return l
		}
	}
	t.Fatalf("no goal %q with %q in %+v", what, wanted, r.goalLines())
	return goalLine{}
}

// Each goal names contenders that there are.
func TestGoalsNameContenders(t *testing.T) {
	for _, version := range []int{15, 18} {
		known := map[string]bool{}
		for _, c := range contenders(version) {
			if known[c.Name()] {
				t.Errorf("there are two contenders %q", c.Name())
			}
			known[c.Name()] = true
		}
		for _, g := range goals {
			if !known[g.Ours] || !known[g.Base] {
				t.Errorf("version %d: goal %q names no contender", version, g.String())
			}
		}
	}
}

func TestGoals(t *testing.T) {
	r := judged("a", map[string][]Drain{
		"pg_recvlogical tcp": {drainOf(10, nil), drainOf(12, nil)},
		"capture":            {drainOf(4, map[string]Usage{"capture": {CPUSeconds: 1}, "walsender": {CPUSeconds: 3}}), drainOf(4, nil)},
		"durable internal":   {drainOf(5, map[string]Usage{"node": {PeakBytes: 600 << 20, Allocs: 5000}}), drainOf(8, nil)},
		"path commit=off workers=4": {
			{Seconds: 1, Looks: 10, Processes: map[string]Usage{"apply": {PeakBytes: 30 << 20}}}, {Seconds: 1, Looks: 10},
		},
		"native commit=off": {{Seconds: 2, Looks: 10, Wrong: 9}, {Seconds: 3, Looks: 10}},
	})
	for _, want := range []goalLine{
		{"capture: times as fast as pg_recvlogical tcp", "at least 2.5 on (a), (b), (c)", "(a) 2.75 [2.50 3.00]", "yes"},
		{"capture: CPU time, in times of its walsender's", "at most 0.25 on (a), (b), (c)", "(a) 0.17 [0.00 0.33]", "yes"},
		{"durable internal: times as fast as pg_recvlogical tcp", "at least 2 on (a), (b), (c)", "(a) 1.75 [1.50 2.00]", "no"},
		{"durable json: times as fast as pg_recvlogical tcp", "at least 1.2 on (a), (b), (c)", "not measured", ""},
		{"path commit=off workers=4: times as fast as native commit=off", "at least 1 on (a), (b), (c), (d), (e), (f)", "(a) 2.50 [2.00 3.00]", "yes"},
		{"memory at most, whatever the backlog: node", "at most 512 MiB", "600 MiB", "no"},
		{"memory at most, whatever the backlog: apply", "at most 512 MiB", "30.00 MiB", "yes"},
		{"looks at targets of ours that showed what the source was", "at least 100 %", "100 %", "yes"},
		{"commit to visible on the target at half of the capacity, p50", "at most 5 ms", "not measured", ""},
	} {
		if got := line(t, r, want.what, want.wanted); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// A goal may be reached on one workload only.
func TestGoalOnSomeWorkloads(t *testing.T) {
	a := judged("a", map[string][]Drain{"pg_recvlogical tcp": {drainOf(6, nil)}, "capture": {drainOf(2, nil)}})
	b := judged("b", map[string][]Drain{"pg_recvlogical tcp": {drainOf(3, nil)}, "capture": {drainOf(2, nil)}})
	a.Workloads = append(a.Workloads, b.Workloads...)
	a.judge()
	want := goalLine{"capture: times as fast as pg_recvlogical tcp", "at least 2.5 on (a), (b), (c)", "(a) 3.00, (b) 1.50", "not on (b)"}
	if got := line(t, a, want.what, want.wanted); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestGoalsOfDelays(t *testing.T) {
	r := &Report{
		Delays: []*Delay{{Consumer: "target", Part: 0.1, P50: 9}, {Consumer: "native", Part: 0.5, P50: 9}, {Consumer: "target", Part: 0.5, P50: 3, P99: 30}},
		Merge:  &Merging{AddedP50: 1.5, ProbeP50: 0.4},
	}
	r.judge()
	for _, want := range []goalLine{
		{"commit to visible on the target at half of the capacity, p50", "at most 5 ms", "3.00 ms", "yes"},
		{"commit to visible on the target at half of the capacity, p99", "at most 25 ms", "30.00 ms", "no"},
		{"delay that the joiner adds, p50 (one probe's round trip plus 1 ms)", "at most 1.4 ms on (e)", "(e) 1.50 ms", "no"},
	} {
		if got := line(t, r, want.what, want.wanted); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// A document keeps what is around the report, and takes another report later.
func TestDocs(t *testing.T) {
	dir := t.TempDir()
	document := filepath.Join(dir, "performance.md")
	if err := writeDocs(filepath.Join(dir, jsonReport), document); err == nil || !strings.Contains(err.Error(), "Try: make bench") {
		t.Error(err)
	}
	for _, seconds := range []float64{2, 4} {
		r := judged("a", map[string][]Drain{"pg_recvlogical tcp": {drainOf(6, nil)}, "capture": {drainOf(seconds, map[string]Usage{"capture": {CPUSeconds: 1e-3}})}})
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, jsonReport), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if seconds == 2 {
			if err := os.WriteFile(document, []byte("Before.\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := writeDocs(filepath.Join(dir, jsonReport), document); err == nil || !strings.Contains(err.Error(), "has no place for the report") {
				t.Error(err)
			}
			if err := os.WriteFile(document, []byte("Before.\n"+docsBegin+"\nold\n"+docsEnd+"\nAfter.\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeDocs(filepath.Join(dir, jsonReport), document); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, "Before.\n"+docsBegin+"\n") || !strings.HasSuffix(got, "\n"+docsEnd+"\nAfter.\n") || strings.Contains(got, "old") ||
		strings.Count(got, "| capture | 4.00 [4.00 4.00] |") != 1 || strings.Contains(got, "2.00 [2.00") || !strings.Contains(got, "PostgreSQL 15.18;") {
		t.Errorf("%s", got)
	}
}
