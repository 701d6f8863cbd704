package throwaway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"shardcdc/pipeline/throwaway/child"
)

// MariaDB is one throw-away MariaDB server, with the same life as a Server. Its methods may be called from several goroutines.
//
// It listens on 127.0.0.1 only, and root has no password. Durability is InnoDB's own: every commit is synced. On Linux the kernel
// kills it when this process dies; its folder is then removed by the next Start, as those of PostgreSQL are.
type MariaDB struct {
	account account
	folder  *folder
	port    int

	life   sync.Mutex // Held by whoever starts the server or closes it.
	closed bool       // Guarded by life.

	server atomic.Pointer[child.Process] // The newest one; nil before the first.
}

// StartMariaDB makes a new server and starts it, with the database cdc. It returns when the server accepts connections. dir is the
// parent of its folder, see Options.Dir. ctx bounds the start.
func StartMariaDB(ctx context.Context, dir string) (_ *MariaDB, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("throw-away MariaDB: %w", err)
		}
	}()
	m := &MariaDB{}
	if m.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if m.folder, err = newFolder(dir, "mariadb", m.account); err != nil {
		return nil, err
	}
	if err := m.install(ctx); err != nil {
		return nil, errors.Join(err, m.folder.remove())
	}
	for attempt := 1; ; attempt++ {
		if m.port, err = ports.take(); err != nil {
			return nil, errors.Join(err, m.folder.remove())
		}
		if err = m.Start(ctx); err == nil {
			return m, nil
		}
		if !errors.Is(err, errPortTaken) || attempt == 10 {
			return nil, errors.Join(err, m.Close())
		}
		ports.release(m.port)
	}
}

// install makes the data folder.
func (m *MariaDB) install(ctx context.Context) error {
	program, err := mariadbProgram("mariadb-install-db")
	if err != nil {
		return err
	}
	cmd := m.command(program, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--datadir="+m.folder.data(),
		"--innodb-log-file-size=16M", "--innodb-flush-method=nosync")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(said.String()))
	}
	init := "CREATE DATABASE IF NOT EXISTS cdc;\n"
	if err := os.WriteFile(m.initFile(), []byte(init), 0o644); err != nil {
		return err
	}
	return m.account.own(m.initFile())
}

func (m *MariaDB) initFile() string { return filepath.Join(m.folder.path, "init.sql") }

// mariadbProgram finds a program where Debian puts it: servers are not on the PATH of ordinary users.
func mariadbProgram(name string) (string, error) {
	if found, err := exec.LookPath(name); err == nil {
		return found, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"} {
		if path := filepath.Join(dir, name); isProgram(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w. Try: test/ensure-mariadb.sh, or apt-get install mariadb-server", name, exec.ErrNotFound)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

func (m *MariaDB) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = m.folder.path
	cmd.Env = environment(m.folder.path)
	cmd.SysProcAttr = m.account.attributes()
	return cmd
}

// Start starts a stopped server again, on its port, and returns when it accepts connections.
func (m *MariaDB) Start(ctx context.Context) error {
	m.life.Lock()
	defer m.life.Unlock()
	if m.closed {
		return ErrClosed
	}
	if m.running() != nil {
		return errors.New("start: the server runs already. Try: Stop first")
	}
	program, err := mariadbProgram("mariadbd")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %s. Try: see %s", startTimeout, m.LogFile()))
	defer cancel()
	log, err := os.OpenFile(m.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // The server has its own copy.
	logged, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := m.command(program, "--no-defaults", "--datadir="+m.folder.data(), "--port="+strconv.Itoa(m.port), "--bind-address=127.0.0.1",
		"--socket=my.sock", "--pid-file=my.pid", "--skip-name-resolve", "--init-file="+m.initFile(), "--lc-messages=en_US",
		"--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--max-connections=100", "--default-time-zone=+05:30")
	cmd.Stdout, cmd.Stderr = log, log
	p, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	m.server.Store(p)
	err = poll(ctx, func() (bool, error) { return m.ready(p, logged) })
	if err != nil && !p.Ended() {
		err = errors.Join(err, p.Signal(syscall.SIGKILL))
		<-p.Done()
	}
	return err
}

// ready looks for what the server logs when it listens.
func (m *MariaDB) ready(p *child.Process, logged int64) (bool, error) {
	ended := p.Ended()
	text, err := os.ReadFile(m.LogFile())
	if err != nil {
		return false, err
	}
	said := string(text[min(int(logged), len(text)):])
	switch {
	case !ended:
		return strings.Contains(said, "ready for connections"), nil
	case strings.Contains(said, "Address already in use"):
		return false, fmt.Errorf("port %d: %w", m.port, errPortTaken)
	}
	return false, fmt.Errorf("mariadbd ended while it started: %w; its log:\n%s", p.Err(), said[max(0, len(said)-2000):])
}

// Stop stops the server and returns when it has ended. Fast is its own shutdown, Kill is kill -9; others are not known here.
func (m *MariaDB) Stop(ctx context.Context, mode Mode) error {
	sig, known := map[Mode]syscall.Signal{Fast: syscall.SIGTERM, Kill: syscall.SIGKILL}[mode]
	if !known {
		return fmt.Errorf("stop MariaDB: mode %s is not known. Try: fast, kill", mode)
	}
	p := m.running()
	if p == nil {
		return nil
	}
	if err := p.Signal(sig); err != nil {
		return fmt.Errorf("stop MariaDB: %w", err)
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop (%s) MariaDB: %w", mode, context.Cause(ctx))
	}
}

// Close kills the server and removes its folder. Closing again does nothing.
func (m *MariaDB) Close() error {
	m.life.Lock()
	defer m.life.Unlock()
	if m.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := m.Stop(ctx, Kill); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if err := m.folder.remove(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	m.closed = true
	ports.release(m.port)
	return nil
}

func (m *MariaDB) running() *child.Process {
	p := m.server.Load()
	if p == nil || p.Ended() {
		return nil
	}
	return p
}

// DSN is the URL of database cdc as user root, as shardcdc takes it.
func (m *MariaDB) DSN() string { return fmt.Sprintf("mysql://root@127.0.0.1:%d/cdc", m.port) }

// DriverDSN is the same for github.com/go-sql-driver/mysql.
func (m *MariaDB) DriverDSN() string {
	return fmt.Sprintf("root@tcp(127.0.0.1:%d)/cdc?charset=utf8mb4&multiStatements=true", m.port)
}

// Port is the TCP port on 127.0.0.1; it stays the same for the server's life.
func (m *MariaDB) Port() int { return m.port }

// LogFile is what the server logs to.
func (m *MariaDB) LogFile() string { return filepath.Join(m.folder.path, "mariadb.log") }
