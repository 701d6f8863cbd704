package main

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded/natstest"
)

// cluster starts three NATS servers and returns a URL.
func cluster(t *testing.T) string {
	t.Helper()
	var url string
	ports := freePorts(t, 3)
	for i, port := range ports {
		url = natstest.Configured(t, fmt.Sprintf("server_name: n%d\nlisten: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\ncluster { name: c, listen: \"127.0.0.1:%d\", routes: [%s] }\n",
			i, t.TempDir(), port, routes(ports))).ClientURL()
	}
	return url
}

func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func routes(ports []int) string {
	urls := make([]string, len(ports))
	for i, p := range ports {
		urls[i] = fmt.Sprintf("\"nats-route://127.0.0.1:%d\"", p)
	}
	return strings.Join(urls, ", ")
}

// A cdcctl that does not know how many replicas there are leaves them as they are.
func TestReplicasStay(t *testing.T) {
	url := cluster(t)
	w := &world{T: t, env: environment(t, "CDC_NATS="+url)}
	var catalog *control.Catalog
	w.until("the cluster has a leader", func() (ok bool) {
		bus, err := control.Connect(t.Context(), control.Connection{URL: url, Replicas: 3})
		if err != nil {
			return false
		}
		if w.bus != nil {
			w.bus.Close()
		}
		w.bus = bus
		catalog, err = control.OpenCatalog(t.Context(), bus.JS, bus.Replicas)
		return err == nil
	})
	t.Cleanup(w.bus.Close)
	if _, err := catalog.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.run(0, "list")
	w.run(0, "status")
	w.run(1, "drop-subscription", "nothing")
	s, err := w.bus.JS.Stream(t.Context(), catalogStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().Config.Replicas; n != 3 {
		t.Errorf("the catalog has %d replicas, want 3", n)
	}
}
