package sim

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is one fault put into joiner/merge: old, which must stand in the file exactly once, becomes new.
type mutant struct {
	name, file, old, new string
	first                string // seed to begin with, for those that are rarely met; empty: as TestWorlds
}

var mutants = []mutant{
	{"take above the watermark", "merge.go", "if first == nil || first.tx.CSN > w {", "if first == nil {", ""},
	{"watermark of the fastest shard", "merge.go", "w = min(w, s.floor)", "w = max(w, s.floor)", ""},
	{"no bound", "process.go", "csn = max(csn, mb.bound+1)", "", ""},
	{
		"no floor after a second phase", "process.go",
		"s.floor = max(s.floor, t.csn)\n\t\tm.settled(mb)", "m.settled(mb)", "",
	},
	{"no floor after a one-phase commit", "process.go", "s.floor = p.tx.CSN\n", "", ""},
	{
		"CSN from the commit that was read first", "process.go",
		"csn = max(csn, pipeline.CSNAt(mb.fragment.Time))", "csn = max(csn, pipeline.CSNAt(t.decidedAt))", "",
	},
	{
		"a second phase does not pause", "process.go",
		"default: // COMMIT PREPARED\n\t\tif t.csn == 0 {", "default: // COMMIT PREPARED\n\t\tif false {", "",
	},
	{"sealed when one shard is closed", "evidence.go", "t.left > 0 && !m.wholeByList(f, t)", "t.left > len(t.closed)-1 && !m.wholeByList(f, t)", ""},
	{"no evidence needed from the last shard", "evidence.go", "t.left > 0 && !m.wholeByList(f, t)", "t.left > 1 && !m.wholeByList(f, t)", ""},
	{"a probe that was under way counts", "evidence.go", "t.need[j] = other.asked + 1", "t.need[j] = other.asked", ""},
	{"an answer counts before its position is received", "evidence.go", "ok && s.received >= at", "ok && (true || s.received >= at)", ""},
	{"dated evidence without skew", "evidence.go", "s.ownDate > t.decidedAt+m.slack", "s.ownDate > t.decidedAt-m.slack", ""},
	{"a mark before its position is received", "evidence.go", "if mk.at <= s.received {", "if true {", ""},
	{
		"the date of another cluster is evidence", "intake.go",
		"if f.Origin == \"\" {\n\t\tm.dated(s, r.Time)\n\t}\n\tif r.End <= s.through {",
		"m.dated(s, r.Time)\n\tif r.End <= s.through {", "",
	},
	{"the time of another cluster is a CSN", "process.go", "if f.Origin == \"\" {\n\t\tcsn = max", "if true {\n\t\tcsn = max", ""},
	{"rollback is a commit", "intake.go", "if mb.txn != nil {\n\t\treturn m.disagree(global, s)\n\t}", "if mb.txn == nil {\n\t\tm.commit(mb, r.Time, m.ended(mb, r.Time))\n\t}\n\tif true {\n\t\treturn nil\n\t}", ""},
	{"an undecided PREPARE is safe", "checkpoint.go", "if mb.end <= c.Through {", "if false {", ""},
	{"what is not taken is safe", "checkpoint.go", "c.Through = s.untaken.first().before", "", ""},
	{
		"open fragments are forgotten", "checkpoint.go",
		"c.Open = append(c.Open, pipeline.OpenPrepare{XID: mb.xid, GID: mb.gid})", "", "",
	},
	{
		"no commit is passed over after a restart", "intake.go",
		"if r.End <= s.through {\n\t\tm.drop(f)\n\t\ts.queue.push(entry{kind: pipeline.Commit, end: r.End})", "if false {\n\t\ts.queue.push(entry{kind: pipeline.Commit, end: r.End})", "",
	},
	{"no PREPARE is passed over after a restart", "intake.go", "dealtWith := r.End <= s.through", "dealtWith := false", ""},
	{"pending ones are passed over after a restart", "intake.go", "if mb == nil && dealtWith {", "if dealtWith {", ""},
	{"received is confirmed", "merge.go", "return m.shards[id].confirmed }", "return m.shards[id].received }", ""},
	{
		"confirmed when taken", "merge.go",
		"m.sent = b.Checkpoint\n", "m.sent = b.Checkpoint\n\tfor i, s := range m.shards {\n\t\ts.confirmed = max(s.confirmed, b.Checkpoint.Shards[i].Safe())\n\t}\n", "",
	},
	{
		"a paused record is lost", "process.go",
		"if !m.step(s, e) {\n\t\t\treturn m.failure", "if !m.step(s, e) {\n\t\t\ts.queue.pop()\n\t\t\treturn m.failure", "",
	},
	{"undecided bytes stop everything", "merge.go", "return m.waitsFor(m.shards[id]) || m.exhausted()", "return m.waitsFor(m.shards[id])", ""},
	{"a waited-for shard is held back", "merge.go", "return m.waitsFor(m.shards[id]) || m.exhausted()", "return false", ""},
	{"idle shards are not probed", "evidence.go", "s.wanted = max(s.wanted, s.answered+1)", "", ""},
	{"the start's floor is zero", "merge.go", "newShard(pipeline.ShardID(i), c.Start.Watermark,", "newShard(pipeline.ShardID(i), 0,", ""},
	{"every prepared fragment of a gid is taken", "txn.go", "a.disputed || b.disputed || together(a, b, m.slack)", "true", ""},
	{"clocks do not differ when fragments are gathered", "txn.go", "together(a, b, m.slack)", "together(a, b, 0)", ""},
	{"fragments behind the evidence are taken", "txn.go", "mb.end <= t.upTo[mb.shard.id]\n", "true\n", ""},
	{"every second phase is a decision", "intake.go", "if m.claims(t, mb) {\n\t\t\tmb.txn = t", "if false {\n\t\t\tmb.txn = t", ""},
	{"a fragment known from a checkpoint has no CSN", "shard.go", "csn: max(floor, 1)", "csn: floor", ""},
	{"an open PREPARE that is sent again is a new one", "intake.go", "dealtWith = true // of", "// of", ""},
	{"a clock that was set back is no matter", "clock.go", "return to < from-m.slack-stampDelay }", "return false }", ""},
	{"only the dates before a step are disputed", "clock.go", "mb.disputed = mb.clocked && m.isStep(h.latest, mb.from)", "", ""},
	{"only the dates behind a step are disputed", "clock.go", "m.disputeAhead(s, at)\n\tif step", "if step", ""},
	{"decisions kept apart by disputed dates stay apart", "txn.go", "!u.sealed && m.sameUse(t, u) }", "false }", ""},
	{"dates are believed before the probes", "clock.go", "missing = true\n", "", ""},
	{"an idle shard waits until its clock is there", "evidence.go", "max(pipeline.CSNAt(clock), s.overtakes)", "pipeline.CSNAt(clock)", ""},
	{"ambiguous fragments stay where they are", "evidence.go", "if err := m.refuseAmbiguous(f, t); err != nil {", "if err := error(nil); err != nil {", ""},
	{"what may be ambiguous is forgotten at its end", "refuse.go", "if last > 0 {", "if false {", "4600"},
	{"no heartbeat", "merge.go", "if !moved {", "if true {", ""},
	{"a heartbeat passes what may leave", "merge.go", "m.failure != nil || m.Ready()", "m.failure != nil", ""},
	{"a unit's watermark is that of what stays behind", "merge.go", "if !complete {", "if false && !complete {", ""},
	{"the time counts before the stream is there", "evidence.go", "s.queue.push(entry{csn: mk.csn})", "s.floor = max(s.floor, mk.csn)", ""},
}

