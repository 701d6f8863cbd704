package harness

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shardcdc/pipeline/pause"
)

// Direction of bytes through a Proxy.
type Direction int

const (
	ToServer Direction = iota
	ToClient
)

func (d Direction) String() string { return [...]string{"to the server", "to the client"}[d] }

// A Proxy stands between a client and a server on TCP, and breaks what passes in the ways that networks do:
//
//	Cut     connections are reset, new ones too, until Heal
//	Reset   connections are reset, new ones work
//	Stall   nothing passes in the given directions, and nobody is told (half-open), until Heal: then it goes on
//	Freeze  nothing passes on the present connections any more, for ever, and nobody is told, not even when the other end
//	        goes away (a router that forgot them); new ones work
//	Slow    each chunk is late
//	Trap    one connection stands still at an exact place between two messages of its protocol
//
// It passes whole messages of the protocol that it was made for: a message leaves when its last byte has come.
type Proxy struct {
	listener net.Listener
	protocol Protocol
	ctx      context.Context // ends with Close
	close    context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	to      string
	cut     bool
	stalled [2]chan struct{} // nil: bytes pass; closed by Heal
	delay   time.Duration
	trap    *Trap
	links   map[*link]struct{}
	passed  [2]int64 // bytes
}

// link is a connection through the proxy.
type link struct {
	client, server net.Conn
	ctx            context.Context
	end            context.CancelFunc
	frozen         atomic.Bool
	held           atomic.Pointer[chan struct{}] // nil: bytes pass; closed by Trap.Go
}

// NewProxy starts a proxy to the address; it ends with the test.
func NewProxy(t *testing.T, to string, protocol Protocol) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, protocol: protocol, to: to, links: map[*link]struct{}{}}
	p.ctx, p.close = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Address is where clients connect.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Port of the address.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Close ends the proxy and all its connections.
func (p *Proxy) Close() {
	p.close()
	_ = p.listener.Close()
	p.Reset()
	p.running.Wait()
}

// Cut resets every connection, and those that are made, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.Reset()
}

// Reset resets every connection; new ones work.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Stall lets nothing pass in the directions given, or in both. Connections stay, and new ones are accepted.
func (p *Proxy) Stall(directions ...Direction) {
	if len(directions) == 0 {
		directions = []Direction{ToServer, ToClient}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range directions {
		if p.stalled[d] == nil {
			p.stalled[d] = make(chan struct{})
		}
	}
}

// Freeze lets nothing pass on the present connections any more. New ones work.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.frozen.Store(true)
	}
}

// Slow makes every chunk late.
func (p *Proxy) Slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// Heal ends Cut, Stall and Slow. What stalled goes on.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.delay = false, 0
	for d, gate := range p.stalled {
		if gate != nil {
			close(gate)
			p.stalled[d] = nil
		}
	}
}

// Redirect lets new connections go to another server and resets the present ones.
func (p *Proxy) Redirect(to string) {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
	p.Reset()
}

// Passed is how many bytes have gone in a direction.
func (p *Proxy) Passed(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed[d]
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	to, cut := p.to, p.cut
	p.mu.Unlock()
	if cut {
		abort(client)
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", to) // a server that stands still may not answer
	if err != nil {
		abort(client) // as if the server itself had refused
		return
	}
	l := &link{client: client, server: server}
	l.ctx, l.end = context.WithCancel(p.ctx)
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.cut || p.ctx.Err() != nil {
		l.reset() // cut or closed meanwhile
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, ToServer, server, client) })
	both.Go(func() { p.copy(l, ToClient, client, server) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// copy passes messages on until one end closes; then both are closed.
func (p *Proxy) copy(l *link, d Direction, to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	var pending []byte
	measure := p.protocol(d)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !l.frozen.Load() {
			pending = append(pending, buffer[:n]...)
			var sizes []int
			whole := 0
			for size := measure(pending); size > 0; size = measure(pending[whole:]) {
				sizes, whole = append(sizes, size), whole+size
			}
			if p.pass(l, d, to, pending[:whole], sizes) != nil {
				break
			}
			pending = append(pending[:0], pending[whole:]...)
		}
		if err == nil {
			continue
		}
		if l.frozen.Load() {
			_ = from.Close()
			return // the other end hears nothing of it
		}
		break
	}
	l.finish()
}

// pass passes messages on when the network lets it.
func (p *Proxy) pass(l *link, d Direction, to net.Conn, messages []byte, sizes []int) error {
	if err := p.wait(l, d); err != nil {
		return err
	}
	sent, at := 0, 0
	for _, size := range sizes {
		p.mu.Lock()
		trap := p.trap
		p.mu.Unlock()
		n := at
		at += size
		if trap == nil {
			continue
		}
		place := trap.look(p, l, d, messages[at-size:at])
		switch place {
		case Nowhere:
			continue
		case Inside:
			n += size / 2
		case Behind:
			n += size
		}
		if err := p.write(d, to, messages[sent:n]); err != nil {
			return err
		}
		sent = n
		close(trap.caught)
		if err := p.wait(l, d); err != nil {
			return err
		}
	}
	return p.write(d, to, messages[sent:])
}

// wait returns when the network lets bytes pass.
func (p *Proxy) wait(l *link, d Direction) error {
	for {
		p.mu.Lock()
		gate, delay := p.stalled[d], p.delay
		p.mu.Unlock()
		if held := l.held.Load(); held != nil {
			gate = *held
		}
		if gate != nil {
			select {
			case <-gate:
				continue // it may be closed again
			case <-l.ctx.Done():
				return l.ctx.Err()
			}
		}
		return pause.For(l.ctx, delay)
	}
}

func (p *Proxy) write(d Direction, to net.Conn, b []byte) error {
	if _, err := to.Write(b); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed[d] += int64(len(b))
	return nil
}

// reset breaks the connection, so that both ends get "connection reset by peer".
func (l *link) reset() {
	l.end()
	abort(l.client)
	abort(l.server)
}

// finish closes both ends in order.
func (l *link) finish() {
	l.end()
	_ = l.client.Close()
	_ = l.server.Close()
}

// abort closes with a reset instead of a goodbye.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
