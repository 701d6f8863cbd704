package node

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
)

// external starts a NATS server as an operator might; asked says whether clients may ask for its settings.
func external(t *testing.T, syncAlways, asked bool) *control.Bus {
	t.Helper()
	o := &server.Options{JetStream: true, SyncAlways: syncAlways}
	if asked {
		acc := server.NewAccount("A")
		o.Accounts = []*server.Account{acc}
		o.SystemAccount = "A"
		o.NoAuthUser = "u"
		o.Users = []*server.User{{Username: "u", Password: "p", Account: acc}}
	}
	url := natstest.Start(t, o).ClientURL()
	if asked {
		return &control.Bus{NC: dial(t, url)} // a system account has no JetStream
	}
	return natstest.Connect(t, control.Connection{Name: "test", URL: url})
}

func TestAskServer(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	settle := func(bus *control.Bus) (Durability, error) {
		c := Config{Durability: AskServer, Log: log}
		err := c.settleDurability(t.Context(), bus)
		return c.Durability, err
	}
	srv, _ := natstest.Embedded(t)
	bus := natstest.Connect(t, control.Connection{URL: srv.URL()})
	if d, err := settle(bus); d != DurableAcks || err != nil {
		t.Errorf("the embedded server: %s %v", d, err)
	}
	if d, err := settle(external(t, true, false)); d != LazyAcks || err != nil {
		t.Errorf("a server that does not tell: %s %v", d, err)
	}
	if d, err := settle(external(t, true, true)); d != DurableAcks || err != nil {
		t.Errorf("a server that tells it syncs: %s %v", d, err)
	}
	if _, err := settle(external(t, false, true)); err == nil || !strings.Contains(err.Error(), "acknowledges before it syncs (every 2m0s)") {
		t.Errorf("a server that tells it does not: %v", err)
	}
}

func dial(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
