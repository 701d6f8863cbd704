package throwaway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		runOwner()
		return
	}
	goleak.VerifyTestMain(m)
}

// testContext ends with the test, and after a time that no healthy test needs.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startServer(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Bin == "" {
		if _, _, err := Find(); err != nil {
			t.Fatal(err)
		}
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Log = t.Output()
	s, err := Start(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Close(ctx) // The server may be gone already, which is no fault.
	})
	return conn
}

func exec1(t testing.TB, s *Server, sql string) {
	t.Helper()
	if _, err := connect(t, s.DSN()).Exec(testContext(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func query(t testing.TB, s *Server, sql string) string {
	t.Helper()
	var value string
	if err := connect(t, s.DSN()).QueryRow(testContext(t), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestSettings(t *testing.T) {
	s := startServer(t, Options{Name: "set", Settings: map[string]string{
		"max_connections": "50", "application_name": `it's a \ test`,
	}})
	for name, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "wal_level": "logical", "max_prepared_transactions": "200",
		"max_wal_senders": "20", "max_replication_slots": "20", "max_connections": "50", "shared_buffers": "64MB",
		"listen_addresses": "127.0.0.1", "TimeZone": "UTC", "server_encoding": "UTF8",
		"autovacuum": "on", "port": fmt.Sprint(s.Port()), "data_directory": filepath.Join(s.Dir(), "data"),
	} {
		if got := query(t, s, "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := query(t, s, "SELECT reset_val FROM pg_settings WHERE name = 'application_name'"); got != `it's a \ test` {
		t.Errorf("application_name is %q", got)
	}
	if got := query(t, s, "SELECT current_user || '@' || current_database()"); got != "postgres@postgres" {
		t.Errorf("connected as %s", got)
	}
	if got := query(t, s, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'"); got != "C" {
		t.Errorf("collation is %q", got)
	}
	if got := query(t, s, "SELECT current_setting('server_version_num')::int / 10000 || ''"); got != fmt.Sprint(s.Version()) {
		t.Errorf("version is %s, want %d", got, s.Version())
	}
	if s.Port() < portMin || s.Port() >= 32768 {
		t.Errorf("port %d", s.Port())
	}
}

func TestUnixSocket(t *testing.T) {
	s := startServer(t, Options{Dir: os.TempDir()})
	conn := connect(t, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.Dir(), s.Port()))
	if err := conn.Ping(testContext(t)); err != nil {
		t.Error(err)
	}
}

// A folder with a name too long for a socket has TCP only.
func TestLongFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	query(t, startServer(t, Options{Dir: dir}), "SELECT 'up'")
}

func TestDSNFor(t *testing.T) {
	s := startServer(t, Options{})
	exec1(t, s, `CREATE DATABASE "a b/ü"`)
	var name string
	if err := connect(t, s.DSNFor("a b/ü")).QueryRow(testContext(t), "SELECT current_database()").Scan(&name); err != nil || name != "a b/ü" {
		t.Errorf("connected to %q, %v", name, err)
	}
}

// What was committed is there after every way to stop.
func TestStopKeepsData(t *testing.T) {
	s := startServer(t, Options{Name: "stop"})
	if _, err := pgxOnce(t, s, "CREATE TABLE t (mode text)"); err != nil {
		t.Fatal(err)
	}
	port := s.Port()
	for mode := Smart; mode <= Kill; mode++ {
		if _, err := pgxOnce(t, s, fmt.Sprintf("INSERT INTO t VALUES ('%s')", mode)); err != nil {
			t.Fatal(err)
		}
		pid := s.PID()
		if err := s.Stop(testContext(t), mode); err != nil {
			t.Fatal(err)
		}
		if alive(pid) || s.PID() != 0 {
			t.Errorf("%s: process %d is there after Stop; PID() = %d", mode, pid, s.PID())
		}
		if err := s.Stop(testContext(t), mode); err != nil {
			t.Errorf("%s: stop again: %v", mode, err)
		}
		if err := s.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if s.Port() != port {
			t.Errorf("%s: port %d became %d", mode, port, s.Port())
		}
		if modes, err := pgxOnce(t, s, "SELECT string_agg(mode, ' ') FROM t"); err != nil || !strings.HasSuffix(modes, mode.String()) {
			t.Errorf("after %s the table holds %q, %v", mode, modes, err)
		}
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	// Smart and Fast end in order, Immediate and Kill need recovery.
	if n := bytes.Count(log, []byte("database system was shut down at")); n != 3 { // initdb's own and two.
		t.Errorf("%d orderly ends in the log, want 3", n)
	}
	if n := bytes.Count(log, []byte("automatic recovery in progress")); n != 2 {
		t.Errorf("%d crash recoveries in the log, want 2", n)
	}
}

// pgxOnce leaves no connection open, which a smart stop would wait for.
func pgxOnce(t testing.TB, s *Server, sql string) (value string, err error) {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, conn.Close(testContext(t))) }()
	rows, err := conn.Query(testContext(t), sql)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&value); err != nil {
			return "", err
		}
	}
	return value, rows.Err()
}

