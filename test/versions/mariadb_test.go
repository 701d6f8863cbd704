package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ensureMariaDB runs ensure-mariadb.sh on a machine whose apt-get installs these programs.
func (m *machine) ensureMariaDB(installs ...string) (string, error) {
	for _, name := range []string{"rm"} {
		real, err := exec.LookPath(name)
		if err != nil {
			m.t.Skip(err)
		}
		m.write(filepath.Join("tools", name), "#!/bin/sh\nexec "+real+" \"$@\"\n")
	}
	script := "#!/bin/sh\necho \"$*\" >>" + m.root + "/calls\n[ \"$1\" = install ] || exit 0\ncp " + m.root + "/" + policyFile + " " + m.root + "/policy-seen\n"
	for _, program := range installs {
		path := filepath.Join(m.root, "usr/sbin", program)
		script += "echo '#!/bin/sh' >" + path + "; chmod +x " + path + "\n"
	}
	m.write("tools/apt-get", script)
	if err := os.MkdirAll(filepath.Join(m.root, "usr/sbin"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command("../ensure-mariadb.sh")
	cmd.Env = m.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const policyFile = "usr/sbin/policy-rc.d"

func TestEnsureMariaDB(t *testing.T) {
	m := newMachine(t, "15")
	programs := []string{"mariadbd", "mariadb-install-db", "mariadb"}
	out, err := m.ensureMariaDB(programs...)
	if err != nil || !strings.Contains(out, "MariaDB is installed") {
		t.Fatalf("%v: %s", err, out)
	}
	if got := m.read("policy-seen"); !strings.Contains(got, "exit 101") {
		t.Errorf("the policy during the installation: %s", got)
	}
	if _, err := os.Stat(filepath.Join(m.root, policyFile)); !os.IsNotExist(err) {
		t.Errorf("the policy stays: %v", err)
	}
	calls := m.read("calls")
	if out, err := m.ensureMariaDB(programs...); err != nil || out != "" || m.read("calls") != calls {
		t.Errorf("a second time: %v, %q, calls %s", err, out, m.read("calls"))
	}
}

func TestEnsureMariaDBKeepsThePolicy(t *testing.T) {
	m := newMachine(t, "15")
	m.write(policyFile, "#!/bin/sh\nexit 104\n")
	if out, err := m.ensureMariaDB("mariadbd", "mariadb-install-db", "mariadb"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := m.read(policyFile); !strings.Contains(got, "104") {
		t.Errorf("the policy became %s", got)
	}
}

func TestEnsureMariaDBFails(t *testing.T) {
	m := newMachine(t, "15")
	if out, err := m.ensureMariaDB("mariadbd"); err == nil || !strings.Contains(out, "is not in /usr/sbin or /usr/bin after the installation") {
		t.Errorf("%v: %s", err, out)
	}
}
