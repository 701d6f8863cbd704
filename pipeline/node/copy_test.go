package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

// crash is an engine that dies at a point, once, when it has come there so often.
type crash struct {
	mu    sync.Mutex
	point copying.Point
	left  int
	died  int
}

var errCrash = errors.New("the process dies here")

func (k *crash) set(p copying.Point, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.point, k.left, k.died = p, n, 0
}

func (k *crash) at(_ context.Context, p copying.Point) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p != k.point || k.left == 0 {
		return nil
	}
	if k.left--; k.left > 0 {
		return nil
	}
	k.died++
	return errCrash
}

// A copy goes on after its node died, wherever that was: nothing is missing, and no chunk comes twice.
func TestCopySurvives(t *testing.T) {
	var k crash
	c := newCopyRig(t, 2, func(c *copyRig) { c.conf.At = k.at })
	c.create(false, "public.*")
	c.node("n1")
	c.fill()
	stop := c.load(3)
	r := rand.New(rand.NewPCG(c.seed, 0))
	jobs := 0
	again := func(p copying.Point, n int) (died bool) {
		k.set(p, n)
		c.order(control.CopyResync, "items", "pairs", "plain")
		c.copied()
		jobs++
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.died > 0
	}
	for _, p := range copying.Points {
		if p == copying.TablesJoined { // no table joins here
			continue
		}
		n := 1
		switch p {
		case copying.ChunkRead, copying.HighEmitted, copying.ChunkFolded, copying.ChunkIntended, copying.ChunkPublished:
			n += r.IntN(20) // tables that the load just truncated have fewer chunks: then the first one
		case copying.LedgerMade, copying.AgainWritten:
			n += r.IntN(3)
		}
		if !again(p, n) && !again(p, 1) && p != copying.AgainWritten { // for that one there has to be luck
			t.Errorf("seed %d: it never came to: %s", c.seed, p)
		}
	}
	stop()
	m := c.replayed(newReplay(t, true, "public.plain"), "items", "pairs", "plain")
	m.accounts(c)
	if m.ended != jobs {
		t.Errorf("%d copies ended, want %d", m.ended, jobs)
	}
}

// An initial copy goes on, too, from a new stream whose first transaction it is.
func TestInitialCopySurvives(t *testing.T) {
	for _, p := range []copying.Point{copying.BeginIntended, copying.BeginPublished, copying.ChunkPublished, copying.EndPublished} {
		t.Run(string(p), func(t *testing.T) {
			var k crash
			k.set(p, 1)
			c := newCopyRig(t, 2, func(c *copyRig) { c.conf.At = k.at })
			c.fill()
			stop := c.load(2)
			c.create(true, "public.*")
			c.node("n1")
			c.copied()
			stop()
			m := c.replayed(newReplay(t, false, "public.plain"), "items", "pairs", "plain")
			m.accounts(c)
			if k.died != 1 {
				t.Errorf("it died %d times", k.died)
			}
		})
	}
}

// A node that was shut out in the middle of a chunk, and does not know it, changes nothing any more.
func TestCopyShutsOut(t *testing.T) {
	for _, at := range []copying.Point{copying.ChunkFolded, copying.ChunkIntended} {
		t.Run(string(at), func(t *testing.T) {
			stuck, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			c := newCopyRig(t, 2, nil)
			c.conf.At = func(_ context.Context, p copying.Point) error {
				if p == at {
					once.Do(func() { close(stuck); <-release })
				}
				return nil
			}
			c.create(false, "public.*")
			stop := c.node("n1")
			c.fill()
			c.order(control.CopyResync, "items", "pairs", "plain")
			<-stuck
			leases, err := c.bus.JS.KeyValue(c.ctx, "CDC_LEASES")
			c.must(err)
			c.must(leases.Purge(c.ctx, "capture.bank"))
			c.conf.At = nil
			c.node("n2")
			c.copied()
			close(release)
			stop()
			m := c.replayed(newReplay(t, true, "public.plain"), "items", "pairs", "plain")
			m.accounts(c)
		})
	}
}

// More rows get another key than a ledger can hold: the table begins anew.
func TestCopyOfRowsThatMove(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	var emitted atomic.Int64
	c := newCopyRig(t, 1, nil)
	c.conf.At = func(ctx context.Context, p copying.Point) error {
		if p != copying.ChunkRead || emitted.Add(1) < 5 {
			return nil
		}
		if emitted.Load() == 5 {
			close(held)
		}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	}
	c.create(false, "public.*")
	c.node("n1")
	c.exec(c.shards[0], "INSERT INTO items SELECT g, 'old' FROM generate_series(1, 6000) g")
	c.order(control.CopyResync, "items")
	<-held
	c.exec(c.shards[0], "UPDATE items SET id = -id")
	close(hold)
	c.copied()
	m := c.replayed(newReplay(t, true), "items")
	if m.rows < 6000 {
		t.Errorf("%d rows were copied", m.rows)
	}
}

