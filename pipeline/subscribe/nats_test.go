package subscribe

import (
	"fmt"
	"strings"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
)

// TestCheckSync: an account that may ask the server is told what an acknowledgement is worth, another one how to find out.
func TestCheckSync(t *testing.T) {
	for _, c := range []struct {
		imports, sync string
		severity      Severity
		what          string
	}{
		{`imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.>"}}]`, "always", Info, "syncs before it acknowledges"},
		{`imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.>"}}]`, "10s", Warning, "acknowledges before it syncs (every 10s)"},
		{"", "10s", Info, "cannot be asked by this user"},
	} {
		findings := checkNATS(t.Context(), external(t, c.imports, c.sync))
		if len(findings) != 1 || findings[0].Severity != c.severity || !strings.Contains(findings[0].What, c.what) {
			t.Errorf("%+v: %+v", c, findings)
		}
	}
}

func external(t *testing.T, imports, sync string) *control.Bus {
	t.Helper()
	srv := natstest.Configured(t, fmt.Sprintf(`
listen: "127.0.0.1:-1"
jetstream { store_dir: %q, sync_interval: %s }
system_account: SYS
accounts {
  SYS { users: [{user: sys, password: sys}], exports: [{service: "$SYS.REQ.SERVER.>"}] }
  APP { jetstream: enabled, users: [{user: app, password: app}], %s }
}`, t.TempDir(), sync, imports))
	return natstest.Connect(t, control.Connection{URL: srv.ClientURL(), User: "app", Password: "app"})
}
