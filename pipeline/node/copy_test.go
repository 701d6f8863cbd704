package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/embedded/natstest"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pause"
	"shardcdc/pipeline/pause/pausetest"
	"shardcdc/pipeline/subscribe"
	"shardcdc/pipeline/throwaway"
)

const copySchema = `CREATE TABLE items (id int PRIMARY KEY, note text, big text);
CREATE TABLE pairs (a text COLLATE "C", b int, n int, PRIMARY KEY (a, b));
CREATE TABLE plain (a int, b text);
ALTER TABLE plain REPLICA IDENTITY FULL`

// copyRig is shards with tables to copy, and no target: what a target would have is replayed from the stream.
type copyRig struct {
	*rig
	servers []*throwaway.Server
	dsns    []string
	seed    uint64
	conf    copying.Config
}

func newCopyRig(t *testing.T, shards int, prepare func(*copyRig)) *copyRig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	log, seed := slog.New(slog.NewTextHandler(t.Output(), nil)), rand.Uint64()
	t.Logf("seed %d", seed)
	c := &copyRig{rig: &rig{t: t, ctx: ctx, bus: natstest.Bus(t), log: log}, seed: seed}
	servers, err := throwaway.StartMany(ctx, make([]throwaway.Options, shards)...)
	c.must(err)
	c.servers = servers
	for _, s := range servers {
		t.Cleanup(func() { _ = s.Close() })
		conn, err := pgx.Connect(ctx, s.DSN())
		c.must(err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		c.exec(conn, copySchema)
		c.shards, c.dsns = append(c.shards, conn), append(c.dsns, s.DSN())
	}
	c.conf = copying.Config{ChunkBytes: 4 << 10, RetryAfter: 100 * time.Millisecond, NewTablesEvery: 100 * time.Millisecond}
	if prepare != nil {
		prepare(c)
	}
	return c
}

// create makes the subscription.
func (c *copyRig) create(copyData bool, tables ...string) {
	c.t.Helper()
	spec := subscribe.Spec{Name: "bank", Tables: tables, CopyData: copyData, TargetRows: mark.TargetTruncate}
	for i, dsn := range c.dsns {
		spec.Shards = append(spec.Shards, subscribe.Shard{Name: string(rune('a' + i)), DSN: dsn})
	}
	var err error
	c.sub, _, err = subscribe.Create(c.ctx, c.bus, spec)
	c.must(err)
}

// node runs a node; the returned function stops it and waits.
func (c *copyRig) node(name string) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	n, err := New(ctx, c.bus, Config{Name: name, Durability: DurableAcks, LeaseTTL: time.Second, Heartbeat: 100 * time.Millisecond, SpillDir: c.t.TempDir(), Log: c.log.With("node", name), RetryMax: 300 * time.Millisecond, copying: c.conf})
	c.must(err)
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	stop = func() { cancel(); <-done }
	c.t.Cleanup(stop)
	return stop
}

func (c *copyRig) copies() *control.Copies {
	c.t.Helper()
	copies, err := control.OpenCopies(c.ctx, c.bus.JS, 1)
	c.must(err)
	return copies
}

// order asks for a copy.
func (c *copyRig) order(kind control.CopyKind, tables ...string) (job string) {
	c.t.Helper()
	var names []control.CopyTableName
	for _, t := range tables {
		names = append(names, control.CopyTableName{Schema: "public", Name: t})
	}
	j := control.NewCopyJob(kind, names, mark.TargetTruncate, "test")
	c.must(c.copies().PutJob(c.ctx, "bank", j))
	return j.ID
}

// copied waits until every job is done.
func (c *copyRig) copied() {
	c.t.Helper()
	copies := c.copies()
	defer context.AfterFunc(c.ctx, func() { // in vain
		st, err := control.AskCapture(context.Background(), c.bus.NC, "bank")
		text, _ := json.MarshalIndent(st, "", " ")
		c.t.Logf("%s\n%v", text, err)
	})()
	pausetest.Until(c.ctx, c.t, "the copy is done", func() bool {
		jobs, err := copies.Jobs(c.ctx, "bank")
		c.must(err)
		for _, j := range jobs {
			if j.State != control.CopyDone {
				return false
			}
		}
		return len(jobs) > 0
	})
}

