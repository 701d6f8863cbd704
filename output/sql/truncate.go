package sql

import (
	"fmt"
	"slices"

	"shardcdc/pipeline"
)

// TRUNCATE empties a shard's part of a table, and here the table has the rows of all shards. So it is written when every shard whose
// rows the table has ran it in this transaction; else Config.Truncate decides. It goes in front of everything, and what a fragment
// did to the table before is left out: it is wiped, and the other fragments' rows are not to be.

// order is what a transaction's TRUNCATEs decide.
type order struct {
	last map[place]int // index of the last TRUNCATE
}

// place is a table in a fragment.
type place struct {
	fragment int
	relation uint32
}

// wiped says that a row's change came before a TRUNCATE that was moved to the front.
func (o *order) wiped(fragment, index int, c *pipeline.Change) bool {
	if len(o.last) == 0 || c.Relation == nil {
		return false
	}
	last, ok := o.last[place{fragment, c.RelationID}]
	return ok && index < last
}

// emptied is what a transaction says about one table.
type emptied struct {
	name   tableName
	shards map[pipeline.ShardID]bool
	flags  byte
	at     map[place]int
}

// truncates finds the transaction's TRUNCATEs, and writes them.
func (e *Encoder) truncates(p *plan, tx *pipeline.Transaction) error {
	var all []*emptied // in the order of their first TRUNCATE
	for n, f := range tx.Fragments {
		i := -1
		err := e.walker.Walk(f, func(c *pipeline.Change) error {
			i++
			for k, r := range c.Truncated {
				if err := checkNames(e.dialect, r.Namespace, r.Name); err != nil {
					return err
				}
				at := slices.IndexFunc(all, func(x *emptied) bool { return x.name == tableOf(r) })
				if at < 0 {
					at = len(all)
					all = append(all, &emptied{name: tableOf(r), shards: make(map[pipeline.ShardID]bool), at: make(map[place]int)})
				}
				x := all[at]
				x.shards[f.Shard], x.at[place{n, c.TruncateIDs[k]}] = true, i
				x.flags |= c.TruncateFlags
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	p.order = order{last: make(map[place]int)}
	byFlags := make(map[byte][]string)
	for _, x := range all {
		if e.empties(p, x) {
			byFlags[x.flags] = append(byFlags[x.flags], e.dialect.table(x.name.schema, x.name.name))
		}
	}
	for flags := byte(0); flags <= pipeline.TruncateCascade|pipeline.TruncateRestartIdentity; flags++ {
		if names := byFlags[flags]; names != nil { // together: a table that another one refers to can only be truncated with it
			p.first = e.dialect.truncate(p.first, names, flags)
		}
	}
	return nil
}

// empties decides about one table.
func (e *Encoder) empties(p *plan, x *emptied) bool {
	ran, of := len(x.shards), len(e.conf.Shards)
	if here := e.copies.rowsOf(x.name); here != nil {
		ran, of = 0, len(here)
		for shard := range x.shards {
			if here[shard] {
				ran++
			}
		}
		if ran == 0 {
			return false // contained in the rows to come
		}
	}
	if ran < of && e.conf.Truncate != TruncateApply {
		name := x.name.schema + "." + x.name.name
		if e.conf.Truncate == TruncateIgnore {
			p.first = appendQuoted(append(p.first, "-- TRUNCATE of "...), name)
			p.first = fmt.Appendf(p.first, " on %d of %d shards: not run here, because the rows of the others would go\n", ran, of)
			return false
		}
		p.first = e.raise(p.first, fmt.Sprintf("TRUNCATE of %s ran on %d of %d shards. Delete the rows of these, and remove this line", name, ran, of))
		return false
	}
	for at, i := range x.at {
		p.order.last[at] = i
	}
	return true
}
