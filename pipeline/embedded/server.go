// Package embedded runs a NATS server with JetStream inside the process. Every acknowledgement it gives is
// durable (SyncAlways), and a store directory is used by one server at a time: a second one would corrupt it,
// and NATS itself does not notice, so the directory is locked.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/owner"
)

// Options say how the server runs.
type Options struct {
	StoreDir string // made if it is not there, mode 0700
	Listen   string // host:port for other processes; empty: none but this one can connect; port 0: a free one
	StoreMax int64  // bytes that JetStream may use on disk; 0: what the disk has
	Log      *slog.Logger
}

const (
	readyTimeout = 30 * time.Second
	// streamBuffered is the server's bound on bytes that wait to be stored in one stream.
	streamBuffered = 256 << 20
	// maxPayload: a unit in one message is written and synced once, one in an atomic batch twice. The writer of a stream makes
	// messages of up to 2 MB.
	maxPayload = 2 << 20
)

// Server is a running server.
type Server struct {
	srv  *server.Server
	lock *os.File
}

// Start starts a server and waits until it is ready.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.StoreDir == "" {
		return nil, errors.New("embedded NATS: no store directory. Try: --nats-store DIR")
	}
	if err := os.MkdirAll(o.StoreDir, 0o700); err != nil {
		return nil, unusable(err)
	}
	lock, err := owner.Lock(o.StoreDir, true)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("embedded NATS: store directory %s is in use by another process. Try: stop it, or another --nats-store", o.StoreDir)
	}
	if err != nil {
		return nil, unusable(err)
	}
	srv, err := start(ctx, o)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Server{srv: srv, lock: lock}, nil
}

// unusable is the error of a store directory that cannot be made or locked.
func unusable(err error) error {
	return fmt.Errorf("embedded NATS: store directory: %w. Try: --nats-store with a folder that this user may write to", err)
}

func start(ctx context.Context, o Options) (*server.Server, error) {
	opts := &server.Options{
		ServerName:            control.EmbeddedName,
		JetStream:             true,
		StoreDir:              o.StoreDir,
		JetStreamMaxStore:     o.StoreMax,
		SyncAlways:            true,
		StreamMaxBufferedSize: streamBuffered,
		MaxPayload:            maxPayload,
		JetStreamLimits:       server.JSLimitOpts{MaxBatchSize: control.EmbeddedBatchMax},
		NoSigs:                true,
		DontListen:            o.Listen == "",
	}
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return nil, fmt.Errorf("embedded NATS: listen address %q: %w. Try: 127.0.0.1:4222", o.Listen, err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("embedded NATS: listen address %q: %w", o.Listen, err)
		}
		if n == 0 {
			n = server.RANDOM_PORT
		}
		opts.Host, opts.Port = host, n
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	log := &logger{log: o.Log, fatal: make(chan string, 1)}
	srv.SetLoggerV2(log, false, false, false)
	go srv.Start()
	if err := waitReady(ctx, srv, log, o.Listen); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	return srv, nil
}

func waitReady(ctx context.Context, srv *server.Server, log *logger, listen string) error {
	deadline := time.Now().Add(readyTimeout)
	for !srv.ReadyForConnections(50 * time.Millisecond) {
		select {
		case msg := <-log.fatal:
			return fmt.Errorf("embedded NATS: %s. Try: another --nats-listen than %q, or cdcd node and cdcd apply with --nats URL, to use a server that runs already", msg, listen)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("embedded NATS: not ready after %s", readyTimeout)
		}
	}
	if !srv.JetStreamEnabled() {
		return errors.New("embedded NATS: JetStream did not start; see the log above")
	}
	return nil
}

// URL is where other processes connect; empty if none can.
func (s *Server) URL() string {
	if addr := s.srv.Addr(); addr != nil {
		return "nats://" + addr.String()
	}
	return ""
}

// InProcess is the option that connects within the process, without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.srv) }

// Healthy reports a store that cannot be written. After such an error (a full disk, for instance) the server
// has to be started again.
//
// A stream that is being deleted at this moment may look like one that could not be recovered, between two steps of
// the server; so only an error that is still there at the next look is one.
func (s *Server) Healthy() error {
	h := s.srv.Healthz(&server.HealthzOptions{Details: true})
	for _, e := range h.Errors {
		if deleting(e) {
			continue
		}
		return fmt.Errorf("embedded NATS: %s. Try: free disk space, then restart this process", e.Error)
	}
	return nil
}

// deleting says whether Healthz stumbled over what is left of a deleted stream. The server renames its folder, with
// a dot in front, and removes the files in the background, which takes a while when the stream was large.
func deleting(e server.HealthzError) bool {
	return e.Type == server.HealthzErrorStream && strings.HasPrefix(e.Stream, ".")
}

// Close stops the server; what was acknowledged is on disk.
func (s *Server) Close() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.lock.Close()
}

// logger passes NATS' log on: errors and warnings as they are, notices at debug level.
type logger struct {
	log   *slog.Logger
	fatal chan string
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }

func (l *logger) Warnf(format string, v ...any) { l.log.Warn("nats: " + fmt.Sprintf(format, v...)) }

func (l *logger) Errorf(format string, v ...any) { l.log.Error("nats: " + fmt.Sprintf(format, v...)) }

func (l *logger) Debugf(format string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l *logger) Tracef(format string, v ...any) {}

func (l *logger) Fatalf(format string, v ...any) {
	msg := fmt.Sprintf(format, v...)
	l.log.Error("nats: " + msg)
	select {
	case l.fatal <- msg:
	default:
	}
}
