package postgres_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shardcdc/apply"
	"shardcdc/apply/postgres"
)

// frozen are connections that at some time pass nothing on any more, in both directions, while the kernel goes on
// acknowledging.
type frozen struct {
	t      *testing.T
	l      net.Listener
	mu     sync.Mutex
	addr   string        // of the server
	ice    chan struct{} // closed: connections made before pass nothing on
	served sync.WaitGroup
	made   atomic.Int64
}

func newFrozen(t *testing.T) *frozen {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &frozen{t: t, l: l, ice: make(chan struct{})}
	t.Cleanup(func() { _ = l.Close(); f.served.Wait() })
	return f
}

// freeze stops all connections that there are.
func (f *frozen) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.ice)
	f.ice = make(chan struct{})
}

func (f *frozen) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	f.mu.Lock()
	if f.addr == "" {
		f.addr = addr // a request to cancel dials where a connection seems to go: to us
	}
	addr = f.addr
	f.mu.Unlock()
	server, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	client, err := new(net.Dialer).DialContext(ctx, "tcp", f.l.Addr().String())
	if err != nil {
		return nil, err
	}
	middle, err := f.l.Accept()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	ice := f.ice
	f.mu.Unlock()
	f.made.Add(1)
	f.served.Add(2)
	go f.pass(server, middle, ice)
	go f.pass(middle, server, ice)
	return client, nil
}

// pass copies until the ice comes; then the connections stay open and silent until the test ends.
func (f *frozen) pass(to, from net.Conn, ice chan struct{}) {
	defer f.served.Done()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-ice:
			<-f.t.Context().Done()
			_ = to.Close()
			_ = from.Close()
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				_ = from.Close()
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				_ = from.Close()
			}
			_ = to.Close()
			return
		}
	}
}

// TestSilentTarget: a connection that acknowledges and answers nothing is given up, its session on the server is ended,
// and the worker goes on with a new one.
func TestSilentTarget(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	proxy := newFrozen(t)
	w.cfg.Dial = proxy.dial
	w.cfg.AskAfter = 100 * time.Millisecond
	f := newFeed(t)
	w.source("INSERT INTO t VALUES (1)")
	f.publish(1<<20, 0, w.capture()...)
	fl := w.follow(t, f, apply.Config{})
	fl.until(1)
	proxy.freeze()
	w.source("INSERT INTO t VALUES (2)")
	f.publish(1<<20, 0, w.capture()...)
	fl.state("given up", func(s apply.Status) bool {
		return strings.Contains(s.Err, "the target does not answer on this connection: the server waits for us")
	})
	fl.until(2)
	w.same("t")
	if got := w.target.rows("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc apply s' AND datname = current_database()"); got != "1\n" {
		t.Errorf("%s sessions: the silent one goes on holding its locks", got)
	}
}

// TestBusyTarget: a statement that takes long is waited for, however long, and the status says so.
func TestBusyTarget(t *testing.T) {
	w := newWorld(t, 1)
	w.both("CREATE TABLE t (id int PRIMARY KEY)")
	w.target.exec("CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END$$")
	w.target.exec("CREATE TRIGGER w BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION wait(); ALTER TABLE t ENABLE ALWAYS TRIGGER w")
	w.target.exec("SELECT pg_advisory_lock(1)")
	w.cfg.AskAfter = 20 * time.Millisecond
	proxy := newFrozen(t) // only to count connections
	w.cfg.Dial = proxy.dial
	f := newFeed(t)
	w.source("INSERT INTO t VALUES (1)")
	f.publish(1<<20, 0, w.capture()...)
	fl := w.follow(t, f, apply.Config{})
	late := time.After(time.Minute)
	for proxy.made.Load() < 6 || !strings.Contains(fl.worker.Status().Waiting, "active, waiting for a lock (advisory)") {
		select {
		case <-late:
			t.Fatalf("%d connections, status %+v", proxy.made.Load(), fl.worker.Status())
		case <-time.After(time.Millisecond):
		}
	}
	if s := fl.worker.Status(); s.Err != "" {
		t.Errorf("status %+v", s)
	}
	if got := w.target.rows("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc apply s' AND datname = current_database() AND wait_event_type = 'Lock'"); got != "1\n" {
		t.Errorf("%s sessions wait: the first one was given up", got)
	}
	w.target.exec("SELECT pg_advisory_unlock(1)")
	fl.until(1)
	if s := fl.worker.Status(); s.Waiting != "" || s.Err != "" {
		t.Errorf("status %+v", s)
	}
	w.same("t")
}

var _ apply.Target = (*postgres.Target)(nil)
