package sql

import (
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
)

// copies are the tables that are being copied. The rows of one without a key come in one chunk per shard, which contains what the
// shard did to it since the copy's begin: that is left out.
type copies map[tableName]*copied

type tableName struct{ schema, name string }

func tableOf(r *pipeline.Relation) tableName { return tableName{r.Namespace, r.Name} }

type copied struct {
	job     string
	arrived map[pipeline.ShardID]bool
	keyed   bool
}

// Copied is a table whose copy has begun, as whoever begins to write knows it. Those with a key may be left out: then a begin mark
// that comes again empties the table again, which is before the first of its rows.
type Copied struct {
	Schema, Table string
	Job           string
	Keyed         bool
	Arrived       []pipeline.ShardID // without a key: whose rows are in the stream
}

// Resume tells a new Encoder of copies that are under way in its stream.
func (e *Encoder) Resume(tables []Copied) {
	for _, t := range tables {
		c := &copied{job: t.Job, keyed: t.Keyed, arrived: make(map[pipeline.ShardID]bool)}
		for _, shard := range t.Arrived {
			c.arrived[shard] = true
		}
		e.copies[tableName{t.Schema, t.Table}] = c
	}
}

// follow takes a mark.
func (cs copies) follow(e *Encoder, p *plan, shard pipeline.ShardID, m *mark.Copy) error {
	var empty []mark.Table
	for _, t := range m.Tables {
		name := tableName{t.Schema, t.Name}
		c := cs[name]
		switch m.Kind {
		case mark.Begin:
			if c != nil && c.job == m.Job {
				continue // after a crash
			}
			cs[name] = &copied{job: m.Job, keyed: t.Keyed, arrived: make(map[pipeline.ShardID]bool)}
			if m.TargetRows == mark.TargetTruncate {
				empty = append(empty, t)
			}
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
	return e.empty(p, empty)
}

// empty empties tables, all at once: they may refer to each other. Those that the statements make themselves may not be there yet.
func (e *Encoder) empty(p *plan, tables []mark.Table) error {
	var names []string
	for _, t := range tables {
		if err := checkNames(e.dialect, t.Schema, t.Name); err != nil {
			return err
		}
		names = append(names, e.dialect.table(t.Schema, t.Name))
	}
	switch {
	case names == nil:
	case e.conf.Options.CreateTables:
		p.first = e.dialect.truncateIfThere(p.first, tables)
	default:
		p.first = e.dialect.truncate(p.first, names, 0)
	}
	return nil
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
