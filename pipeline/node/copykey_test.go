package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

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
	c.replayed(newReplay(t, false), "items")
}

// A copy comes to its end while rows get other keys all the time, one after the other.
func TestCopyEndsWhileKeysChange(t *testing.T) {
	c := newCopyRig(t, 1, nil)
	c.create(false, "public.items")
	c.node("n1")
	const rows = 5000
	c.exec(c.shards[0], fmt.Sprintf("INSERT INTO items SELECT g, 'old' FROM generate_series(1, %d) g", rows))
	ctx, cancel := context.WithCancel(c.ctx)
	var all sync.WaitGroup
	for w := range 2 {
		conn, err := pgx.Connect(c.ctx, c.dsns[0]+"&synchronous_commit=off")
		c.must(err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		all.Go(func() {
			for id := w; ctx.Err() == nil; id += 2 {
				_, err := conn.Exec(context.Background(), "UPDATE items SET id = -id WHERE id IN (1 + $1::int % $2, -1 - $1::int % $2)", id, rows)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	c.order(control.CopyResync, "items")
	c.copied()
	cancel()
	all.Wait()
	m := c.replayed(newReplay(t, true), "items")
	m.accounts(c)
}
