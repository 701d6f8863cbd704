package embedded

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(dir string) Options {
	return Options{StoreDir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// What was acknowledged is there after a restart, for a client over TCP as well.
func TestKeepsWhatItAcknowledged(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	for round := range 2 {
		s, err := Start(ctx, options(dir))
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().State.LastSeq; got != uint64(round) {
			t.Errorf("round %d: %d messages", round, got)
		}
		if _, err := js.Publish(ctx, "s", nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Healthy(); err != nil {
			t.Error(err)
		}
		nc.Close()
		s.Close()
	}
}

// TestDeletedStreamIsHealthy: what is left of a deleted stream, whose files go in the background, is no fault of the
// store; a stream that is really missing is.
func TestDeletedStreamIsHealthy(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(context.Background(), options(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	streams := filepath.Join(dir, "jetstream", "$G", "streams")
	if err := os.MkdirAll(filepath.Join(streams, ".CDC_bank"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err != nil {
		t.Errorf("a stream that is being deleted: %v", err)
	}
	if err := os.Mkdir(filepath.Join(streams, "CDC_bank"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "CDC_bank' could not be recovered") {
		t.Errorf("a stream that is missing: %v", err)
	}
}

// A store that cannot be made is refused with what to do.
func TestUnusableStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "store")} {
		_, err := Start(context.Background(), options(dir))
		if err == nil || !strings.Contains(err.Error(), dir) && !strings.Contains(err.Error(), file) ||
			!strings.Contains(err.Error(), "not a directory. Try: --nats-store with a folder that this user may write to") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestOneServerPerFolder(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s, err := Start(ctx, options(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = Start(ctx, options(dir))
	if err == nil || !strings.Contains(err.Error(), "is in use by another process. Try: stop it, or another --nats-store") {
		t.Fatalf("second server: %v", err)
	}
	taken := options(t.TempDir())
	taken.Listen = strings.TrimPrefix(s.URL(), "nats://")
	if _, err := Start(ctx, taken); err == nil || !strings.Contains(err.Error(), "Try: another --nats-listen") {
		t.Fatalf("port in use: %v", err)
	}
}
