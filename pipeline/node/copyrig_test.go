package node

import (
	"context"
	"encoding/json"
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
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
	c.conf = copying.Config{ChunkBytes: 4 << 10, RetryAfter: 100 * time.Millisecond}
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
	n, err := New(ctx, c.bus, Config{Name: name, Durability: DurableAcks, LeaseTTL: time.Second, Heartbeat: 100 * time.Millisecond, NewTables: 100 * time.Millisecond, SpillDir: c.t.TempDir(), Log: c.log.With("node", name), RetryMax: 300 * time.Millisecond, copying: c.conf})
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
				for key := range want {
					if _, ok := m.target.of(pipeline.ShardID(i), "public."+table)[key]; !ok {
						c.t.Logf("%s: %s", key, strings.Join(m.events[fmt.Sprint(i, " public.", table, " ", key)], "\n\t"))
					}
				}
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
