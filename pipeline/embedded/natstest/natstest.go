// Package natstest starts NATS servers for tests, in the test's process. They end with the test.
package natstest

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
)

const patience = time.Minute

// Embedded starts the server that cdcd embeds, which also listens, and connects to it.
func Embedded(t testing.TB) (*embedded.Server, *control.Bus) {
	t.Helper()
	srv, err := embedded.Start(t.Context(), embedded.Options{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return srv, Connect(t, control.Connection{Name: "test", Extra: []nats.Option{srv.InProcess()}})
}

// Bus is a connection to an embedded server of its own.
func Bus(t testing.TB) *control.Bus {
	t.Helper()
	_, bus := Embedded(t)
	return bus
}

// Connect connects, until the test ends.
func Connect(t testing.TB, c control.Connection) *control.Bus {
	t.Helper()
	bus, err := control.Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
	return bus
}

// Configured starts a server as an operator might, with a configuration file of this text.
func Configured(t testing.TB, text string) *server.Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Start(t, o)
}

// Start starts a server that is not the embedded one, on a free port and with a store of its own unless o says otherwise.
func Start(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	o.NoSigs = true
	if o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	if o.Port == 0 && !o.DontListen {
		o.Host, o.Port = "127.0.0.1", server.RANDOM_PORT
	}
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not start")
	}
	return srv
}
