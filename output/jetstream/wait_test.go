package jetstream

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
)

// proxy stands between a client and the server. Muted, it forwards nothing more to the client; what the client sends
// still arrives.
type proxy struct {
	listener net.Listener
	to       string
	owned    sync.WaitGroup

	mu    sync.Mutex
	muted bool
	conns []net.Conn
	armed string // mutes when the client sends this
	heard chan struct{}
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, to: to}
	p.owned.Go(p.accept)
	t.Cleanup(func() { l.Close(); p.cut(); p.owned.Wait() })
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.muted = false // a new connection works
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.owned.Go(func() { p.forward(server, client, false) })
		p.owned.Go(func() { p.forward(client, server, true) })
	}
}

func (p *proxy) forward(to, from net.Conn, answers bool) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		if !answers && p.armed != "" && strings.Contains(string(buf[:n]), p.armed) {
			p.armed, p.muted = "", true
			close(p.heard)
		}
		drop := answers && p.muted
		p.mu.Unlock()
		if drop {
			if _, err := io.Copy(io.Discard, from); err != nil { // of this connection for ever
				return
			}
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// mute drops the answers from when the client sends this on, which the channel tells.
func (p *proxy) mute(when string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.heard = when, make(chan struct{})
	return p.heard
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// behind connects through a proxy.
func behind(t *testing.T) (*bench, *proxy) {
	t.Helper()
	b, srv := newServer(t, StreamConfig{}, "127.0.0.1:0")
	px := newProxy(t, strings.TrimPrefix(srv.URL(), "nats://"))
	nc, err := nats.Connect("nats://"+px.listener.Addr().String(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if b.nc, b.js = nc, nil; err == nil {
		b.js, err = natsjs.New(nc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b, px
}

// An answer that was lost with its connection is not waited for. The publish itself arrived: it is found, not repeated.
func TestConnectionCut(t *testing.T) {
	for name, publish := range map[string]*pipeline.Batch{
		"one message": batch(5, 10, 6), "batch": batch(5, 3<<20, 6), "large": large(batch(5, 20<<20, 6)),
	} {
		t.Run(name, func(t *testing.T) {
			b, px := behind(t)
			p, _, _ := b.open(b.config())
			b.publish(p, batch(0, 10, 5))
			heard := px.mute("Cdc-Checkpoint")
			begun := time.Now()
			done := make(chan error, 1)
			go func() { done <- p.Publish(b.ctx, publish) }()
			<-heard
			px.cut()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took > patienceMin {
				t.Errorf("%s until the publish returned", took)
			}
			b.publish(p, batch(6, 10, 7))
			b.want(5, 6, 7)
		})
	}
}

// A server that stops to answer and keeps the connection open is left.
func TestServerMute(t *testing.T) {
	b, px := behind(t)
	p, _, _ := b.open(b.config())
	b.publish(p, batch(0, 10, 5))
	px.mute("Cdc-Checkpoint")
	begun := time.Now()
	b.publish(p, batch(5, 10, 6))
	took := time.Since(begun)
	t.Logf("%s until the publish returned", took)
	if most := patienceMin + lookFirst + patienceMin + 3*time.Second; took > most {
		t.Errorf("more than %s", most)
	}
	b.want(5, 6)
}

func TestPatience(t *testing.T) {
	p := &Publisher{patience: patienceMin}
	for _, step := range []struct {
		took, want time.Duration // took 0: no answer
	}{
		{time.Millisecond, patienceMin},
		{0, 2 * patienceMin},
		{0, 4 * patienceMin},
		{0, patienceMax},
		{0, patienceMax},
		{2 * time.Second, 8 * time.Second},
		{time.Minute, patienceMax},
		{time.Millisecond, patienceMin},
	} {
		if step.took == 0 {
			p.unanswered()
		} else {
			p.answered(step.took)
		}
		if p.patience != step.want {
			t.Fatalf("after %s: patience %s, want %s", step.took, p.patience, step.want)
		}
	}
}

// The connection may be cut anywhere within a transaction that is not in memory: what was stored is found, what was not is sent again.
func TestConnectionCutWithinRows(t *testing.T) {
	const n = 2*batchMessages + 50
	b, px := behind(t)
	p, _, _ := b.open(b.rowConfig(format.JSONOptions{}))
	b.publish(p, batch(0, 10, 5))
	want := []transaction{{"5", 2}}
	csn := pipeline.CSN(5)
	// Each batch begins with a message that asks for an answer, and ends with one that commits.
	for _, index := range []int{0, 1, 400, batchMessages - 1, batchMessages, batchMessages + 1, 2*batchMessages - 1, 2 * batchMessages, n - 1} {
		heard := px.mute(fmt.Sprintf(`"index":%d,`, index))
		done := make(chan error, 1)
		go func() { done <- p.Publish(b.ctx, large(rows(csn, csn+1, n, 20))) }()
		<-heard
		px.cut()
		if err := <-done; err != nil {
			t.Fatalf("cut at index %d: %v", index, err)
		}
		csn++
		want = append(want, transaction{csn.String(), n})
	}
	b.wantRows(want...)
}