// copying waits until the status of the copy is as wanted.
func (c *copyRig) copying(what string, ok func(*control.CopyStatus) bool) {
	c.t.Helper()
	pausetest.Until(c.ctx, c.t, what, func() bool {
		st, err := control.AskCapture(c.ctx, c.bus.NC, "bank")
		return err == nil && st.Copy != nil && ok(st.Copy)
	})
}

// half commits a transaction of both shards on the first one: it is in the stream, and on the second one nobody sees it.
func (c *copyRig) half(gid string, sql ...string) {
	c.t.Helper()
	for i, s := range sql {
		c.exec(c.shards[i], "BEGIN; "+s+"; PREPARE TRANSACTION '"+gid+"'")
	}
	c.exec(c.shards[0], "COMMIT PREPARED '"+gid+"'")
	c.captured()
}

// What is in the stream and not visible on a shard yet is not missed: neither what was there before the copy began, nor a row
// that gets another key meanwhile.
func TestCopyInDoubt(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c := newCopyRig(t, 2, nil)
	c.conf.At = func(ctx context.Context, p copying.Point) error {
		if p == copying.ChunkRead {
			once.Do(func() { close(held) })
			select {
			case <-hold:
			case <-ctx.Done():
			}
		}
		return nil
	}
	c.create(false, "public.items")
	c.node("n1")
	c.exec(c.shards[1], "INSERT INTO items SELECT g, 'old' FROM generate_series(1, 20) g")
	c.half("before", "INSERT INTO items VALUES (100, 'x')", "INSERT INTO items VALUES (101, 'y'); UPDATE items SET note = 'new' WHERE id = 1; DELETE FROM items WHERE id = 2")
	c.order(control.CopyResync, "items")
	c.copying("it says for whom it waits", func(st *control.CopyStatus) bool {
		return slices.ContainsFunc(st.Waiting, func(w string) bool { return strings.Contains(w, "shard b") && strings.Contains(w, "'before'") })
	})
	c.exec(c.shards[1], "COMMIT PREPARED 'before'")
	<-held
	c.half("meanwhile", "UPDATE items SET note = 'z' WHERE id = 100", "UPDATE items SET id = -3, note = 'moved' WHERE id = 3")
	close(hold)
	c.copying("only the row with another key is left", func(st *control.CopyStatus) bool {
		return st.CurrentIndex == 1 && st.Tables[0].Rows >= 21 && st.Tables[0].Again == 2
	})
	c.exec(c.shards[1], "COMMIT PREPARED 'meanwhile'")
	c.copied()
	m := c.replayed(newReplay(t, true), "items")
	m.accounts(c)
}

// Tables join under load, with the rows that they have, and the process dies in between.
func TestTablesJoin(t *testing.T) {
	var k crash
	k.set(copying.TablesJoined, 1)
	c := newCopyRig(t, 2, func(c *copyRig) { c.conf.At = k.at })
	c.create(false, "public.items")
	c.node("n1")
	c.fill()
	stop := c.load(4)
	c.captured()
	_, _, err := subscribe.AddTables(c.ctx, c.bus, subscribe.TablesSpec{Subscription: "bank", Tables: []string{"public.p*"}, CopyData: true, TargetRows: mark.TargetFail})
	c.must(err)
	c.copied()
	stop()
	m := c.replayed(newReplay(t, false, "public.plain"), "items", "pairs", "plain")
	m.accounts(c)
	if k.died != 1 {
		t.Errorf("it died %d times", k.died)
	}
}

// A table that leaves while it is being copied ends its copy; one that is dropped on a shard, too.
func TestTablesLeaveACopy(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c := newCopyRig(t, 2, func(c *copyRig) {
		c.conf.At = func(ctx context.Context, p copying.Point) error {
			if p != copying.ChunkRead {
				return nil
			}
			once.Do(func() { close(held) })
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return nil
		}
	})
	c.fill()
	c.create(true, "public.*")
	c.node("n1")
	<-held
	_, err := subscribe.RemoveTables(c.ctx, c.bus, subscribe.TablesSpec{Subscription: "bank", Tables: []string{"public.pairs"}})
	c.must(err)
	c.exec(c.shards[0], "DROP TABLE plain")
	close(hold)
	c.copied()
	c.replayed(newReplay(t, false, "public.plain"), "items")
}

