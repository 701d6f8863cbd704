package files

import (
	"slices"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copies is what is known about copies of tables: who follows the marks. It is in the index where it changed.
type copies struct {
	Tables         []Copying    `json:"tables,omitempty"` // by name
	ConsistentFrom pipeline.CSN `json:"consistent_from"`
}

// Copying is a table whose rows are being copied.
type Copying struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	Job    string `json:"job"`
	Keyed  bool   `json:"keyed"`
	// Arrived, of a table without a key: the shards whose rows are in the files.
	Arrived []pipeline.ShardID `json:"arrived,omitempty"`
}

func (c *copies) take(changed *copies) {
	if changed != nil {
		*c = *changed
	}
}

func (c *copies) clone() copies {
	out := copies{Tables: slices.Clone(c.Tables), ConsistentFrom: c.ConsistentFrom}
	for i := range out.Tables {
		out.Tables[i].Arrived = slices.Clone(out.Tables[i].Arrived)
	}
	return out
}

func (c *copies) shown() apply.Copies {
	out := apply.Copies{ConsistentFrom: c.ConsistentFrom}
	for _, t := range c.Tables {
		out.Tables = append(out.Tables, t.Schema+"."+t.Table)
	}
	slices.Sort(out.Tables)
	return out
}

// follow does what a mark says. It does the same as a target with tables does (apply/postgres).
func (c *copies) follow(csn pipeline.CSN, shard pipeline.ShardID, m *mark.Copy) (changed bool) {
	switch m.Kind {
	case mark.Begin:
		return c.begin(m)
	case mark.Rows:
		return c.arrived(shard, m)
	case mark.End:
		c.end(csn, m)
		return true
	case mark.High: // of a chunk that another node read: there will be no rows under it
	}
	return false
}

// begin takes over tables that another job copies. The same mark may come again, after a crash of its writer.
func (c *copies) begin(m *mark.Copy) (changed bool) {
	if slices.ContainsFunc(c.Tables, func(t Copying) bool { return t.Job == m.Job }) {
		return false
	}
	for _, t := range m.Tables {
		c.drop(t, "")
		c.Tables = append(c.Tables, Copying{Schema: t.Schema, Table: t.Name, Job: m.Job, Keyed: t.Keyed})
	}
	slices.SortFunc(c.Tables, func(a, b Copying) int {
		return slices.CompareFunc([]string{a.Schema, a.Table}, []string{b.Schema, b.Table}, strings.Compare)
	})
	return true
}

// drop forgets a table, if it is of this job; "": of any.
func (c *copies) drop(t mark.Table, job string) {
	c.Tables = slices.DeleteFunc(c.Tables, func(have Copying) bool {
		return have.Schema == t.Schema && have.Table == t.Name && (job == "" || have.Job == job)
	})
}

func (c *copies) arrived(shard pipeline.ShardID, m *mark.Copy) (changed bool) {
	for _, t := range m.Tables {
		for i := range c.Tables {
			have := &c.Tables[i]
			if have.Schema == t.Schema && have.Table == t.Name && have.Job == m.Job && !have.Keyed && !slices.Contains(have.Arrived, shard) {
				have.Arrived, changed = append(have.Arrived, shard), true
			}
		}
	}
	return changed
}

func (c *copies) end(csn pipeline.CSN, m *mark.Copy) {
	for _, t := range m.Tables {
		c.drop(t, m.Job)
	}
	if len(c.Tables) == 0 {
		c.ConsistentFrom = csn
	}
}
