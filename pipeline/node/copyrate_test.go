package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
)

// A copy that is held back waits before it reads, not between a chunk's snapshot and its mark: what happens there has to be
// noted, and when it is too much the chunk is read again, and waits again.
func TestCopyRate(t *testing.T) {
	const rate = 8 << 10
	var mu sync.Mutex
	var read, longest time.Duration
	began := time.Now()
	c := newCopyRig(t, 1, nil)
	c.conf.At = func(_ context.Context, p copying.Point) error {
		mu.Lock()
		defer mu.Unlock()
		switch p {
		case copying.ChunkRead:
			read = time.Since(began)
		case copying.HighEmitted:
			longest = max(longest, time.Since(began)-read)
		}
		return nil
	}
	c.exec(c.shards[0], "INSERT INTO items SELECT g, repeat('x', 1000) FROM generate_series(1, 32) g")
	c.create(true, "public.items")
	catalog, err := control.OpenCatalog(c.ctx, c.bus.JS, 1)
	c.must(err)
	_, err = catalog.Change(c.ctx, "bank", func(s *control.Subscription) error { s.Copy.Rate, s.Copy.Parallel = rate, 1; return nil })
	c.must(err)
	c.node("n1")
	started := time.Now()
	c.copied()
	took := time.Since(started)
	mu.Lock()
	defer mu.Unlock()
	if least := 2 * time.Second; took < least { // 32 kB, of which 8 may come at once and 4 are on their way
		t.Errorf("%d bytes per second: it took %s, want %s at least", rate, took, least)
	}
	if most := 300 * time.Millisecond; longest > most {
		t.Errorf("between a chunk's snapshot and its mark lie %s, want %s at most", longest, most)
	}
}
