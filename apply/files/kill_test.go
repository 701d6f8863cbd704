package files

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The child of TestKilled is this test's own program.
const childFolder = "SHARDCDC_FILES_CHILD"

func TestMain(m *testing.M) {
	if folder := os.Getenv(childFolder); folder != "" {
		if err := child(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const killedGroups = 600

func killedHistory() history { return newHistory(rand.New(rand.NewPCG(42, 42)), killedGroups) }

// child applies what is left, and says how many groups are in.
func child(folder string) error {
	target, err := New(Config{
		Folder: folder, Subscription: "s", Format: "sql", Head: testHead, Encoder: func([]Copying) Encoder { return lines{} }, RotateBytes: 2000,
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := target.Open(ctx)
	if err != nil {
		return err
	}
	p, err := s.Progress(ctx)
	if err != nil {
		return err
	}
	h := killedHistory()
	n, err := h.reached(p)
	if err != nil {
		return err
	}
	fmt.Println(n)
	for _, g := range h[n:] {
		if err := s.Apply(ctx, g); err != nil {
			return err
		}
		n++
		fmt.Println(n)
	}
	return nil
}

// TestKilled kills a real process again and again. What it said is in the folder, and everything is there once.
func TestKilled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	folder := filepath.Join(t.TempDir(), "out")
	acked, kills := 0, 0
	for acked < killedGroups {
		acked = killChild(t, folder, acked, rng.IntN(40))
		kills++
	}
	if kills < 10 {
		t.Errorf("%d runs only", kills)
	}
	indexes, err := filepath.Glob(filepath.Join(folder, "*.index"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range indexes {
		b, err := os.ReadFile(strings.TrimSuffix(name, ".index") + ".sql")
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.TrimPrefix(string(b), testHead))
	}
	if all.String() != killedHistory().text(killedGroups) {
		t.Errorf("the files hold other transactions than the stream")
	}
	if len(indexes) < 5 {
		t.Errorf("%d files: nothing was rotated", len(indexes))
	}
}

// killChild runs it until it has said so much more, and kills it. It returns what it said last.
func killChild(t *testing.T, folder string, acked, more int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFolder+"="+folder)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	for said := 0; lines.Scan(); said++ {
		n, err := strconv.Atoi(lines.Text())
		if err != nil || n < acked {
			t.Fatalf("the child says %q, %v; %d groups were acknowledged", lines.Text(), err, acked)
		}
		acked = n
		if said == more {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out)
			return acked
		}
	}
	return acked
}
