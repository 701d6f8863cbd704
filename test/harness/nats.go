package harness

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/throwaway/program"
	"shardcdc/pipeline/wire"
)

// peer is one NATS server: what it takes to start it again.
type peer struct {
	*program.Program
	name, path string
	args       []string
	store      string
	address    string
}

// freeAddress finds an address that nobody listens on at the moment.
func (c *Cluster) freeAddress() string {
	c.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// startNATS starts one server or a cluster, connects, and lets c.Bus stand for it.
func (c *Cluster) startNATS() {
	c.t.Helper()
	switch {
	case c.options.All:
		c.startAll()
	case c.options.NATSServers > 1:
		c.startPeers()
	default:
		p := &peer{name: "natsd", path: shared.natsd, store: filepath.Join(c.dir, "nats"), address: c.freeAddress()}
		p.args = []string{"-dir", p.store, "-listen", p.address}
		c.peers = []*peer{p}
	}
	var urls []string
	for i, p := range c.peers {
		c.StartNATS(i)
		urls = append(urls, "nats://"+p.address)
	}
	c.url = strings.Join(urls, ",")
	c.nodeURL, c.applyURL = c.url, c.url
	Until(c.Ctx, c.t, "NATS answers", func() (bool, string) {
		for _, p := range c.peers {
			if !p.Running() {
				c.t.Fatal(p.Err())
			}
		}
		var err error
		c.Bus, err = control.Connect(c.Ctx, control.Connection{URL: c.url, Name: "test", Replicas: len(c.peers)})
		return err == nil, fmt.Sprint(err)
	})
	Until(c.Ctx, c.t, "the catalog answers", func() (bool, string) { // a new cluster elects its leader
		catalog, err := control.OpenCatalog(c.Ctx, c.Bus.JS, c.Bus.Replicas)
		if err == nil {
			_, err = catalog.List(c.Ctx)
		}
		return err == nil, fmt.Sprint(err)
	})
	if c.options.Proxied {
		c.NodeNATS, c.ApplyNATS = NewProxy(c.t, c.peers[0].address, NATS), NewProxy(c.t, c.peers[0].address, NATS)
		c.nodeURL, c.applyURL = "nats://"+c.NodeNATS.Address(), "nats://"+c.ApplyNATS.Address()
	}
}

// startAll: the embedded server of a cdcd that does everything.
func (c *Cluster) startAll() {
	p := &peer{name: "all", path: shared.cdcd, store: filepath.Join(c.dir, "nats"), address: c.freeAddress()}
	if c.options.Store != "" {
		p.store = c.options.Store
	}
	p.args = []string{"all", "--nats-store", p.store, "--nats-listen", p.address, "--node-name", "all", "--lease-ttl", c.options.Lease.String(), "--spill-dir", c.SpillDir("all")}
	c.peers = []*peer{p}
}

func (c *Cluster) startPeers() {
	var routes []string
	for i := range c.options.NATSServers {
		name, cluster := fmt.Sprintf("nats%d", i), c.freeAddress()
		routes = append(routes, "nats://"+cluster)
		p := &peer{name: name, path: shared.natsd, store: filepath.Join(c.dir, name), address: c.freeAddress()}
		p.args = []string{"-name", name, "-dir", p.store, "-listen", p.address, "-cluster", cluster}
		c.peers = append(c.peers, p)
	}
	for _, p := range c.peers {
		p.args = append(p.args, "-routes", strings.Join(routes, ","))
	}
}

// StartNATS starts a NATS server that was killed, on its store and address, and waits until it listens.
func (c *Cluster) StartNATS(i int) {
	c.t.Helper()
	p := c.peers[i]
	p.Program = c.start(p.name, p.path, p.args...)
	c.NATS = c.peers[0].Program
	Until(c.Ctx, c.t, p.name+" listens", func() (bool, string) {
		if !p.Running() {
			c.t.Fatal(p.Err())
		}
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			return false, err.Error()
		}
		return conn.Close() == nil, ""
	})
}

// Peer is the NATS server's process.
func (c *Cluster) Peer(i int) *program.Program { return c.peers[i].Program }

// NATSServers is how many NATS servers there are.
func (c *Cluster) NATSServers() int { return len(c.peers) }

// StoreDir is where NATS server i keeps its streams.
func (c *Cluster) StoreDir(i int) string { return c.peers[i].store }

// StreamInfo is that of the subscription's stream. A cluster that elects a leader drops requests: it is asked again.
func (c *Cluster) StreamInfo() (info jetstream.StreamInfo) {
	c.t.Helper()
	Until(c.Ctx, c.t, "the server tells about the stream", func() (bool, string) {
		ctx, cancel := context.WithTimeout(c.Ctx, streamInfoMax)
		defer cancel()
		s, err := c.Bus.JS.Stream(ctx, wire.StreamName(c.Sub.Name))
		if err != nil {
			return false, err.Error()
		}
		info = *s.CachedInfo()
		return true, ""
	})
	return info
}

const streamInfoMax = 3 * time.Second

// Leader is the NATS server that leads the subscription's stream.
func (c *Cluster) Leader() (server int) {
	c.t.Helper()
	Until(c.Ctx, c.t, "the stream has a leader", func() (bool, string) {
		name := c.StreamInfo().Cluster.Leader
		for i, p := range c.peers {
			if p.name == name {
				server = i
				return true, ""
			}
		}
		return false, fmt.Sprintf("leader %q", name)
	})
	return server
}

// RestartNATS kills the NATS server and starts it again on the same store and address.
func (c *Cluster) RestartNATS() {
	c.t.Helper()
	c.Kill(c.NATS)
	c.StartNATS(0)
}

// CopyStore stops the NATS server in order, copies its store, and starts it again.
func (c *Cluster) CopyStore() (copied string) {
	c.t.Helper()
	if err := program.StopAll(c.NATS); err != nil {
		c.t.Fatal(err)
	}
	copied = filepath.Join(c.dir, "nats.copy")
	if err := os.CopyFS(copied, os.DirFS(c.peers[0].store)); err != nil {
		c.t.Fatal(err)
	}
	c.StartNATS(0)
	return copied
}

// RestoreStore kills the NATS server, and starts it on a copy of its store.
func (c *Cluster) RestoreStore(copied string) {
	c.t.Helper()
	c.Kill(c.NATS)
	if err := os.RemoveAll(c.peers[0].store); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(copied, c.peers[0].store); err != nil {
		c.t.Fatal(err)
	}
	c.StartNATS(0)
}

// through is the DSN with the proxy's address instead of the server's.
func through(dsn string, p *Proxy) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	u.Host = p.Address()
	return u.String(), nil
}
