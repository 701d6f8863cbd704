package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"shardcdc/pipeline/pause"
	"shardcdc/test/harness/matrix"
)

// ChurnDDL makes the tables of a Churn:
//
//	rows     many rows with a key and with a value that is stored apart, so that updates do not carry it
//	heap     no key; many rows are equal
//	short    is emptied now and then, everywhere at once
const ChurnDDL = `
CREATE TABLE rows (id bigint PRIMARY KEY, v int NOT NULL, payload text, at timestamptz NOT NULL DEFAULT clock_timestamp());
ALTER TABLE rows ALTER payload SET STORAGE EXTERNAL;
CREATE TABLE heap (shard int NOT NULL, v int NOT NULL, what text);
ALTER TABLE heap REPLICA IDENTITY FULL;
CREATE INDEX ON heap (v);
CREATE TABLE short (a int, b text, v int NOT NULL, PRIMARY KEY (b, a));`

// ChurnTables are its tables.
var ChurnTables = []string{"public.rows", "public.heap", "public.short"}

// A Churn changes rows in every way that a copy has to bear: inserts, updates, deletes, new keys, moves between shards,
// TRUNCATE; in transactions of one shard and of several.
type Churn struct {
	c         *Cluster
	dsns      []string
	perSecond float64
	highest   int64 // id of what Fill made
	done      atomic.Int64
	moved     atomic.Int64 // rows that got another key, or another shard
	inserted  atomic.Int64
	gids      atomic.Int64
	truncates atomic.Bool

	stop    context.CancelFunc
	running chan error
}

// largeEvery: of so many rows one has a value that is stored apart.
const largeEvery = 20

// FillChurn puts rows into the tables of all shards: so many in all, of some 300 bytes, and a tenth as many without a key.
func (c *Cluster) FillChurn(rows int) {
	c.t.Helper()
	var group errgroup.Group
	for i, dsn := range c.ShardDSNs() {
		group.Go(func() error {
			return c.execute(dsn, fmt.Sprintf(`
				INSERT INTO rows SELECT g * %d + %d, 0, CASE WHEN g %% %[5]d = 0 THEN repeat(md5(g::text), 70) WHEN g %% 7 = 0 THEN NULL ELSE repeat(md5(g::text), 8) END FROM generate_series(1, %[3]d) AS g;
				INSERT INTO heap SELECT %[2]d, g %% 1000, CASE g %% 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'x' END FROM generate_series(1, %[4]d) AS g;
				INSERT INTO short SELECT g, 'b%[2]d', 0 FROM generate_series(1, 500) AS g; ANALYZE rows; ANALYZE heap`,
				Shards, i, rows/Shards, rows/Shards/10, largeEvery))
		})
	}
	if err := group.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// OpenChurn begins to change what FillChurn made.
func (c *Cluster) OpenChurn(rows int, perSecond float64) *Churn {
	ch := &Churn{c: c, dsns: c.ShardDSNs(), perSecond: perSecond, highest: int64(rows) + Shards}
	ch.Start()
	c.t.Cleanup(func() {
		if ch.running != nil {
			c.revive()
			ch.stop()
			if err := <-ch.running; err != nil {
				c.t.Error(err)
			}
		}
	})
	return ch
}

// Start goes on after Stop.
func (ch *Churn) Start() {
	ctx, stop := context.WithCancel(context.Background())
	ch.stop, ch.running = stop, make(chan error, 1)
	go func() { ch.running <- ch.run(ctx) }()
}

// Truncates lets it empty a table now and then.
func (ch *Churn) Truncates() { ch.truncates.Store(true) }

// Stop ends the changes; nothing is left in doubt.
func (ch *Churn) Stop() {
	ch.c.t.Helper()
	ch.stop()
	err := <-ch.running
	ch.running = nil
	if err != nil {
		ch.c.t.Fatal(err)
	}
}

// Moved counts rows that got another key, or went to another shard.
func (ch *Churn) Moved() int64 { return ch.moved.Load() }

// Inserted counts rows that came in addition.
func (ch *Churn) Inserted() int64 { return ch.inserted.Load() }

// Changed waits until n changes more are committed.
func (ch *Churn) Changed(n int64) {
	ch.c.t.Helper()
	want := ch.done.Load() + n
	Until(ch.c.Ctx, ch.c.t, fmt.Sprintf("%d changes are committed", want), func() (bool, string) {
		have := ch.done.Load()
		return have >= want, fmt.Sprintf("%d are", have)
	})
}

const churners = 3

func (ch *Churn) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range churners {
		w := &churner{ch: ch, rand: rand.New(rand.NewPCG(ch.c.Seed, uint64(100+i))), conns: make([]*pgx.Conn, Shards)}
		group.Go(func() error { return w.run(ctx) })
	}
	return group.Wait()
}

