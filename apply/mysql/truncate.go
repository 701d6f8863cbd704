package mysql

import (
	"fmt"
	"slices"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// order is what a transaction's TRUNCATEs do to it. The zero order: there are none.
type order struct {
	tables []*plan       // to be emptied first; one plan of each
	last   map[place]int // of each fragment and table: the index of its last TRUNCATE that counts
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

// empties says whether the transaction empties the table.
func (o *order) empties(t *table) bool {
	return slices.ContainsFunc(o.tables, func(p *plan) bool { return p.table == t })
}

// emptied is what the transaction says about one table.
type emptied struct {
	plan   *plan
	shards map[pipeline.ShardID]bool
	at     map[int]int // fragment: index of the last TRUNCATE
}

func truncates(tx *pipeline.Transaction) bool {
	return slices.ContainsFunc(tx.Fragments, func(f *pipeline.Fragment) bool { return f.Ops.Has(pipeline.Truncate) })
}

// orderOf looks for TRUNCATEs; see the package doc for what they mean.
func (s *session) orderOf(tx *pipeline.Transaction) (o order, err error) {
	if !truncates(tx) {
		return o, nil
	}
	var found []*emptied // in the order of their first TRUNCATE
	for n, f := range tx.Fragments {
		i := -1
		err := f.Walk(func(c *pipeline.Change) error {
			i++
			for _, r := range c.Truncated {
				p := s.plans[r]
				if p == nil {
					return fmt.Errorf("TRUNCATE of %s, which the fragment does not describe", r)
				}
				at := slices.IndexFunc(found, func(x *emptied) bool { return x.plan.table == p.table })
				if at < 0 {
					at = len(found)
					found = append(found, &emptied{p, map[pipeline.ShardID]bool{}, map[int]int{}})
				}
				found[at].shards[f.Shard] = true
				found[at].at[n] = i
			}
			return nil
		})
		if err != nil {
			return o, malformed(err)
		}
	}
	return s.decide(found)
}

// decide applies the policy.
func (s *session) decide(found []*emptied) (o order, err error) {
	o.last = map[place]int{}
	for _, x := range found {
		all, none := s.here(x)
		switch {
		case none, !all && s.cfg.Truncate == Ignore:
			continue
		case !all && s.cfg.Truncate == Stop:
			return o, apply.EmptiedInPart(x.plan.table.name.String(), s.cfg.Subscription, len(x.shards), s.cfg.Shards)
		}
		for fragment, i := range x.at {
			o.last[place{fragment, x.plan.table}] = i
		}
		o.tables = append(o.tables, x.plan)
	}
	return o, nil
}

// here compares the shards that emptied a table with those whose rows are in it. Of a table without a key that is being
// copied, a shard's rows are here once they have arrived; what it did before is contained in them.
func (s *session) here(x *emptied) (all, none bool) {
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