// A smart stop waits for clients; it gives up with the context and goes on when they leave, or when somebody closes.
func TestStopGivesUp(t *testing.T) {
	s := startServer(t, Options{})
	connect(t, s.DSN())
	cause := errors.New("had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := s.Stop(ctx, Smart); !errors.Is(err, cause) {
		t.Errorf("smart stop with a client: %v", err)
	}
	if s.PID() == 0 {
		t.Error("it stopped under its client")
	}
	if err := s.Stop(testContext(t), Fast); err != nil {
		t.Error(err)
	}
}

func TestUnknownMode(t *testing.T) {
	for _, mode := range []Mode{-1, Kill + 1} {
		if err := new(Server).Stop(t.Context(), mode); err == nil || !strings.Contains(err.Error(), mode.String()) {
			t.Errorf("mode %d: %v", int(mode), err)
		}
	}
}

// A paused server answers neither on an open connection nor on a new one; it loses neither.
func TestPause(t *testing.T) {
	s := startServer(t, Options{})
	conn := connect(t, s.DSN())
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	below, err := descendants(s.PID())
	if err != nil || len(below) < 5 {
		t.Fatalf("processes %v, %v", below, err)
	}
	for _, p := range below {
		if !p.stopped() {
			t.Errorf("process %d is in state %c while the server is paused", p.pid, p.state)
		}
	}
	answers := make(chan error, 2)
	go func() {
		answers <- conn.Ping(testContext(t))
	}()
	go func() {
		second, err := pgx.Connect(testContext(t), s.DSN())
		if err == nil {
			err = second.Close(testContext(t))
		}
		answers <- err
	}()
	select {
	case err := <-answers:
		t.Fatalf("a paused server answered: %v", err)
	case <-time.After(200 * time.Millisecond): // Longer than it ever takes to answer.
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// Every mode stops a paused server.
func TestStopPaused(t *testing.T) {
	s := startServer(t, Options{})
	for mode := Smart; mode <= Kill; mode++ {
		if err := s.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(testContext(t), mode); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if err := s.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Pause(), s.Close()); err != nil {
		t.Errorf("close a paused server: %v", err)
	}
}

// Close leaves no process, no folder, no shared memory; nor does it after a kill, or when the server is stopped.
func TestClose(t *testing.T) {
	for _, before := range []func(s *Server) error{
		func(*Server) error { return nil },
		func(s *Server) error { return s.Stop(testContext(t), Fast) },
		func(s *Server) error { return s.Stop(testContext(t), Kill) },
	} {
		dir := t.TempDir()
		s := startServer(t, Options{Dir: dir})
		pid := s.PID()
		below, err := descendants(pid)
		if err != nil || len(below) < 5 {
			t.Fatalf("processes %v, %v", below, err)
		}
		lock, err := readLockFile(s.folder.data())
		if err != nil || !inSharedMemory(t, lock.shm) {
			t.Fatalf("lock file %+v, %v", lock, err)
		}
		if err := before(s); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		for _, p := range append(below, taskState{pid: pid}) {
			if worksIn(p.pid, s.folder.data()) || worksIn(p.pid, s.folder.data()+" (deleted)") {
				t.Errorf("process %d is there after Close", p.pid)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in the folder: %v, %v", left, err)
		}
		if inSharedMemory(t, lock.shm) {
			t.Errorf("shared memory %s is there after Close", lock.shm)
		}
		if err := s.Start(testContext(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("start after Close: %v", err)
		}
	}
}

func inSharedMemory(t testing.TB, keyID string) bool {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); f[0]+" "+f[1] == keyID {
			return true
		}
	}
	return false
}

func TestStartMany(t *testing.T) {
	if _, _, err := Find(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	servers, err := StartMany(testContext(t), Options{Dir: dir, Name: "a", Log: t.Output()}, Options{Dir: dir, Name: "b", Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for i, s := range servers {
		ids[query(t, s, "SELECT system_identifier || '' FROM pg_control_system()")] = true
		if s.name != string(rune('a'+i)) {
			t.Errorf("server %d is %s", i, s.name)
		}
		defer s.Close()
	}
	if len(ids) != 2 || servers[0].Port() == servers[1].Port() {
		t.Errorf("system identifiers %v, ports %d %d", ids, servers[0].Port(), servers[1].Port())
	}
}

// One that cannot start takes the others with it.
func TestStartManyFails(t *testing.T) {
	if _, _, err := Find(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, err := StartMany(testContext(t), Options{Dir: dir, Name: "good"}, Options{
		Dir: dir, Name: "bad", Settings: map[string]string{"wal_level": "nonsense"},
	})
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "wal_level": "nonsense"`) {
		t.Errorf("error: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

// A port that somebody else has: Start of a new server would look for another, a restart cannot.
func TestPortTaken(t *testing.T) {
	a, b := startServer(t, Options{Name: "a"}), startServer(t, Options{Name: "b"})
	if err := b.Stop(testContext(t), Fast); err != nil {
		t.Fatal(err)
	}
	own := b.port
	defer func() { b.port = own }()
	b.port = a.port
	if err := b.Start(testContext(t)); !errors.Is(err, errPortTaken) || !strings.Contains(err.Error(), fmt.Sprint(a.port)) {
		t.Errorf("error: %v", err)
	}
	if err := a.Start(testContext(t)); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("start of a running server: %v", err)
	}
}

// When the context ends in the middle of a start nothing is left.
func TestStartCancelled(t *testing.T) {
	if _, _, err := Find(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("start: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

func TestRestartCancelled(t *testing.T) {
	s := startServer(t, Options{})
	if err := s.Stop(testContext(t), Fast); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Start(ctx); !errors.Is(err, context.Canceled) || s.PID() != 0 {
		t.Errorf("start: %v, process %d", err, s.PID())
	}
	if err := s.Start(testContext(t)); err != nil {
		t.Errorf("start again: %v", err)
	}
}

func TestOptionsFaults(t *testing.T) {
	o := Options{Name: "a/b", Settings: map[string]string{"Port": "1", "x y": "1", "search_path": "a\nb"}}
	err := o.validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	want := strings.Join([]string{
		`name "a/b": want 1 to 32 letters, digits, '_' or '-'`,
		`setting Port: it is chosen by the package`,
		`setting search_path: "a\nb": more than one line`,
		`setting "x y": not a setting's name`,
	}, "\n")
	if err.Error() != want {
		t.Errorf("faults:\n%s\nwant:\n%s", err, want)
	}
}