// load makes traffic until the returned function is called, which waits for its end: rows come, change, get other keys and
// go, on each shard and in two-phase transactions whose second phases take their time.
func (c *copyRig) load(workers int) (stop func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			t := &traffic{ctx: ctx, rand: rand.New(rand.NewPCG(c.seed, uint64(w))), worker: w}
			for _, dsn := range c.dsns {
				conn, err := pgx.Connect(c.ctx, dsn+"&lock_timeout=300")
				if err != nil {
					c.t.Error(err)
					return
				}
				defer func() { _ = conn.Close(context.Background()) }()
				t.conns = append(t.conns, conn)
			}
			for n := 0; ctx.Err() == nil; n++ {
				t.one(n)
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

type traffic struct {
	ctx    context.Context
	rand   *rand.Rand
	worker int
	conns  []*pgx.Conn
}

const copyKeys = 400

func (t *traffic) key() int { return t.rand.IntN(copyKeys) }

// statement is one on a table, with keys of the shard's own.
func (t *traffic) statement(shard, shards int) string {
	id := func() int { return t.key()*shards + shard }
	switch t.rand.IntN(12) {
	case 0, 1:
		return fmt.Sprintf("INSERT INTO items VALUES (%d, 'new %d', repeat('x', %d)) ON CONFLICT DO NOTHING", id(), t.rand.IntN(1000), t.rand.IntN(6000))
	case 2:
		return fmt.Sprintf("UPDATE items SET note = 'changed %d' WHERE id = %d", t.rand.IntN(1000), id())
	case 3, 4: // a row moves
		return fmt.Sprintf("UPDATE items SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM items WHERE id = %[1]d)", id(), id())
	case 5:
		return fmt.Sprintf("DELETE FROM items WHERE id = %d", id())
	case 6:
		return fmt.Sprintf("INSERT INTO pairs VALUES ('s%d', %d, 1) ON CONFLICT (a, b) DO UPDATE SET n = pairs.n + 1", shard, t.key())
	case 7:
		return fmt.Sprintf("UPDATE pairs SET b = b + %d WHERE a = 's%d' AND b = %d AND NOT EXISTS (SELECT FROM pairs p WHERE p.a = 's%[2]d' AND p.b = %[3]d + %[1]d)", 1+t.rand.IntN(50), shard, t.key())
	case 8:
		return fmt.Sprintf("INSERT INTO plain VALUES (%d, repeat('y', %d))", t.key(), t.rand.IntN(3000))
	case 9:
		return fmt.Sprintf("UPDATE plain SET a = a + 1 WHERE ctid = (SELECT min(ctid) FROM plain WHERE a >= %d)", t.key())
	case 10:
		return fmt.Sprintf("DELETE FROM plain WHERE ctid = (SELECT min(ctid) FROM plain WHERE a = %d)", t.key())
	}
	return fmt.Sprintf("UPDATE items SET big = repeat('z', %d) WHERE id = %d", t.rand.IntN(9000), id())
}

// one is a transaction. What fails (another one has the row, or just made it) is undone.
func (t *traffic) one(n int) {
	shard := t.rand.IntN(len(t.conns))
	two := len(t.conns) > 1 && t.rand.IntN(3) == 0
	on := []int{shard}
	if two {
		on = append(on, (shard+1)%len(t.conns))
	}
	gid := fmt.Sprintf("w%d.%d", t.worker, n)
	prepared := 0
	for _, s := range on {
		sql := "BEGIN;"
		if t.rand.IntN(150) == 0 {
			sql += "TRUNCATE " + []string{"items", "plain"}[t.rand.IntN(2)] + ";"
		}
		for range 1 + t.rand.IntN(3) {
			sql += t.statement(s, len(t.conns)) + ";"
		}
		end := "COMMIT"
		if two {
			end = "PREPARE TRANSACTION '" + gid + "'"
		}
		if _, err := t.conns[s].Exec(context.Background(), sql+end); err != nil {
			_, _ = t.conns[s].Exec(context.Background(), "ROLLBACK")
			break
		}
		prepared++
	}
	if !two {
		return
	}
	second := "COMMIT PREPARED '"
	if prepared < 2 || t.rand.IntN(8) == 0 {
		second = "ROLLBACK PREPARED '"
	}
	for _, s := range on[:prepared] {
		_ = pause.For(t.ctx, time.Duration(t.rand.IntN(60))*time.Millisecond)
		_, _ = t.conns[s].Exec(context.Background(), second+gid+"'")
	}
}

// fill puts rows everywhere.
func (c *copyRig) fill() {
	for i, conn := range c.shards {
		c.exec(conn, fmt.Sprintf("INSERT INTO items SELECT g * %d + %d, 'old', repeat('o', g %% 2500) FROM generate_series(0, %d, 2) g", len(c.shards), i, copyKeys))
		c.exec(conn, fmt.Sprintf("INSERT INTO pairs SELECT 's%d', g, 0 FROM generate_series(0, %d, 3) g", i, copyKeys))
		c.exec(conn, fmt.Sprintf("INSERT INTO plain SELECT g, 'old' FROM generate_series(0, %d, 2) g", copyKeys))
	}
}

// source compares what the replay has in the end with the shards.
func (m *replay) source(c *copyRig, tables ...string) {
	c.t.Helper()
	for i, conn := range c.shards {
		for _, table := range tables {
			want := map[string]row{}
			rows, err := conn.Query(c.ctx, "SELECT * FROM "+table, pgx.QueryResultFormats{0})
			c.must(err)
			for rows.Next() {
				var values []string
				for _, v := range rows.RawValues() {
					if v == nil {
						values = append(values, "NULL")
					} else {
						values = append(values, "="+string(v))
					}
				}
				if m.keyless["public."+table] {
					add(want, values, 1)
				} else if table == "pairs" {
					want[values[0]+"|"+values[1]] = row{values, 1}
				} else {
					want[values[0]] = row{values, 1}
				}
			}
			c.must(rows.Err())
			if d := difference(want, m.target.of(pipeline.ShardID(i), "public."+table)); d != "" {
				c.t.Fatalf("seed %d: in the end table %s of shard %d is another one: %s", c.seed, table, i, d)
			}
		}
	}
}

// accounts compares the chunks in the stream with those in the ledgers: what is done is done once.
func (m *replay) accounts(c *copyRig) {
	c.t.Helper()
	copies := c.copies()
	jobs, err := copies.Jobs(c.ctx, "bank")
	c.must(err)
	for _, j := range jobs {
		ledgers, err := copies.Tables(c.ctx, "bank", j.ID)
		c.must(err)
		want, got := 0, 0
		for _, l := range ledgers {
			want += l.Chunks
			if !l.Done || l.Intent != nil || len(l.Redo) > 0 {
				c.t.Errorf("seed %d: the ledger of a job that is done: %+v", c.seed, l)
			}
		}
		for _, job := range m.chunks {
			if job == j.ID {
				got++
			}
		}
		if got != want || got == 0 {
			c.t.Errorf("seed %d: %d chunks of job %s are in the stream, and %d in its ledgers", c.seed, got, j.ID, want)
		}
	}
}

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
	for _, p := range copying.Points {
		if p == copying.TablesJoined { // no table joins here
			continue
		}
		n := 1
		switch p {
		case copying.ChunkRead, copying.HighEmitted, copying.ChunkIntended, copying.ChunkPublished:
			n += r.IntN(20)
		case copying.LedgerMade, copying.AgainWritten:
			n += r.IntN(3)
		}
		k.set(p, n)
		c.order(control.CopyResync, "items", "pairs", "plain")
		c.copied()
		k.mu.Lock()
		if k.died == 0 && p != copying.AgainWritten { // for that one there has to be luck
			t.Errorf("seed %d: it never came to: %s", c.seed, p)
		}
		k.mu.Unlock()
	}
	stop()
	c.captured()
	m := newReplay(t, true, "public.plain")
	m.run(c.rig)
	m.source(c, "items", "pairs", "plain")
	m.accounts(c)
	if want := len(copying.Points) - 1; m.ended != want {
		t.Errorf("%d copies ended, want %d", m.ended, want)
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
			c.captured()
			m := newReplay(t, false, "public.plain")
			m.run(c.rig)
			m.source(c, "items", "pairs", "plain")
			m.accounts(c)
			if k.died != 1 {
				t.Errorf("it died %d times", k.died)
			}
		})
	}
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
	c.captured()
	m := newReplay(t, false, "public.plain")
	m.run(c.rig)
	m.source(c, "items", "pairs", "plain")
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
	c.captured()
	m := newReplay(t, false, "public.plain")
	m.run(c.rig)
	m.source(c, "items")
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
	c.captured()
	m := newReplay(t, true, "public.plain")
	m.run(c.rig)
	m.source(c, "items", "pairs", "plain")
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
	c.captured()
	m := newReplay(t, false)
	m.run(c.rig)
	m.source(c, "fresh")
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
	c.captured()
	m := newReplay(t, true, "public.plain")
	m.run(c.rig)
	m.source(c, "items", "pairs", "plain")
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
	c.captured()
	m := newReplay(t, false, "public.plain")
	m.run(c.rig)
	m.source(c, "items", "pairs", "plain")
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
