package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats.go"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/embedded"
	"shardcdc/pipeline/owner"
	"shardcdc/pipeline/wire"
)

// Names within a JetStream store directory.
const (
	storeFolder   = "jetstream"
	storeAccount  = "$G" // of a server without accounts
	storeStreams  = "streams"
	storeMeta     = "meta.inf" // a stream's configuration
	storeSum      = "meta.sum" // its checksum
	storeKey      = "meta.key" // of an encrypted stream
	catalogStream = "KV_CDC_SUBSCRIPTIONS"
)

// Store is a NATS server on a copy of a store directory, without a network. The directory itself is only read.
type Store struct {
	Bus *control.Bus

	srv    *embedded.Server
	folder string
}

// OpenStore copies what a store directory has of a subscription, its stream and the catalog, into a temporary folder, and starts a
// server there. It refuses a directory that a running server has. Where the file system can (btrfs, XFS), the copy takes no room.
func OpenStore(ctx context.Context, dir, subscription string) (s *Store, err error) {
	folder, err := os.MkdirTemp("", "cdc-store-")
	if err != nil {
		return nil, fmt.Errorf("copy store directory %s: %w", dir, err)
	}
	s = &Store{folder: folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := copyStore(ctx, dir, folder, subscription); err != nil {
		return s, fmt.Errorf("store directory %s: %w", dir, err)
	}
	if s.srv, err = embedded.Start(ctx, embedded.Options{StoreDir: folder, Log: slog.New(slog.DiscardHandler)}); err != nil {
		return s, err
	}
	s.Bus, err = control.Connect(ctx, control.Connection{Name: "cdcctl", Extra: []nats.Option{s.srv.InProcess()}})
	return s, err
}

// Close stops the server and removes the copy.
func (s *Store) Close() error {
	if s.Bus != nil {
		s.Bus.Close()
	}
	if s.srv != nil {
		s.srv.Close()
	}
	return os.RemoveAll(s.folder)
}

func inUse(who string) error {
	return fmt.Errorf("it is in use by %s. Try: without --store, and --nats with that server's URL; or stop the server, or copy the directory while it is stopped", who)
}

func copyStore(ctx context.Context, dir, to, subscription string) (err error) {
	lock, err := owner.Lock(dir, false) // also keeps a server from starting meanwhile
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, lock.Close()) }()
	case errors.Is(err, syscall.EWOULDBLOCK):
		return inUse("a running cdcd")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EROFS): // not the store of a cdcd, or nobody can write
	default:
		return err
	}
	account, err := findAccount(dir, subscription)
	if err != nil {
		return err
	}
	if pid := holder(account); pid != "" {
		return inUse("process " + pid)
	}
	for _, name := range []string{wire.StreamName(subscription), catalogStream} {
		from, into := filepath.Join(account, storeStreams, name), filepath.Join(to, storeFolder, storeAccount, storeStreams, name)
		if err := copyStream(ctx, from, into); err != nil {
			return err
		}
		if err := standAlone(into, name); err != nil {
			return err
		}
	}
	return nil
}

// findAccount is the account's folder that has the subscription's stream: dir is what a server calls its store directory, or the
// folder within.
func findAccount(dir, subscription string) (string, error) {
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	var found []string
	for _, pattern := range []string{filepath.Join(globLiteral(dir), storeFolder, "*"), filepath.Join(globLiteral(dir), "*")} {
		accounts, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, a := range accounts {
			if _, err := os.Stat(filepath.Join(a, storeStreams, wire.StreamName(subscription))); err == nil {
				found = append(found, a)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("it has no stream %s. Try: the folder that holds the folder %s; names of streams are those below %s/*/%s", wire.StreamName(subscription), storeFolder, storeFolder, storeStreams)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("several accounts have a stream %s: %s. Try: a copy with one of them", wire.StreamName(subscription), strings.Join(found, ", "))
}

// globLiteral is a path in which nothing is a pattern.
func globLiteral(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// holder is a process that has a file below a folder open, as far as this user may know; empty: there is none.
func holder(folder string) (pid string) {
	abs, err := filepath.Abs(folder)
	if err != nil {
		return ""
	}
	if resolved, err := filepath.EvalSymlinks(abs); err == nil {
		abs = resolved
	}
	open, err := filepath.Glob("/proc/[0-9]*/fd/*") // elsewhere than on Linux there are none
	if err != nil {
		return ""
	}
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, abs+string(filepath.Separator)) {
			return strings.Split(fd, "/")[2]
		}
	}
	return ""
}

// fileState tells whether a file was written.
type fileState struct {
	size int64
	at   time.Time
}

// copyStream copies a stream's folder. A file that changes meanwhile shows a server at work.
func copyStream(ctx context.Context, from, to string) error {
	before, err := filesOf(from)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it has no %s. Try: a copy of the whole directory", filepath.Base(from))
	}
	if err != nil {
		return err
	}
	if _, ok := before[storeKey]; ok {
		return errors.New("it is encrypted. Try: a server with its key on a copy, and --nats with its URL")
	}
	for name := range before {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	after, err := filesOf(from)
	if err != nil {
		return err
	}
	if !maps.Equal(before, after) {
		return inUse("a server that writes to it")
	}
	return nil
}

// standAlone makes the copy of a replicated stream one that a server alone takes: its configuration and the checksum beside it.
func standAlone(folder, stream string) error {
	path := filepath.Join(folder, storeMeta)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(raw, &meta); err != nil {
		return fmt.Errorf("stream %s: %s: %w", stream, storeMeta, err)
	}
	if string(meta["num_replicas"]) == "1" {
		return nil
	}
	meta["num_replicas"] = json.RawMessage("1")
	if raw, err = json.Marshal(meta); err != nil {
		return err
	}
	key := sha256.Sum256([]byte(stream))
	sum, err := highwayhash.New64(key[:])
	if err != nil {
		return err
	}
	if _, err := sum.Write(raw); err != nil {
		return err
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, storeSum), []byte(hex.EncodeToString(sum.Sum(nil))), 0o600)
}

// filesOf are the files below a folder, without consumers'.
func filesOf(folder string) (map[string]fileState, error) {
	files := map[string]fileState{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "obs" {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		files[name] = fileState{info.Size(), info.ModTime()}
		return err
	})
	return files, err
}

func copyFile(from, to string) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w. Try: TMPDIR with a folder that has room for a copy, on the same file system if that shares blocks", err)
	}
	return errors.Join(err, out.Close())
}
