package harness

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// echo is a server that says back what it hears.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func dialEcho(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends a word and reads as many bytes back, within a time.
func say(c net.Conn, word string, within time.Duration) (string, error) {
	if _, err := c.Write([]byte(word)); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	back := make([]byte, len(word))
	n, err := io.ReadFull(c, back)
	return string(back[:n]), err
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

func TestProxy(t *testing.T) {
	const long, short = 5 * time.Second, 50 * time.Millisecond
	p := NewProxy(t, echo(t), Bytes)
	c := dialEcho(t, p)
	hello := func(c net.Conn) {
		t.Helper()
		if got, err := say(c, "hello", long); got != "hello" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	hello(c)

	for _, directions := range [][]Direction{nil, {ToServer}, {ToClient}} {
		p.Stall(directions...)
		if got, err := say(c, "wait", short); got != "" || !isTimeout(err) {
			t.Fatalf("stalled %v: %q, %v", directions, got, err)
		}
		p.Heal()
		if got, err := say(c, "", long); got != "" || err != nil {
			t.Fatal(got, err)
		}
		late := make([]byte, 4)
		if _, err := io.ReadFull(c, late); string(late) != "wait" || err != nil {
			t.Fatalf("after %v: %q, %v", directions, late, err)
		}
	}

	p.Slow(100 * time.Millisecond)
	began := time.Now()
	hello(c)
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Fatalf("slow took %s", took)
	}
	p.Heal()

	p.Reset()
	if got, err := say(c, "hello", long); err == nil || isTimeout(err) {
		t.Fatalf("after a reset: %q, %v", got, err)
	}
	hello(dialEcho(t, p))

	p.Cut()
	if c, err := net.Dial("tcp", p.Address()); err == nil { // the reset may come while it is made
		if got, err := say(c, "hello", long); err == nil || isTimeout(err) {
			t.Fatalf("cut: %q, %v", got, err)
		}
		c.Close()
	}
	p.Heal()
	hello(dialEcho(t, p))

	c = dialEcho(t, p)
	hello(c)
	p.Freeze()
	if got, err := say(c, "hello", short); got != "" || !isTimeout(err) {
		t.Fatalf("frozen: %q, %v", got, err)
	}
	p.Heal()
	if got, err := say(c, "hello", short); got != "" || !isTimeout(err) {
		t.Fatalf("frozen for ever: %q, %v", got, err)
	}
	hello(dialEcho(t, p))

	for place, want := range map[Place]string{Before: "", Inside: "he", Behind: "hello"} {
		trap := p.Trap(func(m Message) Place {
			if m.Direction == ToClient && bytes.HasPrefix(m.Bytes, []byte("hello")) {
				return place
			}
			return Nowhere
		})
		c = dialEcho(t, p)
		if got, err := say(c, "hello", short); got != want || want != "hello" && !isTimeout(err) {
			t.Fatalf("trapped %s: %q, %v", place, got, err)
		}
		<-trap.Caught()
		if got, err := say(c, "more", short); got != "" || !isTimeout(err) {
			t.Fatalf("trapped %s: then %q, %v", place, got, err)
		}
		trap.Go()
		late := make([]byte, len("hello")-len(want)+len("more"))
		if err := c.SetReadDeadline(time.Now().Add(long)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, late); string(late) != "hello"[len(want):]+"more" || err != nil {
			t.Fatalf("let go %s: %q, %v", place, late, err)
		}
	}
	trap := p.Trap(func(Message) Place { return Before })
	c = dialEcho(t, p)
	if got, err := say(c, "hello", short); got != "" || !isTimeout(err) {
		t.Fatalf("trapped: %q, %v", got, err)
	}
	trap.Cut()
	if got, err := say(c, "hello", long); err == nil || isTimeout(err) {
		t.Fatalf("cut: %q, %v", got, err)
	}
	hello(dialEcho(t, p))
}

// Every message is found, however the bytes come.
func TestProtocols(t *testing.T) {
	for _, x := range []struct {
		name     string
		protocol Protocol
		d        Direction
		messages []string
	}{
		{"nats", NATS, ToServer, []string{"CONNECT {}\r\n", "PUB a.b 2\r\n\r\n\r\n", "HPUB a _I.x 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "PING\r\n"}},
		{"nats", NATS, ToClient, []string{"INFO {}\r\n", "MSG a 1 _I.x 3\r\nabc\r\n", "+OK\r\n"}},
		{"postgresql", PostgreSQL, ToServer, []string{"\x00\x00\x00\x09\x00\x03\x00\x00\x00", "Q\x00\x00\x00\x06x\x00", "S\x00\x00\x00\x04"}},
		{"postgresql", PostgreSQL, ToClient, []string{"Z\x00\x00\x00\x05I"}},
	} {
		measure := x.protocol(x.d)
		for _, m := range x.messages {
			for n := range len(m) {
				if got := measure([]byte(m[:n])); got != 0 {
					t.Fatalf("%s: %d of %q are a message of %d bytes", x.name, n, m, got)
				}
			}
			if got := measure([]byte(m + "rest")); got != len(m) {
				t.Fatalf("%s: %q has %d bytes, measured %d", x.name, m, len(m), got)
			}
		}
	}
	m, ok := ParseNATS([]byte("HPUB a _I.x 25 27\r\nNATS/1.0\r\nName: value\r\n\r\nhi\r\n"))
	if !ok || m.Subject != "a" || m.Reply != "_I.x" {
		t.Fatalf("%+v %v", m, ok)
	}
	m, ok = ParseNATS([]byte("HMSG a 7 25 27\r\nNATS/1.0\r\nName: value\r\n\r\nhi\r\n"))
	if !ok || m.Reply != "" || m.Get("Name") != "value" || string(m.Data) != "hi" {
		t.Fatalf("%+v %v", m, ok)
	}
}
