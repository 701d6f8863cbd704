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
	p := NewProxy(t, echo(t))
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

	p.Tap(func(d Direction, chunk []byte) (int, bool) {
		return 2, d == ToClient && bytes.HasPrefix(chunk, []byte("hello"))
	})
	if got, err := say(dialEcho(t, p), "hello", long); got != "he" || err == nil || isTimeout(err) {
		t.Fatalf("tapped: %q, %v", got, err)
	}
}