// TestMutants: TestWorlds fails for each mutant. They are compiled with an overlay; the tree is not touched.
func TestMutants(t *testing.T) {
	if testing.Short() || os.Getenv("CDC_SIM_MUTANTS") == "" {
		t.Skip("compiles joiner/merge once for each mutant: run with CDC_SIM_MUTANTS=all, or a part of a name")
	}
	for _, m := range mutants {
		if only := os.Getenv("CDC_SIM_MUTANTS"); only != "all" && !strings.Contains(m.name, only) {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) { m.run(t) })
	}
}

// TestMutantsApply: each replacement still finds its place.
func TestMutantsApply(t *testing.T) {
	for _, m := range mutants {
		m.apply(t)
	}
}

func (m mutant) path() string { return filepath.Join("..", "..", "joiner", "merge", m.file) }

func (m mutant) apply(t *testing.T) string {
	t.Helper()
	src, err := os.ReadFile(m.path())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), m.old); n != 1 {
		t.Fatalf("%s: %q stands %d times in %s, want once", m.name, m.old, n, m.file)
	}
	return strings.Replace(string(src), m.old, m.new, 1)
}

func (m mutant) run(t *testing.T) {
	dir := t.TempDir()
	changed := filepath.Join(dir, m.file)
	if err := os.WriteFile(changed, []byte(m.apply(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	original, err := filepath.Abs(m.path())
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", ".", "-vet=off", "-run", "^TestWorlds$", "-overlay", file, "-timeout", "2m")
	if m.first != "" {
		cmd.Args = append(cmd.Args, "-sim.first", m.first)
	}
	cmd.Env = append(os.Environ(), "CDC_SIM_NOSHRINK=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("survived:\n%s", out)
	}
	if !strings.Contains(string(out), "--- FAIL: TestWorlds") {
		t.Fatalf("did not run:\n%s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "runs it again") {
			t.Log(strings.TrimSpace(line[:min(len(line), 200)]))
			break
		}
	}
}
