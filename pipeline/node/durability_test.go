package node

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
)

// external starts a NATS server as an operator might; asked says whether clients may ask for its settings.
func external(t *testing.T, syncAlways, asked bool) *control.Bus {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), SyncAlways: syncAlways, NoSigs: true, NoLog: true}
	c := control.Connection{Name: "test"}
	if asked {
		acc := server.NewAccount("A")
		o.Accounts = []*server.Account{acc}
		o.SystemAccount = "A"
		o.NoAuthUser = "u"
		o.Users = []*server.User{{Username: "u", Password: "p", Account: acc}}
	}
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	for !srv.ReadyForConnections(readyWait) {
		if t.Context().Err() != nil {
			t.Fatal("not ready")
		}
	}
	c.URL = srv.ClientURL()
	if asked {
		return &control.Bus{NC: dial(t, c.URL)} // a system account has no JetStream
	}
	bus, err := control.Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
	return bus
}

func TestAskServer(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	settle := func(bus *control.Bus) (Durability, error) {
		c := Config{Durability: AskServer, Log: log}
		err := c.settleDurability(t.Context(), bus)
		return c.Durability, err
	}
	srv, err := embedded.Start(context.Background(), embedded.Options{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	bus, err := control.Connect(t.Context(), control.Connection{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
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

const readyWait = 50 * time.Millisecond

func dial(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
