package node

import (
	"context"
	"sync/atomic"
	"testing"

	"shardcdc/pipeline/copying"
	"shardcdc/pipeline/subscribe"
)

// gate holds an engine at a point until it is opened.
type gate struct {
	point     copying.Point
	came      atomic.Int64
	after     int64 // how many have to come
	held, opn chan struct{}
}

func newGate(p copying.Point, after int64) *gate {
	return &gate{point: p, after: after, held: make(chan struct{}), opn: make(chan struct{})}
}

func (g *gate) at(ctx context.Context, p copying.Point) {
	if p != g.point {
		return
	}
	if g.came.Add(1) == g.after {
		close(g.held)
	}
	select {
	case <-g.opn:
	case <-ctx.Done():
	}
}

// A table without a key that a shard does not have when the copy is planned, or not any more, may come while it runs. No row
// of it is missing then, wherever in the copy that is.
func TestCopyOfATableThatComes(t *testing.T) {
	const made = "CREATE TABLE plain (a int, b text); ALTER TABLE plain REPLICA IDENTITY FULL; INSERT INTO plain VALUES (2, 'two')"
	for _, tc := range []struct{ name, first, prepared, read string }{
		{name: "before its rows are looked for", first: "DROP TABLE plain", prepared: made},
		{name: "behind the snapshot that does not have it", first: "DROP TABLE plain", read: made},
		{name: "again", first: "INSERT INTO plain VALUES (0, 'zero')", prepared: "DROP TABLE plain", read: made},
		{name: "never", first: "DROP TABLE plain"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			prepared, read := newGate(copying.LedgerMade, 2), newGate(copying.ChunkRead, 2)
			c := newCopyRig(t, 2, func(c *copyRig) {
				c.conf.At = func(ctx context.Context, p copying.Point) error {
					prepared.at(ctx, p)
					read.at(ctx, p)
					return nil
				}
			})
			spec := subscribe.Spec{Name: "bank", Publications: []string{"everything"}, CopyData: true, TargetRows: "truncate"}
			for i, conn := range c.shards {
				c.exec(conn, "DROP TABLE items, pairs; CREATE PUBLICATION everything FOR ALL TABLES; INSERT INTO plain VALUES (1, 'one')")
				spec.Shards = append(spec.Shards, subscribe.Shard{Name: string(rune('a' + i)), DSN: c.dsns[i]})
			}
			c.exec(c.shards[1], tc.first)
			var err error
			c.sub, _, err = subscribe.Create(c.ctx, c.bus, spec)
			c.must(err)
			c.node("n1")
			<-prepared.held
			c.exec(c.shards[1], tc.prepared)
			close(prepared.opn)
			<-read.held
			c.exec(c.shards[1], tc.read)
			close(read.opn)
			c.copied()
			if tc.name != "never" {
				c.exec(c.shards[1], "INSERT INTO plain VALUES (3, 'three')")
			}
			c.exec(c.shards[0], "DELETE FROM plain; INSERT INTO plain VALUES (4, 'four')")
			c.captured()
			m := newReplay(t, false, "public.plain")
			m.run(c.rig)
			if tc.name == "never" {
				c.shards = c.shards[:1]
			}
			m.source(c, "plain")
			m.accounts(c)
		})
	}
}
