package throwaway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"shardcdc/pipeline/throwaway/child"
)

// Limits of waiting when the caller's context has none.
const (
	startTimeout = 2 * time.Minute
	closeTimeout = 10 * time.Second
	pauseTimeout = 10 * time.Second
)

// Options say what server to start. The zero value is good.
type Options struct {
	// Dir is the parent of the server's folder; empty: the system's temporary folder. When this process is root, folders
	// between the temporary folder and Dir are opened (o+x) for the user that runs PostgreSQL.
	Dir string
	// Name goes into the folder's name and into messages: letters, digits, '_' and '-', 32 at most. Empty: "pg".
	Name string
	// Bin is the folder with initdb and postgres; empty: what [Find] finds.
	Bin string
	// Settings go into postgresql.conf, after the package's own and so before them in rank. The port, the addresses and the
	// socket folder cannot be set.
	Settings map[string]string
	// Log gets a line for each step (initdb, started, stopped, closed); nil: nobody. PostgreSQL's own log is in
	// [Server.LogFile].
	Log io.Writer
}

// A Mode says how to stop a server; the first three are pg_ctl's.
type Mode int

const (
	// Smart waits until every client, walsenders included, has left.
	Smart Mode = iota
	// Fast ends every session, lets walsenders send what is left, and writes a checkpoint.
	Fast
	// Immediate ends every process at once; the next start does crash recovery.
	Immediate
	// Kill is kill -9 for every process at the same moment, as when the power fails; the next start does crash recovery.
	Kill
)

func (m Mode) String() string {
	names := [...]string{"smart", "fast", "immediate", "kill"}
	if m < 0 || int(m) >= len(names) {
		return "Mode(" + strconv.Itoa(int(m)) + ")"
	}
	return names[m]
}

// signal returns the postmaster's signal for the mode.
func (m Mode) signal() (syscall.Signal, error) {
	signals := [...]syscall.Signal{Smart: syscall.SIGTERM, Fast: syscall.SIGINT, Immediate: syscall.SIGQUIT, Kill: syscall.SIGKILL}
	if m < 0 || int(m) >= len(signals) {
		return 0, fmt.Errorf("unknown stop mode %s", m)
	}
	return signals[m], nil
}

// ErrClosed is what a closed server's methods return.
var ErrClosed = errors.New("the server was closed")

// errPortTaken: somebody else listens on the port.
var errPortTaken = errors.New("the port is taken")

// A Server is one throw-away PostgreSQL server. Its methods may be called from several goroutines.
type Server struct {
	name    string
	bin     string
	version int
	account account
	folder  *folder
	port    int
	log     io.Writer

	life   sync.Mutex // Held by whoever starts a postmaster or closes the server.
	closed bool       // Guarded by life.

	postmaster atomic.Pointer[child.Process] // The newest one; nil before the first.
}

