package files

import (
	"maps"
	"slices"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copies is what is known about copies of tables: who follows the marks. It is in the index where it changed.
type copies struct {
	Tables         []copyOf     `json:"tables,omitempty"` // that are being copied, by name
	Marks          []seenMark   `json:"marks,omitempty"`  // of unfinished copies, for encoders
	ConsistentFrom pipeline.CSN `json:"consistent_from"`
}

// copyOf is a table whose rows are being copied.
type copyOf struct {
	Schema string `json:"schema"`
	Name   string `json:"table"`
	Job    string `json:"job"`
}

// seenMark is one that an encoder has to know of what comes later.
type seenMark struct {
	Shard pipeline.ShardID `json:"shard"`
	Mark  mark.Copy        `json:"mark"`
}

func (c *copies) take(changed *copies) {
	if changed != nil {
		*c = *changed
	}
}

func (c *copies) clone() copies {
	return copies{Tables: slices.Clone(c.Tables), Marks: slices.Clone(c.Marks), ConsistentFrom: c.ConsistentFrom}
}

func (c *copies) shown() apply.Copies {
	out := apply.Copies{ConsistentFrom: c.ConsistentFrom}
	for _, t := range c.Tables {
		out.Tables = append(out.Tables, t.Schema+"."+t.Name)
	}
	slices.Sort(out.Tables)
	return out
}

func (c *copies) knows(job string) bool {
	return slices.ContainsFunc(c.Tables, func(t copyOf) bool { return t.Job == job })
}

// follow does what a mark says. It does the same as a target with tables does (apply/postgres).
func (c *copies) follow(csn pipeline.CSN, shard pipeline.ShardID, m *mark.Copy) (changed bool) {
	switch m.Kind {
	case mark.Begin:
		if c.knows(m.Job) {
			return false // again, after a crash of its writer
		}
		c.begin(m)
	case mark.Rows:
		if len(m.Tables) == 1 && m.Tables[0].Keyed {
			return false // a chunk of many, which changes nothing about what comes later
		}
	case mark.End:
		c.end(csn, m)
		if len(c.Tables) == 0 {
			return true
		}
	case mark.High:
		return false
	}
	c.Marks = append(c.Marks, seenMark{shard, *m})
	return true
}

func (c *copies) begin(m *mark.Copy) {
	tables := map[copyOf]copyOf{} // a job takes over a table that another one copies
	for _, t := range c.Tables {
		tables[copyOf{t.Schema, t.Name, ""}] = t
	}
	for _, t := range m.Tables {
		tables[copyOf{t.Schema, t.Name, ""}] = copyOf{t.Schema, t.Name, m.Job}
	}
	c.Tables = slices.Collect(maps.Values(tables))
	c.sort()
}

func (c *copies) end(csn pipeline.CSN, m *mark.Copy) {
	c.Tables = slices.DeleteFunc(c.Tables, func(have copyOf) bool {
		return have.Job == m.Job && slices.ContainsFunc(m.Tables, func(t mark.Table) bool { return t.Schema == have.Schema && t.Name == have.Name })
	})
	if len(c.Tables) == 0 {
		c.Marks, c.ConsistentFrom = nil, csn
	}
}

func (c *copies) sort() {
	slices.SortFunc(c.Tables, func(a, b copyOf) int {
		return slices.Compare([]string{a.Schema, a.Name}, []string{b.Schema, b.Name})
	})
}

// transactions are the marks as a stream would have them, one behind the other.
func (c *copies) transactions() []*pipeline.Transaction {
	all := make([]*pipeline.Transaction, len(c.Marks))
	for i, seen := range c.Marks {
		f := &pipeline.Fragment{Shard: seen.Shard}
		f.Append(mark.Message(mark.CopyPrefix, seen.Mark.Content(), 0))
		all[i] = &pipeline.Transaction{CSN: pipeline.CSN(i + 1), Fragments: []*pipeline.Fragment{f}}
	}
	return all
}