// churner works on connections of its own.
type churner struct {
	ch    *Churn
	rand  *rand.Rand
	conns []*pgx.Conn
}

func (w *churner) run(ctx context.Context) error {
	defer func() {
		for _, conn := range w.conns {
			if conn != nil {
				_ = conn.Close(context.Background()) // nothing is open on it
			}
		}
	}()
	every := time.Duration(float64(time.Second) * churners / w.ch.perSecond)
	for pause.For(ctx, every) == nil {
		err := w.change(context.WithoutCancel(ctx))
		if err == nil {
			w.ch.done.Add(1)
		} else if !passes(err) {
			return fmt.Errorf("churn: %w", err)
		}
	}
	return nil
}

// passes says that an error is about a lock, a key that is taken, or a connection.
func passes(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return true // the connection
	}
	return slices.Contains([]string{"55P03", "40P01", "23505", "57P01", "57P02", "57P03", "57014", "55000"}, pg.Code)
}

// change makes one change.
func (w *churner) change(ctx context.Context) error {
	s, n := w.rand.IntN(Shards), w.rand.IntN(100)
	id := w.rand.Int64N(w.ch.highest/Shards)*Shards + int64(s)
	switch {
	case n < 25:
		return w.exec(ctx, s, fmt.Sprintf("UPDATE rows SET v = v + 1 WHERE id BETWEEN %d AND %d", id, id+30))
	case n < 35:
		w.ch.inserted.Add(1)
		return w.exec(ctx, s, fmt.Sprintf("INSERT INTO rows (id, v, payload) VALUES (%d, 1, repeat('n', %d))", w.newID(), w.rand.IntN(4000)))
	case n < 45:
		return w.exec(ctx, s, fmt.Sprintf("DELETE FROM rows WHERE id = %d", id))
	case n < 55:
		w.ch.moved.Add(1)
		to := w.newID()
		if w.rand.IntN(2) == 0 { // a value that the update does not carry, to where everything is copied already
			id, to = id-id%(largeEvery*Shards)+int64(s), -max(to, -to)
		}
		return w.exec(ctx, s, fmt.Sprintf("UPDATE rows SET id = %d, v = v + 1 WHERE id = %d", to, id))
	case n < 60:
		return w.exec(ctx, s, fmt.Sprintf("BEGIN; UPDATE rows SET payload = payload || 'x' WHERE id = %d;"+
			" WITH gone AS (DELETE FROM rows WHERE id = %[1]d RETURNING id) INSERT INTO rows (id, v) SELECT id, -1 FROM gone; UPDATE rows SET v = 7 WHERE id = %[1]d; COMMIT", id))
	case n < 70:
		return w.move(ctx, id, s)
	case n < 78:
		return w.distribute(ctx, fmt.Sprintf("UPDATE rows SET v = v + 100 WHERE id BETWEEN %d AND %d", id, id+6))
	case n < 85:
		return w.exec(ctx, s, fmt.Sprintf("UPDATE heap SET v = v + 1 WHERE ctid = (SELECT ctid FROM heap WHERE v = %d LIMIT 1)", w.rand.IntN(1000)))
	case n < 90:
		return w.exec(ctx, s, fmt.Sprintf("INSERT INTO heap VALUES (%d, %d, 'new'), (%[1]d, %d, 'new')", s, w.rand.IntN(1000), w.rand.IntN(1000)))
	case n < 94:
		return w.exec(ctx, s, fmt.Sprintf("DELETE FROM heap WHERE ctid = (SELECT ctid FROM heap WHERE v = %d LIMIT 1)", w.rand.IntN(1000)))
	case n < 99 || !w.ch.truncates.Load():
		return w.exec(ctx, s, fmt.Sprintf("INSERT INTO short VALUES (%d, 'b%d', 1) ON CONFLICT (b, a) DO UPDATE SET v = short.v + 1", w.rand.IntN(1000), s))
	}
	return w.distribute(ctx, "TRUNCATE short")
}

