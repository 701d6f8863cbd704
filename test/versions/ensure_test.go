package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A machine is an imitation for ensure-postgresql.sh: a root folder, and a PATH with an apt-get that logs its calls and
// installs what the test says.
type machine struct {
	t    *testing.T
	root string
	env  []string
}

func newMachine(t *testing.T, installs string) *machine {
	m := &machine{t: t, root: t.TempDir()}
	tools := filepath.Join(m.root, "tools")
	for _, name := range []string{"sh", "sed", "id", "grep", "mkdir", "tee", "dirname", "readlink", "env", "cp", "chmod", "cat"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		m.write(filepath.Join("tools", name), "#!/bin/sh\nexec "+real+" \"$@\"\n")
	}
	m.write("tools/sudo", "#!/bin/sh\nexec \"$@\"\n")
	m.env = []string{"PATH=" + tools, "ENSURE_ROOT=" + m.root}
	if installs != "" {
		bin := filepath.Join(m.root, "usr/lib/postgresql", installs, "bin")
		m.write("tools/apt-get", "#!/bin/sh\necho \"$*\" >>"+m.root+"/calls\n[ \"$1\" = install ] || exit 0\n"+
			"mkdir -p "+bin+"\nfor p in initdb postgres; do\n"+
			"printf '#!/bin/sh\\necho \"postgres (PostgreSQL) "+installs+".1\"\\n' >"+bin+"/$p; chmod +x "+bin+"/$p\ndone\n")
	}
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	text, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ensure runs the script and returns what it said.
func (m *machine) ensure(env ...string) (string, error) {
	cmd := exec.Command("../ensure-postgresql.sh")
	cmd.Env = append(m.env, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const systemCluster = "etc/postgresql-common/createcluster.conf"

func TestEnsureInstallsOnce(t *testing.T) {
	m := newMachine(t, "15")
	out, err := m.ensure()
	if err != nil || !strings.Contains(out, "PostgreSQL 15 is installed") {
		t.Fatalf("%v: %s", err, out)
	}
	calls := m.read("calls")
	if !strings.HasPrefix(calls, "update ") || !strings.HasSuffix(calls, " postgresql\n") || strings.Count(calls, "\n") != 2 {
		t.Errorf("apt-get was called with:\n%s", calls)
	}
	if got := m.read(systemCluster); got != "create_main_cluster = false\n" {
		t.Errorf("%s holds %q", systemCluster, got)
	}
	if out, err := m.ensure(); err != nil || out != "" || m.read("calls") != calls {
		t.Errorf("a second time: %v, %q, calls %s", err, out, m.read("calls"))
	}
}

func TestEnsureKeepsConfiguration(t *testing.T) {
	m := newMachine(t, "17")
	m.write(systemCluster, "# kept\ncreate_main_cluster = true\n")
	if out, err := m.ensure(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := m.read(systemCluster), "# kept\n#create_main_cluster = true\ncreate_main_cluster = false\n"; got != want {
		t.Errorf("%s holds %q, want %q", systemCluster, got, want)
	}
}

func TestEnsureFails(t *testing.T) {
	for _, test := range []struct {
		name, installs, env, want string
	}{
		{"distribution too old", "14", "", "is older than 15. Try: https://wiki.postgresql.org/wiki/Apt"},
		{"no apt-get", "", "", "no apt-get to install it. Try: install the PostgreSQL server package"},
		{"wrong folder", "15", "CDC_PG_BIN=/nowhere", "CDC_PG_BIN=/nowhere holds no PostgreSQL 15 or newer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, test.installs)
			if out, err := m.ensure(test.env); err == nil || !strings.Contains(out, test.want) {
				t.Errorf("%v: %s", err, out)
			}
			if test.env != "" && strings.Contains(m.read("calls"), "install") {
				t.Errorf("it installed, although CDC_PG_BIN is set: %s", m.read("calls"))
			}
		})
	}
}
