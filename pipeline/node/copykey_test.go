package node

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
)

// A key that gets a type with another order makes the copy wait: in that order other rows are behind what was copied. One with
// the same order does not.
func TestCopyKeyType(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	var published atomic.Int64
	c := newCopyRig(t, 1, nil)
	c.conf.At = func(ctx context.Context, p copying.Point) error {
		if p != copying.ChunkPublished || published.Add(1) != 3 {
			return nil
		}
		close(held)
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	}
	c.exec(c.shards[0], "INSERT INTO items SELECT g, 'old' FROM generate_series(1, 3000) g")
	c.create(true, "public.items")
	stop := c.node("n1")
	<-held
	c.exec(c.shards[0], "ALTER TABLE items ALTER id TYPE text")
	close(hold)
	waits := func(why string) {
		t.Helper()
		c.copying("it says why it waits", func(st *control.CopyStatus) bool {
			return slices.ContainsFunc(st.Waiting, func(w string) bool { return strings.Contains(w, why) })
		})
	}
	waits("its key was (id integer) and is (id text)")
	stop()
	c.node("n2")
	waits("the type or the collation of the key of table public.items")
	c.exec(c.shards[0], "ALTER TABLE items ALTER id TYPE bigint USING id::bigint")
	c.copied()
	c.captured()
	m := newReplay(t, false)
	m.run(c.rig)
	m.source(c, "items")
}
