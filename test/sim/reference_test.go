package sim

import (
	"cmp"
	"fmt"
	"slices"

	"shardcdc/pipeline"
)

// omniscient is a merger that knows the world: it emits in the order of the true instants at which
// transactions were decided (the last PREPARE, the one-phase commit), each once everything of it has been
// read. It shows that the oracle passes what is right; spoiled in one of its ways, that the oracle fails what
// is wrong.
type omniscient struct {
	w       *World
	c       Config
	spoil   string
	order   []*Txn // every committed transaction
	next    int    // of order, to emit
	at      []pipeline.LSN
	read    map[*Entry]pipeline.Record
	last    pipeline.CSN
	held    pipeline.Checkpoint // of the last batch
	durable pipeline.Checkpoint
}

func newOmniscient(spoil string) func(*World, Config) (Merger, error) {
	return func(w *World, c Config) (Merger, error) {
		m := &omniscient{w: w, c: c, spoil: spoil, read: map[*Entry]pipeline.Record{}, last: c.Start.Watermark}
		m.held, m.durable = cloneCheckpoint(c.Start), cloneCheckpoint(c.Start)
		for _, s := range c.Start.Shards {
			m.at = append(m.at, s.Safe())
		}
		for _, t := range w.Txns {
			if t.committed() || spoil == "emit rolled back" && t.Frags[0].Content != nil {
				m.order = append(m.order, t)
			}
		}
		slices.SortStableFunc(m.order, func(a, b *Txn) int { return cmp.Compare(decided(a), decided(b)) })
		if spoil == "order by end" {
			slices.SortStableFunc(m.order, func(a, b *Txn) int { return cmp.Compare(ended(a), ended(b)) })
		}
		if spoil == "order by clock" {
			slices.SortStableFunc(m.order, func(a, b *Txn) int {
				return cmp.Compare(a.Frags[0].Content.Time, b.Frags[0].Content.Time)
			})
		}
		m.next = int(c.Start.Watermark)
		if spoil == "twice" && m.next > 0 {
			m.next--
		}
		if spoil == "skip" && m.next > 0 {
			m.next++
		}
		return m, nil
	}
}

// decided is the instant of t's last PREPARE, or of its one-phase commit.
func decided(t *Txn) micros {
	var at micros
	for _, f := range t.Frags {
		if f.Content != nil {
			at = max(at, f.Content.At)
		}
	}
	return at
}

func ended(t *Txn) micros {
	var at micros
	for _, f := range t.Frags {
		at = max(at, f.Ended)
	}
	return at
}

func (m *omniscient) Offer(shard pipeline.ShardID, records []pipeline.Record, received pipeline.LSN) error {
	for _, r := range records {
		for _, e := range m.w.Shards[shard].WAL {
			if e.End == r.End {
				m.read[e] = r
			}
		}
		if r.End <= m.at[shard] {
			return fmt.Errorf("shard %d: record at %s is not behind %s", shard, r.End, m.at[shard])
		}
	}
	m.at[shard] = received
	return nil
}

func (m *omniscient) Probes(dst []Probe) []Probe { return dst }

func (m *omniscient) Probed(pipeline.ShardID, uint64, pipeline.Timestamp, pipeline.LSN) error {
	return nil
}

func (m *omniscient) Admits(pipeline.ShardID) bool { return true }

// whole says whether all of t's contents were read, and one commit of it.
func (m *omniscient) whole(t *Txn) bool {
	decision := m.spoil == "emit undecided" || m.spoil == "emit rolled back"
	for _, f := range t.Frags {
		_, have := m.read[f.Content]
		if f.Content == nil && m.spoil == "emit rolled back" {
			continue
		}
		if !have {
			return m.spoil == "emit incomplete" && decision
		}
		_, second := m.read[f.Second]
		decision = decision || f.GID == "" || second && f.Second.Kind == pipeline.CommitPrepared
	}
	return decision
}