// A shard that restarts in the middle makes the copy wait; nothing fails.
func TestCopyOverRestart(t *testing.T) {
	emitted := make(chan struct{}, 1000)
	c := newCopyRig(t, 2, func(c *copyRig) {
		c.conf.At = func(_ context.Context, p copying.Point) error {
			if p == copying.HighEmitted {
				emitted <- struct{}{}
			}
			return nil
		}
	})
	c.create(false, "public.*")
	c.node("n1")
	c.fill()
	c.captured()
	for _, s := range c.servers {
		c.order(control.CopyResync, "items", "pairs", "plain")
		<-emitted
		c.must(s.Stop(c.ctx, throwaway.Immediate))
		c.must(s.Start(c.ctx))
		c.copied()
		for len(emitted) > 0 {
			<-emitted
		}
	}
	for i, dsn := range c.dsns {
		var err error
		c.shards[i], err = pgx.Connect(c.ctx, dsn)
		c.must(err)
		t.Cleanup(func() { _ = c.shards[i].Close(context.Background()) })
	}
	m := c.replayed(newReplay(t, true, "public.plain"), "items", "pairs", "plain")
	m.accounts(c)
}

// A new table that matches is shown, or joins by itself.
func TestNewTables(t *testing.T) {
	c := newCopyRig(t, 2, nil)
	c.create(false, "public.*", "-public.other")
	c.node("n1")
	for _, conn := range c.shards {
		c.exec(conn, "CREATE TABLE fresh (id int PRIMARY KEY, v text); CREATE TABLE nokey (id int); CREATE TABLE other (id int PRIMARY KEY); INSERT INTO fresh SELECT g, 'v' FROM generate_series(1, 10) g")
	}
	pausetest.Until(c.ctx, t, "the new table is shown", func() bool {
		st, err := control.AskCapture(c.ctx, c.bus.NC, "bank")
		return err == nil && len(st.NewTables) == 2 && st.NewTables[0] == "public.fresh" && strings.HasPrefix(st.NewTables[1], "public.nokey: ")
	})
	catalog, err := control.OpenCatalog(c.ctx, c.bus.JS, 1)
	c.must(err)
	_, err = catalog.Change(c.ctx, "bank", func(s *control.Subscription) error { s.FollowNewTables = true; return nil })
	c.must(err)
	c.copied()
	c.exec(c.shards[1], "UPDATE fresh SET v = 'w' WHERE id = 3")
	c.replayed(newReplay(t, false), "fresh")
}

// Tables are copied anew, again and again, under load. They were empty when the stream began, so the stream itself tells what
// each row is at each place.
func TestCopyIsExact(t *testing.T) {
	c := newCopyRig(t, 2, nil)
	c.create(false, "public.*")
	c.node("n1")
	c.fill()
	stop := c.load(4)
	for range 3 {
		c.order(control.CopyResync, "items", "pairs", "plain")
		c.copied()
	}
	stop()
	m := c.replayed(newReplay(t, true, "public.plain"), "items", "pairs", "plain")
	m.accounts(c)
	if m.ended != 3 {
		t.Fatalf("%d copies ended, want 3", m.ended)
	}
	t.Logf("%d changes, %d rows copied in %d chunks", m.changes, m.rows, len(m.chunks))
}

// What the tables held before the stream began is in it, too.
func TestInitialCopy(t *testing.T) {
	c := newCopyRig(t, 3, nil)
	c.fill()
	stop := c.load(4)
	c.create(true, "public.*")
	c.node("n1")
	c.copied()
	stop()
	m := c.replayed(newReplay(t, false, "public.plain"), "items", "pairs", "plain")
	jobs, err := c.copies().Jobs(c.ctx, "bank")
	c.must(err)
	if j := jobs[0]; j.BeginCSN != 1 || j.EndCSN < 2 || len(j.Tables) != 3 {
		t.Fatalf("%+v", j)
	}
	st, err := control.AskCapture(c.ctx, c.bus.NC, "bank")
	c.must(err)
	if st.Copy == nil || st.Copy.State != control.CopyDone || st.Copy.SyncPercent != 100 || st.Copy.TotalIndex != 9 || st.Copy.CurrentIndex != 9 || st.Copy.ConsistentFrom != jobs[0].EndCSN {
		t.Fatalf("status %+v", st.Copy)
	}
	t.Logf("%d changes, %d rows copied in %d chunks", m.changes, m.rows, len(m.chunks))
}
