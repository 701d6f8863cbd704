package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/cmd/cli"
)

var (
	cdcctlCommands = []string{
		"create-subscription", "alter-subscription", "drop-subscription", "pause", "resume", "skip", "add-table", "remove-table", "resync",
		"list", "status", "nodes", "history", "tail", "show", "durations", "export", "import", "wait", "verify", "check", "uninstall",
	}
	cdcdCommands = []string{"all", "node", "apply", "demo"}
)

// rewrite is datadriven's flag.
func rewrite() bool { return flag.Lookup("rewrite").Value.String() == "true" }

// help is a command's usage text.
func help(t *testing.T, program string, command ...string) string {
	t.Helper()
	cmd := exec.Command(program, append(command, "--help")...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v --help: %v\n%s", program, command, err, out)
	}
	return string(out)
}

// golden compares a file with what it should be, or writes it.
func golden(t *testing.T, path, want string) {
	t.Helper()
	if rewrite() {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), want); d != "" {
		t.Errorf("%s is not up to date. Try: go test ./cmd/cdcctl -run 'TestHelp|TestDocs' -rewrite\n%s", path, d)
	}
}

// TestHelp pins the usage texts: people and scripts depend on them.
func TestHelp(t *testing.T) {
	program := filepath.Join(program(t), "cdcctl")
	golden(t, "testdata/help/cdcctl.txt", help(t, program))
	for _, c := range cdcctlCommands {
		text := help(t, program, c)
		golden(t, "testdata/help/"+c+".txt", text)
		for _, part := range []string{"Usage:\n", "Examples:\n", "Exit codes: 0 ", "Flags:\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s --help has no %q", c, strings.TrimSpace(part))
			}
		}
	}
}

// buildCdcd builds the other program, whose flags the documentation and the sample configuration show.
func buildCdcd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cdcd")
	if out, err := exec.Command("go", "build", "-o", path, "shardcdc/cmd/cdcd").CombinedOutput(); err != nil {
		t.Fatalf("build cdcd: %v\n%s", err, out)
	}
	return path
}

const generated = "<!-- From here on this file is written by go test ./cmd/cdcctl -run TestDocs -rewrite -->\n"

// TestDocs: docs/cli.md shows every command as it is.
func TestDocs(t *testing.T) {
	const path = "../../docs/cli.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intro, _, ok := strings.Cut(string(text), generated)
	if !ok {
		t.Fatalf("%s has no line %q", path, generated)
	}
	cdcd, cdcctl := buildCdcd(t), filepath.Join(program(t), "cdcctl")
	var b strings.Builder
	b.WriteString(intro + generated)
	used := map[string][]string{}
	for _, p := range []struct {
		path, name string
		commands   []string
	}{{cdcctl, "cdcctl", cdcctlCommands}, {cdcd, "cdcd", cdcdCommands}} {
		for _, c := range p.commands {
			text := help(t, p.path, c)
			fmt.Fprintf(&b, "\n## %s %s\n\n```text\n%s```\n", p.name, c, text)
			for _, f := range flagsOf(text) {
				used[f] = append(used[f], p.name+" "+c)
			}
		}
	}
	b.WriteString("\n## Settings\n\n| flag | environment | key | used by |\n|---|---|---|---|\n")
	for _, f := range slices.Sorted(maps.Keys(used)) {
		by := strings.Join(used[f], ", ")
		if len(used[f]) == len(cdcctlCommands)+len(cdcdCommands) {
			by = "all"
		}
		key := "`" + cli.Key(f) + "`"
		if f == "config" {
			key = ""
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s |\n", f, cli.EnvName(f), key, by)
	}
	golden(t, path, b.String())
}

var flagLine = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z0-9-]+)`)

func flagsOf(help string) (names []string) {
	_, help, _ = strings.Cut(help, "\nFlags:\n")
	for _, m := range flagLine.FindAllStringSubmatch(help, -1) {
		if m[1] != "help" {
			names = append(names, m[1])
		}
	}
	return names
}

// keyLine is a key of the sample, which is commented out: it shows the default.
var keyLine = regexp.MustCompile(`(?m)^#?([a-z_]+):`)

// TestSampleConfiguration: configs/cdcd.yaml loads as it is, and with every key switched on; it names every key.
func TestSampleConfiguration(t *testing.T) {
	cdcd := buildCdcd(t)
	text, err := os.ReadFile("../../configs/cdcd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	everything := keyLine.ReplaceAllString(string(text), "$1:")
	for name, content := range map[string]string{"as it is": string(text), "everything on": everything} {
		path := filepath.Join(t.TempDir(), "cdcd.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		// A usage error that is found only after the settings have been read.
		cmd := exec.Command(cdcd, "apply", "--config", path, "--target", "postgres://db/bank", "--subscription=")
		cmd.Env = []string{"HOME=" + t.TempDir()}
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), "--target needs --subscription") {
			t.Errorf("%s:\n%s\n%s", name, content, out)
		}
	}
	var known []string
	for _, m := range keyLine.FindAllStringSubmatch(string(text), -1) {
		known = append(known, m[1])
	}
	for _, c := range []string{"all", "node", "apply"} {
		for _, f := range flagsOf(help(t, cdcd, c)) {
			if f != "config" && !slices.Contains(known, cli.Key(f)) {
				t.Errorf("the sample has no key %s, a flag of cdcd %s", cli.Key(f), c)
			}
		}
	}
}