func (m *omniscient) Take(bytesMax int) (pipeline.Batch, bool) {
	b := pipeline.Batch{Previous: m.last}
	for n := 0; m.next < len(m.order) && n < bytesMax && m.whole(m.order[m.next]); {
		t := m.transaction(m.order[m.next])
		n += int(t.Bytes()) + 1
		m.next++
		if m.spoil == "stop" && m.next > 5 {
			break
		}
		b.Transactions = append(b.Transactions, t)
		m.last = t.CSN
	}
	if len(b.Transactions) == 0 {
		return b, false
	}
	m.held = m.checkpoint()
	b.Checkpoint = cloneCheckpoint(m.held)
	return b, true
}

func (m *omniscient) transaction(t *Txn) *pipeline.Transaction {
	p := &pipeline.Transaction{CSN: pipeline.CSN(m.next + 1), GID: t.GlobalID}
	for _, f := range t.Frags {
		if r, ok := m.read[f.Content]; ok {
			p.Fragments = append(p.Fragments, r.Fragment)
		}
		if _, ok := m.read[f.Second]; ok {
			p.CommitTime = f.Second.Time
		} else if f.GID == "" && p.CommitTime == 0 {
			p.CommitTime = f.Content.Time
		}
	}
	slices.SortFunc(p.Fragments, func(a, b *pipeline.Fragment) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.End, b.End))
	})
	if m.spoil == "lose fragment" && len(p.Fragments) > 1 {
		p.Fragments = p.Fragments[1:]
	}
	return p
}

func (m *omniscient) checkpoint() pipeline.Checkpoint {
	c := pipeline.Checkpoint{Last: m.last, Watermark: max(m.last, pipeline.CSN(m.next))}
	out := map[*Txn]bool{}
	for _, t := range m.order[:m.next] {
		out[t] = true
	}
	for i, s := range m.w.Shards {
		if m.at[i] < m.held.Shards[i].Through { // reading again what was read before a crash
			c.Shards = append(c.Shards, m.held.Shards[i])
			continue
		}
		sc := pipeline.ShardCheckpoint{Through: m.at[i]}
		for _, e := range s.WAL {
			f := e.Frag
			if e.End > m.at[i] {
				break
			}
			_, second := m.read[f.Second]
			switch {
			case e != f.Content, out[f.Txn], m.spoil == "forget all":
			case second && f.RollBack && e.End <= m.at[i]:
			case e.End <= m.c.Start.Shards[i].Safe():
			case e.Kind == pipeline.Prepare:
				if m.spoil != "forget prepared" {
					sc.Pending = append(sc.Pending, pipeline.PendingPrepare{Start: e.Start, End: e.End})
				}
			case sc.Through > e.Start:
				sc.Through = e.Start
			}
		}
		sc.Pending = slices.DeleteFunc(sc.Pending, func(p pipeline.PendingPrepare) bool { return p.End > sc.Through })
		sc.Through = max(sc.Through, m.held.Shards[i].Through)
		c.Shards = append(c.Shards, sc)
	}
	return c
}

func (m *omniscient) Idle() bool { return false }

func (m *omniscient) Heartbeat() (pipeline.Batch, bool) {
	c := m.checkpoint()
	if checkpointString(&c) == checkpointString(&m.held) || m.spoil == "no heartbeat" {
		return pipeline.Batch{}, false
	}
	m.held = c
	return pipeline.Batch{Previous: m.last, Checkpoint: cloneCheckpoint(c)}, true
}

func (m *omniscient) Durable(c *pipeline.Checkpoint) { m.durable = cloneCheckpoint(*c) }

func (m *omniscient) Confirmed(shard pipeline.ShardID) pipeline.LSN {
	switch m.spoil {
	case "confirm received":
		return m.at[shard]
	case "confirm through":
		return m.durable.Shards[shard].Through
	case "confirm taken":
		return m.held.Shards[shard].Safe()
	}
	return m.durable.Shards[shard].Safe()
}
