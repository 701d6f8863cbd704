package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/reading"
)

// states of all files below a folder.
func states(t *testing.T, dir string) map[string]fileState {
	t.Helper()
	all := map[string]fileState{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		all[path] = fileState{info.Size(), info.ModTime()}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A store directory is read as its server would, and stays as it is; not while that server runs.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	srv, err := embedded.Start(ctx, embedded.Options{StoreDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	bus, err := control.Connect(ctx, control.Connection{Name: "test", Extra: []nats.Option{srv.InProcess()}})
	if err != nil {
		t.Fatal(err)
	}
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(5)
	o.publish(6)
	if _, err := Import(ctx, bus, open(t, o.export(Range{})), Options{Name: "carried"}); err != nil {
		t.Fatal(err)
	}
	_, err = OpenStore(ctx, dir, "carried")
	wants(t, err, "in use by a running cdcd")
	bus.Close()
	srv.Close()

	before := states(t, dir)
	for _, at := range []string{dir, filepath.Join(dir, "jetstream")} {
		s, err := OpenStore(ctx, at, "carried")
		if err != nil {
			t.Fatal(err)
		}
		stream, err := reading.Live(ctx, s.Bus.JS, "carried")
		if err != nil {
			t.Fatal(err)
		}
		same(t, "the copy", messages(t, stream, 1, 3, "carried"), messages(t, o.live(), 1, 3, "bank"))
		catalog, err := control.OpenCatalog(ctx, s.Bus.JS, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.Get(ctx, "carried"); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.folder); err == nil {
			t.Errorf("the copy %s is left", s.folder)
		}
	}
	after := states(t, dir)
	if len(after) != len(before) {
		t.Errorf("%d files, before %d", len(after), len(before))
	}
	for path, state := range before {
		if after[path] != state {
			t.Errorf("%s was changed", path)
		}
	}
	_, err = OpenStore(ctx, dir, "other")
	wants(t, err, "has no stream CDC_other")
	_, err = OpenStore(ctx, filepath.Join(dir, "nowhere"), "carried")
	if err == nil {
		t.Error("a directory that is not there")
	}
}

// A server that is not ours has no lock, but its files open.
func TestStoreOfOthers(t *testing.T) {
	dir := t.TempDir()
	srv := natstest.Start(t, &server.Options{JetStream: true, StoreDir: dir})
	bus := natstest.Connect(t, control.Connection{URL: srv.ClientURL(), Name: "test"})
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(5)
	path := o.export(Range{})
	if _, err := Import(t.Context(), bus, open(t, path), Options{}); err != nil {
		t.Fatal(err)
	}
	_, err := OpenStore(context.Background(), dir, "bank")
	wants(t, err, "in use by process")
}

// startCluster starts a server on each store directory, and does not wait for a leader.
func startCluster(t *testing.T, dirs []string) (peers []*server.Server) {
	t.Helper()
	var routes []*url.URL
	ports := make([]int, len(dirs))
	for i := range dirs {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = free.Addr().(*net.TCPAddr).Port
		routes = append(routes, &url.URL{Scheme: "nats", Host: free.Addr().String()})
		if err := free.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i, dir := range dirs {
		srv, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), JetStream: true, StoreDir: dir, Routes: routes, NoSigs: true, Host: "127.0.0.1", Port: server.RANDOM_PORT,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]},
		})
		if err != nil {
			t.Fatal(err)
		}
		go srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		peers = append(peers, srv)
	}
	return peers
}

// The store of one server of a cluster is read, too.
func TestStoreOfCluster(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	peers := startCluster(t, dirs)
	var bus *control.Bus
	pausetest.Within(time.Minute, t, "the cluster has a leader", func() (ok bool) {
		var err error
		bus, err = control.Connect(t.Context(), control.Connection{URL: peers[0].ClientURL(), Name: "test", Replicas: 3})
		return err == nil
	})
	defer bus.Close()
	o := newOrigin(t, format.Format{Name: format.Internal})
	o.publish(5)
	path := o.export(Range{})
	pausetest.Within(time.Minute, t, "it is imported", func() bool {
		_, err := Import(t.Context(), bus, open(t, path), Options{})
		if err != nil {
			t.Log(err) // while leaders are elected
		}
		return err == nil
	})
	for _, p := range peers {
		p.Shutdown()
		p.WaitForShutdown()
	}
	for _, dir := range dirs {
		s, err := OpenStore(t.Context(), dir, "bank")
		if err != nil {
			t.Fatal(err)
		}
		stream, err := reading.Live(t.Context(), s.Bus.JS, "bank")
		if err == nil {
			same(t, "the copy", messages(t, stream, 1, 2, "bank"), messages(t, o.live(), 1, 2, "bank"))
		}
		if err := errors.Join(err, s.Close()); err != nil {
			t.Error(err)
		}
	}
}
