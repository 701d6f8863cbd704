package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/throwaway"
)

// Every version that is in the cache starts and decodes; a test does not fetch.
func TestVersionsStart(t *testing.T) {
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, major := range Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			bin, ok := cached(cache, major)
			if !ok {
				t.Skipf("not in the cache. Try: go run ./test/versions %d", major)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, err := throwaway.Start(ctx, throwaway.Options{Dir: t.TempDir(), Bin: bin, Log: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			if s.Version() != major {
				t.Errorf("version %d, want %d", s.Version(), major)
			}
			conn, err := pgx.Connect(ctx, s.DSN())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(ctx)
			// pgoutput, a library of its own, is loaded by this; initdb has shown that the rest works.
			if _, err := conn.Exec(ctx, `SELECT pg_create_logical_replication_slot('s', 'pgoutput', false, true)`); err != nil {
				t.Fatal(err)
			}
			var twoPhase bool
			if err := conn.QueryRow(ctx, `SELECT two_phase FROM pg_replication_slots WHERE slot_name = 's'`).Scan(&twoPhase); err != nil || !twoPhase {
				t.Errorf("two-phase slot: %t, %v", twoPhase, err)
			}
		})
	}
}

func archiveOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		name, content := files[i], files[i+1]
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	err := unpack(archiveOf(t,
		"package/package.json", "{}",
		"package/native/bin/postgres", "program",
		"package/native/lib/libpq.so.5.17", "library",
		"package/native/pg-symlinks.json", `[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`,
	), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"bin/postgres": {"program", 0o755}, "lib/libpq.so.5.17": {"library", 0o644}, "lib/libpq.so.5": {"library", 0o644},
	} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(content) != want.content {
			t.Errorf("%s holds %q, %v", name, content, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().Perm() != want.mode {
			t.Errorf("%s has mode %s, want %s", name, info.Mode(), want.mode)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "lib/libpq.so.5")); err != nil || to != "libpq.so.5.17" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "package.json")); err == nil {
		t.Error("a file outside of native was unpacked")
	}
}

func TestUnpackRefuses(t *testing.T) {
	for want, archive := range map[string][]byte{
		`"../x" leads out`:          archiveOf(t, "package/native/../x", ""),
		"pg-symlinks.json":          archiveOf(t, "package/native/bin/postgres", ""),
		`"native/../../y" to`:       archiveOf(t, "package/native/pg-symlinks.json", `[{"source":"native/a","target":"native/../../y"}]`),
		`to "/etc/passwd" leads`:    archiveOf(t, "package/native/pg-symlinks.json", `[{"source":"/etc/passwd","target":"native/x"}]`),
		"gzip: invalid header":      []byte("this is no archive"),
		"unexpected end of JSON in": archiveOf(t, "package/native/pg-symlinks.json", "["),
	} {
		if err := unpack(archive, filepath.Join(t.TempDir(), "tree")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestVerify(t *testing.T) {
	const empty = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
	if err := verify(nil, release{"1", empty}); err != nil {
		t.Error(err)
	}
	if err := verify([]byte{0}, release{"1", empty}); err == nil || !strings.Contains(err.Error(), "not what was tested") {
		t.Errorf("a changed archive: %v", err)
	}
}

func TestTemporaryCache(t *testing.T) {
	temp := t.TempDir()
	dir, err := temporaryCache(temp)
	if again, errAgain := temporaryCache(temp); err != nil || errAgain != nil || again != dir {
		t.Fatalf("%s %v, %s %v", dir, err, again, errAgain)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := temporaryCache(temp); err == nil || !strings.Contains(err.Error(), "Try: remove it") {
		t.Errorf("a folder that everybody may write to: %v", err)
	}
}

func TestFetchUnknown(t *testing.T) {
	if _, err := fetch(t.TempDir(), 9); err == nil || !strings.Contains(err.Error(), "[16 17 18]") {
		t.Error(err)
	}
}
