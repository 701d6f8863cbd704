package sim

import (
	"fmt"
	"strings"

	"shardcdc/pipeline"
)

// String is the record as a trace shows it.
func (e *Entry) String() string {
	s := fmt.Sprintf("%s of transaction %d at %s-%s", e.Kind, e.Frag.Txn.ID, e.Start, e.End)
	if e.GID != "" {
		s += " gid " + e.GID
	}
	if e == e.Frag.Content {
		s += fmt.Sprintf(" xid %d changes %d", e.XID, e.Frag.Changes)
	}
	if len(e.Frag.Decides) > 0 {
		s += fmt.Sprintf(" decides %v", e.Frag.Decides)
	}
	if e.Frag.Txn.Origin {
		s += " origin"
	}
	return s + " clock " + clockString(e.Time)
}

// String is the world's history, by shard.
func (w *World) String() string {
	var b strings.Builder
	for _, t := range w.Txns {
		fmt.Fprintf(&b, "transaction %d: begins %d", t.ID, t.Begin)
		if t.Ack != never {
			fmt.Fprintf(&b, ", acknowledged %d", t.Ack)
		}
		for _, q := range t.Reads {
			fmt.Fprintf(&b, ", reads %d/%d at %d", q.Shard, q.Row, q.At)
		}
		for _, f := range t.Frags {
			for _, l := range f.Locks {
				verb := "locks"
				if l.Write {
					verb = "writes"
				}
				fmt.Fprintf(&b, ", %s %d/%d at %d", verb, f.Shard, l.Row, l.Taken)
			}
		}
		b.WriteByte('\n')
	}
	for _, s := range w.Shards {
		fmt.Fprintf(&b, "shard %d:\n", s.ID)
		for _, e := range s.WAL {
			fmt.Fprintf(&b, "  %9d  %s\n", e.At, e)
		}
	}
	return b.String()
}

// clockString is a shard's clock as microseconds since the world began.
func clockString(t pipeline.Timestamp) string { return fmt.Sprintf("%+d", int64(t-epoch)) }

// csnString is a CSN as microseconds since the world began and a counter.
func csnString(c pipeline.CSN) string {
	if c == 0 {
		return "0"
	}
	return fmt.Sprintf("%s.%d", clockString(c.Time()), c-pipeline.CSNAt(c.Time()))
}

func checkpointString(c *pipeline.Checkpoint) string {
	s := "watermark " + csnString(c.Watermark)
	for i, sh := range c.Shards {
		s += fmt.Sprintf(" [%d: through %s", i, sh.Through)
		for _, p := range sh.Pending {
			s += fmt.Sprintf(" pending %s-%s", p.Start, p.End)
		}
		for _, p := range sh.Open {
			s += fmt.Sprintf(" open %d %s", p.XID, p.GID)
		}
		s += "]"
	}
	return s
}

func (o *oracle) describe(b *pipeline.Batch) string {
	var s strings.Builder
	for _, t := range b.Transactions {
		fmt.Fprintf(&s, "csn %s =", csnString(t.CSN))
		for _, p := range t.Fragments {
			f := o.w.byEnd[place{p.Shard, p.End}]
			if f == nil {
				fmt.Fprintf(&s, " ?%s", p)
				continue
			}
			fmt.Fprintf(&s, " transaction %d on %d,", f.Txn.ID, p.Shard)
		}
		s.WriteString("  ")
	}
	return s.String() + checkpointString(&b.Checkpoint)
}
