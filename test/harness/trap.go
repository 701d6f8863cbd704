package harness

import (
	"net"
	"sync"
)

// Place says where a connection is to stand still, as seen from a message.
type Place int

const (
	Nowhere Place = iota
	Before        // the message is not passed on
	Inside        // half of it is
	Behind        // all of it is, and nothing that follows, in neither direction
)

func (p Place) String() string { return [...]string{"nowhere", "before", "inside", "behind"}[p] }

// Message is a whole message of the proxy's protocol.
type Message struct {
	Link      int // the client's port: tells connections apart
	Direction Direction
	Bytes     []byte // valid during the call
}

// A Trap catches one connection of a proxy at an exact place: from then on nothing passes on it in any direction, until Go or
// Cut. It catches once.
type Trap struct {
	proxy  *Proxy
	caught chan struct{}
	gate   chan struct{}

	mu    sync.Mutex
	match func(Message) Place
	link  *link // that was caught
}

// Trap sets a trap. match sees every message of every connection, in the order of each connection and direction; a call
// ends before the next begins.
func (p *Proxy) Trap(match func(Message) Place) *Trap {
	trap := &Trap{proxy: p, caught: make(chan struct{}), gate: make(chan struct{}), match: match}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = trap
	return trap
}

// look asks the trap about a message, and holds the connection when it is the one.
func (t *Trap) look(p *Proxy, l *link, d Direction, message []byte) Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.link != nil {
		return Nowhere
	}
	place := t.match(Message{Link: l.port(), Direction: d, Bytes: message})
	if place != Nowhere {
		t.link = l
		l.held.Store(&t.gate)
		p.mu.Lock()
		p.trap = nil
		p.mu.Unlock()
	}
	return place
}

// Caught is closed when a connection stands at the place.
func (t *Trap) Caught() <-chan struct{} { return t.caught }

// Ends are the ports of a client's connection to a proxy.
type Ends struct{ Client, Server int }

// Wait waits until a connection stands at the place, and says which.
func (t *Trap) Wait(c *Cluster, what string) Ends {
	c.t.Helper()
	select {
	case <-t.caught:
	case <-c.Ctx.Done():
		t.Remove()
		c.t.Fatalf("wait until a connection stands %s: the place did not come", what)
	}
	return Ends{Client: t.link.port(), Server: t.proxy.Port()}
}

// Go lets the connection go on, with what was held.
func (t *Trap) Go() {
	t.link.held.Store(nil)
	close(t.gate)
}

// Cut resets the connection. What was held is lost.
func (t *Trap) Cut() { t.link.reset() }

// Remove takes away a trap that caught nothing.
func (t *Trap) Remove() {
	t.proxy.mu.Lock()
	defer t.proxy.mu.Unlock()
	if t.proxy.trap == t {
		t.proxy.trap = nil
	}
}

func (l *link) port() int { return l.client.RemoteAddr().(*net.TCPAddr).Port }