// newID is anywhere among the ids, below them, and behind them; nobody else has it.
func (w *churner) newID() int64 {
	return (w.rand.Int64N(3*w.ch.highest)-w.ch.highest)<<20 + w.rand.Int64N(1<<20)
}

// session is the connection to a shard, made anew if it broke.
func (w *churner) session(ctx context.Context, shard int) (*pgx.Conn, error) {
	if conn := w.conns[shard]; conn != nil && !conn.IsClosed() {
		return conn, nil
	}
	conn, err := pgx.Connect(ctx, w.ch.dsns[shard])
	if err != nil {
		return nil, err
	}
	w.conns[shard] = conn
	_, err = conn.Exec(ctx, "SET lock_timeout = '500ms'; SET statement_timeout = '20s'")
	return conn, err
}

// exec runs statements; what fails is rolled back.
func (w *churner) exec(ctx context.Context, shard int, sql string) error {
	_, err := w.affect(ctx, shard, sql)
	return err
}

// affect is exec, and says how many rows the last statement changed.
func (w *churner) affect(ctx context.Context, shard int, sql string) (rows int64, err error) {
	conn, err := w.session(ctx, shard)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tag, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil && !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, "ROLLBACK") // else the connection is closed, and made anew
	}
	return tag.RowsAffected(), err
}

// move takes a row from one shard to the next, under its key.
func (w *churner) move(ctx context.Context, id int64, from int) error {
	to := (from + 1) % Shards
	gid := w.gid()
	found, err := w.affect(ctx, from, fmt.Sprintf("BEGIN; DELETE FROM rows WHERE id = %d", id))
	if err == nil && found == 0 {
		return w.exec(ctx, from, "ROLLBACK") // it is gone already: nothing may come to be elsewhere
	}
	if err == nil {
		err = w.exec(ctx, from, "PREPARE TRANSACTION '"+gid+"'")
	}
	if err == nil {
		err = w.exec(ctx, to, fmt.Sprintf("BEGIN; INSERT INTO rows (id, v, payload) VALUES (%d, %d, 'moved'); PREPARE TRANSACTION '%s'", id, from, gid))
	}
	w.ch.moved.Add(1)
	return w.finish(ctx, gid, err, from, to)
}

// distribute runs a statement on every shard as one transaction.
func (w *churner) distribute(ctx context.Context, sql string) (err error) {
	gid := w.gid()
	for i := range Shards {
		if err = w.exec(ctx, i, "BEGIN; "+sql+"; PREPARE TRANSACTION '"+gid+"'"); err != nil {
			break
		}
	}
	return w.finish(ctx, gid, err, 0, 1, 2)
}

func (w *churner) gid() string {
	return fmt.Sprintf("churn_%s_%d", w.ch.c.database, w.ch.gids.Add(1))
}

// finish commits, or rolls back if the first phase failed. It tries until that is done, because nobody else would: ctx does
// not end.
func (w *churner) finish(ctx context.Context, gid string, failed error, shards ...int) error {
	verb := "COMMIT"
	if failed != nil {
		verb = "ROLLBACK"
	}
	for _, i := range w.rand.Perm(len(shards)) {
		for {
			err := w.exec(ctx, shards[i], verb+" PREPARED '"+gid+"'")
			var pg *pgconn.PgError
			if err == nil || errors.As(err, &pg) && pg.Code == "42704" {
				break
			}
			if !passes(err) {
				return err
			}
			if err := pause.For(ctx, 50*time.Millisecond); err != nil {
				return errors.Join(failed, err)
			}
		}
	}
	return failed
}

// SameChurn compares the churn's tables.
func (c *Cluster) SameChurn() {
	c.t.Helper()
	c.SameTables(ChurnTables)
}

// SameTables compares tables, given quoted and with their schemas, without the product.
func (c *Cluster) SameTables(tables []string) {
	c.t.Helper()
	d, err := matrix.Compare(c.Ctx, tables, c.ShardDSNs(), c.TargetDSN())
	if err != nil {
		c.t.Fatal(err)
	}
	report(c.t, d)
}

func report(t *testing.T, d matrix.Difference) {
	t.Helper()
	for _, e := range d.Examples {
		t.Error(e)
	}
	if d.Count > 0 {
		t.Fatalf("%d differences in %d rows of %d tables", d.Count, d.Rows, d.Tables)
	}
	t.Logf("%d rows of %d tables are equal", d.Rows, d.Tables)
}
