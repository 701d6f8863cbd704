package sql

import (
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copies are the tables without a key that are being copied, and those that a copy wants empty. The rows of such a table come
// in one chunk per shard, which contains what the shard did to it since the copy's begin: that is left out.
type copies map[tableName]*copied

type tableName struct{ schema, name string }

func tableOf(r *pipeline.Relation) tableName { return tableName{r.Namespace, r.Name} }

type copied struct {
	job     string
	arrived map[pipeline.ShardID]bool
	empty   bool // once the table is made
	keyed   bool
}

// Copied is a table without a key whose copy has begun, as the node knows it that begins to write.
type Copied struct {
	Schema, Table string
	Job           string
	Arrived       []pipeline.ShardID // whose rows are in the stream
}

// Resume tells a new Encoder of copies that are under way in its stream.
func (e *Encoder) Resume(tables []Copied) {
	for _, t := range tables {
		c := &copied{job: t.Job, arrived: make(map[pipeline.ShardID]bool)}
		for _, shard := range t.Arrived {
			c.arrived[shard] = true
		}
		e.copies[tableName{t.Schema, t.Table}] = c
	}
}

// follow takes a mark.
func (cs copies) follow(e *Encoder, p *plan, shard pipeline.ShardID, m *mark.Copy) {
	for _, t := range m.Tables {
		name := tableName{t.Schema, t.Name}
		c := cs[name]
		switch m.Kind {
		case mark.Begin:
			if c != nil && c.job == m.Job {
				continue // after a crash
			}
			c = &copied{job: m.Job, keyed: t.Keyed, arrived: make(map[pipeline.ShardID]bool)}
			if m.TargetRows == mark.TargetTruncate {
				written := e.dialect.table(t.Schema, t.Name)
				c.empty = e.conf.Options.CreateTables && !e.created[written]
				if !c.empty {
					p.first = e.dialect.truncate(p.first, []string{written}, 0)
				}
			}
			cs[name] = c
		case mark.Rows:
			p.keyedRows = t.Keyed
			if c == nil {
				continue
			}
			if c.job != m.Job {
				p.leaveRows = !c.keyed
				continue
			}
			c.arrived[shard] = true
		case mark.End:
			if c != nil && c.job == m.Job {
				delete(cs, name)
			}
		case mark.High:
		}
	}
}

// empties says, once, that a table that was made is to be emptied: it may have been there.
func (cs copies) empties(name tableName) bool {
	c := cs[name]
	if c == nil || !c.empty {
		return false
	}
	c.empty = false
	return true
}

// contained says that a change is contained in rows that come later.
func (cs copies) contained(shard pipeline.ShardID, change *pipeline.Change) bool {
	if len(cs) == 0 || change.Relation == nil || change.Op == pipeline.Read {
		return false
	}
	c := cs[tableOf(change.Relation)]
	return c != nil && !c.keyed && !c.arrived[shard]
}

// rowsOf are the shards whose rows the table has; nil: it is not being copied without a key, and has the rows of all.
func (cs copies) rowsOf(name tableName) map[pipeline.ShardID]bool {
	if c := cs[name]; c != nil && !c.keyed {
		return c.arrived
	}
	return nil
}

// message writes what is no row as a comment; a statement that changed tables may follow.
func (e *Encoder) message(c *pipeline.Change) error {
	if m, ok, err := mark.CopyOf(c); ok && err == nil {
		e.buf = append(appendQuoted(append(e.buf, "-- copy "...), m.Job), ' ')
		e.buf = append(e.buf, m.Kind...)
		if m.Chunk != "" {
			e.buf = appendQuoted(append(e.buf, " chunk "...), m.Chunk)
		}
		var names []string
		for _, t := range m.Tables {
			names = append(names, t.String())
		}
		if names != nil {
			e.buf = appendQuoted(append(e.buf, " of "...), strings.Join(names, ", "))
		}
		if m.Last {
			e.buf = append(e.buf, ": no table is being copied any more"...)
		}
		e.buf = append(e.buf, '\n')
		return nil
	}
	if d, ok, err := mark.DDLOf(c); ok && err == nil {
		e.ddl(&d)
		return nil
	}
	e.buf = appendShown(append(e.buf, "-- message "...), []byte(c.Prefix))
	e.buf = append(appendShown(append(e.buf, ' '), c.Content), '\n')
	return nil
}