// Start makes a new cluster and starts it. It returns when the server accepts connections. ctx bounds the start, not the
// server's life: that ends with Close.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	s, err := newServer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("throw-away server %s: %w", o.name(), err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("throw-away server %s: %w", s.name, err), s.Close())
		}
	}()
	// A port found free may be taken by the time that PostgreSQL binds it.
	for attempt := 1; ; attempt++ {
		if s.port, err = ports.take(); err != nil {
			return nil, err
		}
		err = s.Start(ctx)
		if !errors.Is(err, errPortTaken) || attempt == 10 {
			break
		}
		ports.release(s.port)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// StartMany starts a server for each of the options, in parallel, and returns them in the same order: all or none.
func StartMany(ctx context.Context, options ...Options) ([]*Server, error) {
	servers := make([]*Server, len(options))
	errs := make([]error, len(options))
	var wait sync.WaitGroup
	for i, o := range options {
		wait.Go(func() { servers[i], errs[i] = Start(ctx, o) })
	}
	wait.Wait()
	err := errors.Join(errs...)
	if err == nil {
		return servers, nil
	}
	for _, s := range servers {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return nil, err
}

// newServer makes the folder and the cluster in it.
func newServer(ctx context.Context, o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Server{name: o.name(), bin: o.Bin, log: o.Log}
	var err error
	if s.bin == "" {
		s.bin, s.version, err = Find()
	} else {
		s.version, err = usable(s.bin)
	}
	if err != nil {
		return nil, err
	}
	if s.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if s.folder, err = newFolder(o.Dir, s.name, s.account); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.initdb(ctx, o.Settings); err != nil {
		return nil, errors.Join(err, s.folder.remove())
	}
	s.say("initdb (PostgreSQL %d) in %s took %s", s.version, s.folder.path, time.Since(began).Round(time.Millisecond))
	return s, nil
}

// Start starts a stopped server again, on its port, and returns when it accepts connections.
func (s *Server) Start(ctx context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.running() != nil {
		return errors.New("start: the server runs already. Try: Stop first")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("not ready after %s. Try: see %s", startTimeout, s.LogFile()))
	defer cancel()

	logFile, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close() // The postmaster has its own copy.
	logged, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	began := time.Now()
	cmd := s.command("postgres", "-D", s.folder.data(), "-p", strconv.Itoa(s.port))
	cmd.Stdout, cmd.Stderr = logFile, logFile
	p, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	s.postmaster.Store(p)
	if err := s.waitReady(ctx, p, logged); err != nil {
		return err
	}
	s.say("process %d, port %d, ready after %s", p.PID(), s.port, time.Since(began).Round(time.Millisecond))
	return nil
}

// waitReady returns when the postmaster has written into its lock file that it is ready, which is what pg_ctl waits for too;
// another server that answers on the same port would not deceive it. When it fails, no process is left.
func (s *Server) waitReady(ctx context.Context, p *child.Process, logged int64) error {
	err := poll(ctx, func() (bool, error) {
		if p.Ended() {
			return false, s.startFailed(p, logged)
		}
		lock, err := readLockFile(s.folder.data())
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return lock.pid == p.PID() && lock.status == "ready", err
	})
	if err != nil && !p.Ended() {
		err = errors.Join(err, s.kill(p))
	}
	return err
}

// startFailed says why the postmaster ended, with the end of what it logged since the offset.
func (s *Server) startFailed(p *child.Process, logged int64) error {
	text, err := os.ReadFile(s.LogFile())
	if err != nil {
		return errors.Join(fmt.Errorf("postgres: %w", p.Err()), err)
	}
	said := strings.TrimSpace(string(text[min(int(logged), len(text)):]))
	if strings.Contains(said, "could not create any TCP/IP sockets") {
		return fmt.Errorf("port %d: %w", s.port, errPortTaken)
	}
	if len(said) > 2000 {
		said = "…" + said[len(said)-2000:]
	}
	return fmt.Errorf("postgres ended while it started: %w; its log:\n%s", p.Err(), said)
}

// Stop stops the server and returns when its last process has ended, or with ctx's error, and then the server may
// still be stopping. A paused server is resumed for it (not for Kill). Stopping a stopped server does nothing.
func (s *Server) Stop(ctx context.Context, mode Mode) error {
	sig, err := mode.signal()
	if err != nil {
		return err
	}
	p := s.running()
	if p == nil {
		return nil
	}
	if mode == Kill {
		if err := killTree(ctx, p.PID()); err != nil {
			return fmt.Errorf("stop (kill) %s: %w", s.name, err)
		}
	} else if err := errors.Join(signal(p.PID(), sig), thaw(p.PID())); err != nil {
		return fmt.Errorf("stop (%s) %s: %w", mode, s.name, err)
	}
	select {
	case <-p.Done():
		s.say("stopped (%s)", mode)
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop (%s) %s: %w", mode, s.name, context.Cause(ctx))
	}
}

// Pause makes every process of the server stand still: connections stay open and nothing answers, as when a machine hangs.
// It returns when the last one stands. Connections made meanwhile wait in the kernel.
func (s *Server) Pause() error {
	p := s.running()
	if p == nil {
		return fmt.Errorf("pause %s: it does not run", s.name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseTimeout)
	defer cancel()
	if err := freeze(ctx, p.PID()); err != nil {
		return fmt.Errorf("pause %s: %w", s.name, err)
	}
	return nil
}

// Resume ends a Pause.
func (s *Server) Resume() error {
	p := s.running()
	if p == nil {
		return fmt.Errorf("resume %s: it does not run", s.name)
	}
	if err := thaw(p.PID()); err != nil {
		return fmt.Errorf("resume %s: %w", s.name, err)
	}
	return nil
}

// Close stops the server at once and removes its folder. Closing again does nothing.
func (s *Server) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.Stop(ctx, Immediate); err != nil {
		if errKill := s.kill(s.postmaster.Load()); errKill != nil {
			return fmt.Errorf("close: %w", errors.Join(err, errKill))
		}
	}
	if err := s.folder.remove(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s.closed = true
	ports.release(s.port)
	s.say("closed")
	return nil
}

// kill is Stop with Kill, whatever the caller's context.
func (s *Server) kill(p *child.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := killTree(ctx, p.PID()); err != nil {
		return err
	}
	<-p.Done()
	return nil
}

// running returns the postmaster, or nil when there is none.
func (s *Server) running() *child.Process {
	p := s.postmaster.Load()
	if p == nil || p.Ended() {
		return nil
	}
	return p
}

// command prepares one of PostgreSQL's programs, as its user, in the server's folder.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = s.folder.path
	cmd.Env = environment(s.folder.path)
	cmd.SysProcAttr = s.account.attributes()
	return cmd
}

// environment is ours without what would change PostgreSQL's defaults.
func environment(home string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "LANG") || name == "TZ" {
			continue
		}
		env = append(env, kv)
	}
	return append(env, "LC_ALL=C", "HOME="+home)
}

// DSN is the connection string of database postgres, as user postgres.
func (s *Server) DSN() string { return s.DSNFor("postgres") }

// DSNFor is the connection string of another database.
func (s *Server) DSNFor(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, url.PathEscape(database))
}

// Port is the TCP port on 127.0.0.1; it stays the same for the server's life.
func (s *Server) Port() int { return s.port }

// Dir is the server's folder: the data folder is data, the log is postgres.log. Close removes it.
func (s *Server) Dir() string { return s.folder.path }

// LogFile is what PostgreSQL logs to.
func (s *Server) LogFile() string { return filepath.Join(s.folder.path, "postgres.log") }

// Version is the major version: 15, 16, …
func (s *Server) Version() int { return s.version }

// PID is the postmaster's process id, or 0 when the server does not run.
func (s *Server) PID() int {
	if p := s.running(); p != nil {
		return p.PID()
	}
	return 0
}

func (s *Server) say(format string, args ...any) {
	if s.log != nil {
		fmt.Fprintf(s.log, s.name+": "+format+"\n", args...)
	}
}
