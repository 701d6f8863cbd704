package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// Each rule that looks at one file at a time.
var rules = map[string]func(*Source) []Fault{
	"Imports": Imports, "Purity": Purity, "Length": Length, "Sleep": Sleep, "Words": Words,
}

func TestRepository(t *testing.T) {
	sources, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, s := range sources {
		seen[s.Dir()] = true
	}
	if !seen["pipeline"] || !seen["test/lint"] {
		t.Fatalf("looked at the wrong place: %d files below %s", len(sources), root)
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			for _, s := range sources {
				for _, fault := range rule(s) {
					t.Error(fault)
				}
			}
		})
	}
	t.Run("Wired", func(t *testing.T) {
		for _, fault := range Wired(sources) {
			t.Error(fault)
		}
	})
}

// An exception that nobody needs any more is taken out.
func TestAllowListsAreNeeded(t *testing.T) {
	for _, list := range []map[string]string{allowedLong, allowedSleep} {
		for key, reason := range list {
			path, _, _ := strings.Cut(key, " ")
			if _, err := os.Stat(filepath.Join(root, path)); err != nil || reason == "" {
				t.Errorf("exception %q: reason %q, %v", key, reason, err)
			}
		}
	}
}

// importing is a Go file with nothing but imports.
func importing(imports ...string) string {
	return "package p\nimport (\n\"" + strings.Join(imports, "\"\n\"") + "\"\n)\n"
}

func lines(n int) string { return strings.Repeat("\n", n) }

