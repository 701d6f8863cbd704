package postgres

import (
	"slices"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// order is what a transaction's TRUNCATEs do to it. The zero order: there are none.
type order struct {
	truncates []truncation
	last      map[place]int // of each fragment and table: the index of its last TRUNCATE that counts
}

type truncation struct {
	sql  string
	plan *plan // of one of its tables, for errors
}

type place struct {
	fragment int
	table    *table
}

// wiped says whether change i of a fragment was undone by a later TRUNCATE of the same fragment.
func (o *order) wiped(fragment, i int, t *table) bool {
	last, ok := o.last[place{fragment, t}]
	return ok && i < last
}

// truncated says whether the transaction empties the table.
func (o *order) truncated(t *table) bool {
	for at := range o.last {
		if at.table == t {
			return true
		}
	}
	return false
}

// found is what the transaction says about one table.
type found struct {
	table  *table
	plan   *plan
	shards map[pipeline.ShardID]bool
	flags  byte
	at     map[int]int // fragment: index of the last TRUNCATE
}

// order looks for TRUNCATEs; see the package doc for what they mean.
func (s *session) order(tx *pipeline.Transaction) (o order, err error) {
	if !truncates(tx) {
		return o, nil
	}
	var tables []*found // in the order of their first TRUNCATE
	for n, f := range tx.Fragments {
		i := -1
		err := f.Walk(func(c *pipeline.Change) error {
			i++
			for _, r := range c.Truncated {
				p := s.plans[r]
				if p.gone {
					continue
				}
				at := slices.IndexFunc(tables, func(x *found) bool { return x.table == p.table })
				if at < 0 {
					at = len(tables)
					tables = append(tables, &found{table: p.table, plan: p, shards: map[pipeline.ShardID]bool{}, at: map[int]int{}})
				}
				x := tables[at]
				x.shards[f.Shard] = true
				x.flags |= c.TruncateFlags
				x.at[n] = i
			}
			return nil
		})
		if err != nil {
			return o, malformed(err)
		}
	}
	return s.decide(tables)
}

// decide applies the policy, and makes one statement of the tables with equal flags: a table that another one
// refers to can only be truncated together with it.
func (s *session) decide(tables []*found) (o order, err error) {
	o.last = map[place]int{}
	byFlags := map[byte][]*found{}
	for _, x := range tables {
		all, none := s.here(x)
		if none {
			continue
		}
		if !all {
			switch s.cfg.Truncate {
			case TruncateIgnore:
				continue
			case TruncateStop:
				return o, apply.EmptiedInPart(x.table.name.String(), s.cfg.Subscription, len(x.shards), s.cfg.Shards)
			case TruncateApply:
			}
		}
		for fragment, i := range x.at {
			o.last[place{fragment, x.table}] = i
		}
		byFlags[x.flags] = append(byFlags[x.flags], x)
	}
	for flags := byte(0); flags <= pipeline.TruncateCascade|pipeline.TruncateRestartIdentity; flags++ {
		if same := byFlags[flags]; len(same) > 0 {
			o.truncates = append(o.truncates, truncation{truncateSQL(same, flags), same[0].plan})
		}
	}
	return o, nil
}

// here compares the shards that emptied a table with those whose rows are in it. Of a table without a key that is being
// copied, a shard's rows are here once they have arrived; what it did before is contained in them.
func (s *session) here(x *found) (all, none bool) {
	cp := s.copies.of(x.plan)
	if cp == nil || cp.keyed {
		return len(x.shards) == s.cfg.Shards, false
	}
	n := 0
	for shard := range x.shards {
		if cp.counts(shard) {
			n++
		}
	}
	return n == len(cp.arrived), n == 0
}

func truncateSQL(tables []*found, flags byte) string {
	var b strings.Builder
	for n, x := range tables {
		b.WriteString(separator(n, "TRUNCATE ", ", "))
		b.WriteString(x.table.from())
	}
	if flags&pipeline.TruncateRestartIdentity != 0 {
		b.WriteString(" RESTART IDENTITY")
	}
	if flags&pipeline.TruncateCascade != 0 {
		b.WriteString(" CASCADE")
	}
	return b.String()
}

func truncates(tx *pipeline.Transaction) bool {
	return slices.ContainsFunc(tx.Fragments, func(f *pipeline.Fragment) bool { return f.Ops.Has(pipeline.Truncate) })
}
