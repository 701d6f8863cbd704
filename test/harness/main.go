package harness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"shardcdc/pipeline/throwaway"
)

// Shards is how many shard servers there are.
const Shards = 3

// shared is what all tests of a package have in common.
var shared struct {
	dir     string
	cdcd    string
	natsd   string
	servers []*throwaway.Server // the last one is for targets
}

var seedFlag = flag.Uint64("seed", 0, "seed of random choices; 0: a random one, which is printed")

// CdcdEnv names the environment variable with the path of a cdcd to test.
const CdcdEnv = "CDC_TEST_CDCD"

// Main runs a package's tests; it does not return.
func Main(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("end-to-end tests are left out with -short")
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	defer func() { err = errors.Join(err, tearDown()) }()
	if err := setUp(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func setUp() (err error) {
	if shared.dir, err = os.MkdirTemp("", "cdc-e2e-"); err != nil {
		return err
	}
	if err := build(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var options []throwaway.Options
	for i := range Shards + 1 {
		name := "target"
		if i < Shards {
			name = ShardName(i)
		}
		options = append(options, throwaway.Options{Name: name, Settings: map[string]string{
			"log_min_error_statement": "panic", // transactions that give way to others are many
			"wal_sender_timeout":      "5s",    // a node that stands still keeps its slots for so long
		}})
	}
	shared.servers, err = throwaway.StartMany(ctx, options...)
	return err
}

func build() error {
	shared.cdcd, shared.natsd = os.Getenv(CdcdEnv), filepath.Join(shared.dir, "natsd")
	wanted := map[string]string{shared.natsd: "shardcdc/test/harness/natsd"}
	if shared.cdcd == "" {
		shared.cdcd = filepath.Join(shared.dir, "cdcd")
		wanted[shared.cdcd] = "shardcdc/cmd/cdcd"
	}
	for path, pkg := range wanted {
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

func tearDown() error {
	var errs []error
	for _, s := range shared.servers {
		errs = append(errs, s.Close())
	}
	if shared.dir != "" {
		errs = append(errs, os.RemoveAll(shared.dir))
	}
	return errors.Join(errs...)
}

// ShardName is the name of shard i: a, b, c.
func ShardName(i int) string { return string(rune('a' + i)) }

// Seed is the test's seed, which it logs.
func Seed(t *testing.T) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d (repeat the choices with -seed=%d)", seed, seed)
	return seed
}

// Context ends after d, or a little before the deadline of all tests, so that a failure can still be told.
func Context(t *testing.T, d time.Duration) context.Context {
	deadline := time.Now().Add(d)
	if last, ok := t.Deadline(); ok && last.Add(-10*time.Second).Before(deadline) {
		deadline = last.Add(-10 * time.Second)
	}
	ctx, cancel := context.WithDeadlineCause(context.Background(), deadline, fmt.Errorf("%s are over", d))
	t.Cleanup(cancel)
	return ctx
}

// Until waits for a condition. reason says what is still missing, for the failure.
func Until(ctx context.Context, t *testing.T, what string, met func() (ok bool, reason string)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, reason := met()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("wait until %s: %v: %s", what, context.Cause(ctx), reason)
		}
	}
}

// Cdcd is the path of the cdcd under test.
func Cdcd() string { return shared.cdcd }