func TestRules(t *testing.T) {
	for _, test := range []struct {
		rule, path, text string
		want             string // Part of the only fault; empty: none.
	}{
		{"Imports", "pipeline/a.go", importing("time"), ""},
		{"Imports", "pipeline/a.go", importing("shardcdc/pipeline/wire"), "pipeline is the vocabulary, a leaf"},
		{"Imports", "joiner/a.go", importing("shardcdc/pipeline", "shardcdc/joiner/merge", "shardcdc/pipeline/wire"), ""},
		{"Imports", "joiner/a.go", importing("shardcdc/dumper/pgoutput"), "joiner imports dumper/pgoutput: stages never import each other"},
		{"Imports", "output/sql/a.go", importing("shardcdc/apply"), "stages never import each other"},
		{"Imports", "apply/a_test.go", importing("shardcdc/output/json"), "stages never import each other"},
		{"Imports", "applyx/a.go", importing("shardcdc/output/json"), ""},
		{"Imports", "dumper/a.go", importing("shardcdc/pipeline/node"), "a stage does not know who runs it"},
		{"Imports", "pipeline/node/a.go", importing("shardcdc/dumper", "shardcdc/joiner", "shardcdc/output"), ""},
		{"Imports", "pipeline/node/a.go", importing("shardcdc/cmd/cdcd/flags"), "nobody outside cmd imports cmd"},
		{"Imports", "pipeline/node/a.go", importing("shardcdc/cmd/cli"), "nobody outside cmd imports cmd"},
		{"Imports", "cmd/cdcd/a.go", importing("shardcdc/cmd/cdcd/flags"), ""},
		{"Imports", "test/e2e/a_test.go", importing("shardcdc/cmd/cdcd/flags"), "nobody outside cmd imports cmd"},
		{"Imports", "joiner/a_test.go", importing("shardcdc/test/sim"), "only test imports test"},
		{"Imports", "test/e2e/a_test.go", importing("shardcdc/test/sim", "shardcdc/joiner", "shardcdc/apply"), ""},
		{"Imports", "pipeline/util/a.go", "package util", `"util" says nothing`},
		{"Imports", "dumper/internal/a.go", "package p", `"internal" says nothing`},

		{"Purity", "joiner/merge/a.go", importing("time", "errors", "shardcdc/pipeline"), ""},
		{"Purity", "joiner/merge/a.go", importing("context"), "joiner/merge imports context; return what is wanted"},
		{"Purity", "pipeline/a.go", importing("sync/atomic"), "a value has one owner"},
		{"Purity", "pipeline/a.go", importing("os"), "take an io.Reader"},
		{"Purity", "pipeline/a.go", importing("net/netip"), "talks to the network"},
		{"Purity", "pipeline/a.go", importing("io/fs"), "opens files"},
		{"Purity", "pipeline/a.go", importing("log/slog"), "logs"},
		{"Purity", "pipeline/a.go", importing("math/rand/v2"), "take the number"},
		{"Purity", "pipeline/a.go", importing("syscall"), "talks to the system"},
		{"Purity", "output/sql/a.go", importing("github.com/jackc/pgx/v5/pgconn"), "talks to PostgreSQL"},
		{"Purity", "output/sql/a.go", importing("shardcdc/pipeline/control"), "pipeline/control, which is not pure"},
		{"Purity", "joiner/merge/a_test.go", importing("context", "os"), ""},
		{"Purity", "joiner/a.go", importing("context", "os"), ""},
		{"Purity", "output/a.go", importing("context"), "output imports context"},
		{"Purity", "output/json/a.go", importing("shardcdc/output"), ""},
		{"Purity", "output/jetstream/a.go", importing("context"), ""},
		{"Purity", "pipeline/a.go", "package p\nimport \"time\"\nvar t = time.Now()", "uses time.Now; take the time"},
		{"Purity", "pipeline/a.go", "package p\nimport \"time\"\nvar now = time.Now", "uses time.Now; take the time"},
		{"Purity", "pipeline/a.go", "package p\nimport x \"time\"\nvar t = x.NewTicker(1)", "uses time.NewTicker"},
		{"Purity", "pipeline/a.go", "package p\nimport . \"time\"\nvar t = Now()", "import it by name"},
		{"Purity", "pipeline/a.go", "package p\nimport \"time\"\nvar t = time.Unix(0, 0)", ""},
		{"Purity", "pipeline/a.go", "package p\nfunc f() { go f() }", "starts a goroutine"},
		{"Purity", "pipeline/a.go", "package p\nvar c chan int", "uses a channel"},
		{"Purity", "pipeline/a.go", "package p\nfunc f() { c <- 1 }", "uses a channel"},
		{"Purity", "pipeline/a.go", "package p\nfunc f() { <-c }", "uses a channel"},
		{"Purity", "pipeline/a.go", "package p\nfunc f() { select {} }", "uses a channel"},

		{"Length", "dumper/a.go", "package p\n" + lines(499), ""},
		{"Length", "dumper/a.go", "package p\n" + lines(500), "501 lines, more than 500; split"},
		{"Length", "dumper/a_test.go", "package p\n" + lines(500), ""},
		{"Length", "dumper/a.go", "// Code generated by x. DO NOT EDIT.\n\npackage p\n" + lines(500), ""},
		{"Length", "dumper/a.go", "package p\nfunc f() {" + lines(79) + "}", ""},
		{"Length", "dumper/a.go", "package p\nfunc f() {" + lines(80) + "}", "f has 81 lines, more than 80"},

		{"Sleep", "dumper/a.go", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", "select on a timer"},
		{"Sleep", "dumper/a_test.go", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", "wait for the condition"},
		{"Sleep", "dumper/a_test.go", "package p\nimport x \"time\"\nvar sleep = x.Sleep", "wait for the condition"},
		{"Sleep", "dumper/a_test.go", "package p\nimport . \"time\"\nfunc f() { Sleep(1) }", "import it by name"},
		{"Sleep", "dumper/a.go", "package p\nfunc f(time clock) { time.Sleep(1) }", ""},

		{"Words", "docs/a.md", "see /wo" + "rk/main/x", "a path of one machine"},
		{"Words", "docs/a.md", "see /wo" + "rk", "a path of one machine"},
		{"Words", "docs/a.md", "https://example.com/wo" + "rk/x and work/x and /workers", ""},
		{"Words", "docs/a.md", "line\n`/ro" + "ot/.bashrc`", "docs/a.md:2: "},
		{"Words", "docs/a.md", "/home/" + "ann/x", "a path of one machine"},
		{"Words", "docs/a.md", "shar" + "ed/reference/x.md", "readers do not have"},
		{"Words", "docs/a.md", "https://arti" + "factory.example.com/npm", "a private registry"},
		{"Words", "docs/a.md", "shared/buffers, TODO: more", ""},
	} {
		s, err := Parse(test.path, []byte(test.text))
		if err != nil {
			t.Fatalf("%s %q: %v", test.path, test.text, err)
		}
		got := rules[test.rule](s)
		switch {
		case test.want == "" && len(got) > 0:
			t.Errorf("%s finds fault with %s\n%s\n%v", test.rule, test.path, test.text, got)
		case test.want != "" && (len(got) != 1 || !strings.Contains(got[0].String(), test.want)):
			t.Errorf("%s of %s\n%s\nfinds %v, want one with %q", test.rule, test.path, test.text, got, test.want)
		}
	}
}

func TestWired(t *testing.T) {
	parse := func(path string, imports ...string) *Source {
		s, err := Parse(path, []byte(importing(imports...)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	dumper, joiner := "shardcdc/dumper", "shardcdc/joiner/merge"
	for _, test := range []struct {
		sources []*Source
		faults  int
	}{
		{[]*Source{parse("pipeline/x/a.go", dumper, joiner)}, 1},
		{[]*Source{parse("pipeline/x/a.go", dumper), parse("pipeline/x/b.go", joiner)}, 1},
		{[]*Source{parse("pipeline/x/a.go", dumper), parse("pipeline/y/b.go", joiner)}, 0},
		{[]*Source{parse("pipeline/x/a.go", dumper, dumper+"/pgoutput")}, 0},
		{[]*Source{parse("pipeline/node/a.go", dumper, joiner)}, 0},
		{[]*Source{parse("cmd/cdcd/a.go", dumper, joiner)}, 0},
	} {
		if got := Wired(test.sources); len(got) != test.faults {
			t.Errorf("%s: %v, want %d faults", test.sources[0].Path, got, test.faults)
		}
	}
}

// A word, once written into a file, is found in the file on disk: Load leaves nothing out but what git ignores.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"a.md", ".ci/b.yml", "deep/er/c.go", "d.bin", ".git/x", ".cache/x", "bin/x"} {
		full := filepath.Join(dir, path)
		text := "package p\n"
		if path == "d.bin" {
			text = "\x00"
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sources, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sources {
		got = append(got, s.Path)
	}
	slices.Sort(got)
	if want := "[.ci/b.yml a.md deep/er/c.go]"; fmt.Sprint(got) != want {
		t.Errorf("loaded %v, want %s", got, want)
	}
}
