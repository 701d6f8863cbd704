package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"shardcdc/pipeline/bank"
	"shardcdc/pipeline/throwaway"
	"shardcdc/test/harness"
)

// clocks are servers whose clocks can be set while they run: PostgreSQL with libfaketime before the C library, which looks at
// a file for the difference each time that it is asked.
type clocks struct {
	servers []*throwaway.Server
	offsets []string // files
}

// newClocks starts servers of the test's own: one with a clock to set for each shard, and a target.
func newClocks(t *testing.T) *clocks {
	t.Helper()
	libraries, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	must(t, err)
	if len(libraries) == 0 {
		cannot(t, "libfaketime is not installed. Try: apt-get install faketime")
	}
	bin, _, err := throwaway.Find()
	must(t, err)
	dir, err := os.MkdirTemp("", "cdc-clocks-") // PostgreSQL's user has to reach it
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	k := &clocks{}
	var options []throwaway.Options
	for i := range harness.Shards {
		offset := filepath.Join(dir, "offset"+harness.ShardName(i))
		k.offsets = append(k.offsets, offset)
		options = append(options, throwaway.Options{
			Name: "clock-" + harness.ShardName(i), Bin: wrap(t, bin, filepath.Join(dir, harness.ShardName(i)), libraries[0], offset),
			Settings: map[string]string{"log_min_error_statement": "panic", "wal_sender_timeout": "5s"},
		})
		k.set(t, i, 0)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	k.servers, err = throwaway.StartMany(ctx, append(options, throwaway.Options{Name: "target"})...)
	must(t, err)
	t.Cleanup(func() {
		for _, s := range k.servers {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return k
}

// wrap makes a folder of PostgreSQL's programs whose postgres has a clock that is off by what the file says.
func wrap(t *testing.T, bin, dir, library, offset string) string {
	t.Helper()
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Symlink(filepath.Join(bin, "initdb"), filepath.Join(dir, "initdb")))
	script := fmt.Sprintf(`#!/bin/sh
export LD_PRELOAD='%s' FAKETIME_TIMESTAMP_FILE='%s' FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1 NO_FAKE_STAT=1
exec '%s' "$@"
`, library, offset, filepath.Join(bin, "postgres"))
	must(t, os.WriteFile(filepath.Join(dir, "postgres"), []byte(script), 0o755))
	return dir
}

// set sets a shard's clock, as far off the true time.
func (k *clocks) set(t *testing.T, shard int, off time.Duration) {
	t.Helper()
	next := k.offsets[shard] + ".next"
	must(t, os.WriteFile(next, []byte(fmt.Sprintf("%+.3f\n", off.Seconds())), 0o644))
	must(t, os.Chmod(next, 0o644))
	must(t, os.Rename(next, k.offsets[shard]))
}

// Clocks that step forth and back under load, by less than max_clock_skew: the order holds, and a transaction is late by
// what the clocks differ at most.
func TestClocksWithin(t *testing.T) {
	whole(t)
	k := newClocks(t)
	c := harness.New(t, harness.Options{Servers: k.servers, Limit: 3 * time.Minute})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{AbandonEvery: 100, InDoubt: time.Second})
	b.Progressed()
	for _, step := range [][]time.Duration{
		{1500 * time.Millisecond, 0, 0},
		{0, 0, 0},
		{0, -1500 * time.Millisecond, 1500 * time.Millisecond},
		{0, 1500 * time.Millisecond, -1500 * time.Millisecond},
		{-2 * time.Second, 2 * time.Second, 0},
		{0, 0, 0},
	} {
		for i, off := range step {
			k.set(t, i, off)
		}
		b.Committed(200)
		goesOn(t, b, fmt.Sprintf("clocks off by %v", step))
	}
	if st, _ := c.Capture(); st.State != "running" {
		t.Fatalf("the capture is %s: %s", st.State, st.Error)
	}
	c.Finish(b)
}

// A clock steps beyond max_clock_skew, forth or back: the capture stops and says between which shards, and goes on when the
// clock is right again. What was committed with a time of the future waits until then.
func TestClocksBeyond(t *testing.T) {
	whole(t)
	for _, off := range []time.Duration{12 * time.Second, -12 * time.Second, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			k := newClocks(t)
			c := harness.New(t, harness.Options{Servers: k.servers, Limit: 3 * time.Minute})
			c.Node("node")
			c.Apply()
			everywhere := func(first int) {
				for i := range 30 {
					insert(t, c, i%3, first+i)
				}
			}
			everywhere(0)
			c.WaitApplied()
			k.set(t, 1, off)
			everywhere(100)
			c.CaptureFails("the clocks of shards", "more than max_clock_skew 5s", "Try: synchronise them (NTP)")
			everywhere(200)
			k.set(t, 1, 0)
			everywhere(300)
			c.WaitApplied()
			c.Equal()
			c.Audit()
		})
	}
}

// The same with distributed transactions on the way while the clock is wrong.
func TestClocksBeyondDistributed(t *testing.T) {
	whole(t)
	for _, off := range []time.Duration{12 * time.Second, -12 * time.Second, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			k := newClocks(t)
			c := harness.New(t, harness.Options{Servers: k.servers, Limit: 3 * time.Minute})
			c.Node("node")
			c.Apply()
			b := c.OpenBank(bank.Config{})
			b.Progressed()
			k.set(t, 1, off)
			c.CaptureFails("the clocks of shards", "more than max_clock_skew 5s", "Try: synchronise them (NTP)")
			b.Committed(100)
			k.set(t, 1, 0)
			goesOn(t, b, "clock mended")
			c.Finish(b)
		})
	}
}

// A clock an hour ahead: the stop is loud; when the clock is right again everything goes on at once, also what was committed
// in that hour's name.
func TestClockAnHourAhead(t *testing.T) {
	whole(t)
	k := newClocks(t)
	c := harness.New(t, harness.Options{Servers: k.servers})
	c.Node("node")
	c.Apply()
	b := c.OpenBank(bank.Config{})
	b.Progressed()
	k.set(t, 1, time.Hour)
	c.CaptureFails("the clocks of shards", "more than max_clock_skew 5s", "Try: synchronise them (NTP)")
	k.set(t, 1, 0)
	goesOn(t, b, "clock mended")
	c.Finish(b)
}
