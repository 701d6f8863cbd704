package node

import (
	"testing"

	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/wire"
)

// A node that was frozen may write a mark of a job long after another one has brought it to its end.
func TestMarksThatComeLate(t *testing.T) {
	c := newCopyRig(t, 1, nil)
	c.create(false, "public.*")
	c.node("n1")
	c.fill()
	job := c.order(control.CopyResync, "items")
	c.copied()
	late := func(job string) {
		for _, k := range []mark.Kind{mark.Begin, mark.End} {
			m := mark.Copy{Token: c.sub.Incarnation, Kind: k, Job: job, Tables: []mark.Table{{Schema: "public", Name: "items", Keyed: true}}, TargetRows: mark.TargetTruncate, Last: true}
			_, err := c.shards[0].Exec(c.ctx, "SELECT pg_logical_emit_message(true, $1, $2::bytea)", mark.CopyPrefix, m.Content())
			c.must(err)
		}
	}
	late(job)
	c.exec(c.shards[0], "INSERT INTO items VALUES (-1)")
	c.captured()
	c.order(control.CopyResync, "pairs")
	late(job)
	c.copied()
	c.captured()
	seen := map[mark.Kind]int{}
	c.units(func(u *wire.Unit) {
		for _, tx := range u.Transactions {
			for _, f := range tx.Fragments {
				c.must(f.Walk(func(ch *pipeline.Change) error {
					if m, is, err := mark.CopyOf(ch); is && m.Job == job || err != nil {
						seen[m.Kind]++
						return err
					}
					return nil
				}))
			}
		}
	})
	if seen[mark.Begin] != 1 || seen[mark.End] != 1 {
		t.Fatalf("a job begins and ends once: %v", seen)
	}
}
