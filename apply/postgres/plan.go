package postgres

import (
	"context"
	"fmt"
	"slices"

	"shardcdc/apply"
	"shardcdc/pipeline"
)

// plan is how the changes of one version of a source's table become statements on a table of the target.
type plan struct {
	relation *pipeline.Relation
	source   tableName
	table    *table
	columns  []*column // of the target, in the source's order
	identity []int     // the source's replica identity: places in columns
	full     []int     // the target's key that locates a row under REPLICA IDENTITY FULL; nil: the whole row does
	gathers  bool      // changes may be gathered; see gather.go
	fold     []int     // the key by which they are folded; nil: only inserts are gathered
	upsert   []int     // the target's key by which a row is here already, while the table is copied; nil: there is none
	gone     bool      // dropped on the target, and not yet on this shard; there is no table then
	prepared map[string]*statement
}

// statement is a prepared statement, or one that is about to be.
type statement struct {
	name    string
	sql     string
	params  []param
	columns []int // of a COPY
	guards  bool  // an UPDATE that looks that columns are as sent; see colGuard
	plan    *plan
	key     string // in plan.prepared
}

// param takes a value from the old or the new row.
type param struct {
	old    bool
	column int
}

// plansMax limits the table versions in memory; the least that can happen above it is that all are read again.
const plansMax = 4096

// recall finds the plan of a version of a shard's table in memory: shards with equal tables share one.
func (s *session) recall(shard pipeline.ShardID, r *pipeline.Relation) *plan {
	p := s.plans[r]
	if p == nil {
		if p = s.plansByRaw[s.raw(shard, r)]; p != nil {
			s.plans[r] = p
		}
	}
	return p
}

// raw is the same for versions that have the same plan.
func (s *session) raw(shard pipeline.ShardID, r *pipeline.Relation) string {
	raw := string(r.Raw[5:])    // behind the type byte and the OID, which each shard has its own of
	if len(s.ddl.entries) > 0 { // shards that are not through with the same DDL see the target each in their own way
		raw = fmt.Sprint(shard) + raw
	}
	return raw
}

// resolve makes a plan for a version of a shard's table. It asks the catalog, so no pipeline may be open.
func (s *session) resolve(ctx context.Context, shard pipeline.ShardID, r *pipeline.Relation) error {
	p, err := s.plan(ctx, shard, r)
	if err != nil {
		return classify(err, nil)
	}
	s.plansByRaw[s.raw(shard, r)], s.plans[r] = p, p
	return nil
}

func (s *session) targetName(r *pipeline.Relation) tableName {
	schema, name := s.cfg.Map(r.Namespace, r.Name)
	return tableName{schema, name}
}

func (s *session) plan(ctx context.Context, shard pipeline.ShardID, r *pipeline.Relation) (*plan, error) {
	p := &plan{relation: r, source: tableName{r.Namespace, r.Name}, prepared: map[string]*statement{}}
	view := s.ddl.see(shard, s.targetName(r))
	if p.gone = view.gone; p.gone {
		return p, nil
	}
	t, err := s.table(ctx, view.name)
	if err != nil {
		return nil, err
	}
	p.table = t
	for i, c := range r.Columns {
		name, dropped := view.column(c.Name)
		target := t.columns[name]
		if dropped { // one of this name here is another
			target = &column{name: name, generated: true} // nothing is written to it
		}
		if target == nil {
			return nil, &apply.Blocked{
				Table: t.name.String(), Problem: fmt.Sprintf("column %s of the source is not on the target", quote(c.Name)),
				Try: fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s …, with the type and default of the source; it goes on by itself", t.name, quote(c.Name)),
			}
		}
		p.columns = append(p.columns, target)
		if c.Key && r.Identity != 'f' {
			p.identity = append(p.identity, i)
		}
	}
	keys := p.keysOfTarget()
	if len(keys) > 0 {
		p.full = keys[0]
	}
	p.upsert = p.keyToUpsert(keys)
	p.gathers, p.fold = p.gathering()
	return p, nil
}

// keysOfTarget are the keys of the target whose columns the source sends all, as places in columns.
func (p *plan) keysOfTarget() (keys [][]int) {
	for _, key := range p.table.keys {
		var at []int
		for _, c := range key {
			if i := slices.Index(p.columns, c); i >= 0 && !c.generated {
				at = append(at, i)
			}
		}
		if len(at) == len(key) {
			keys = append(keys, at)
		}
	}
	return keys
}

// keyToUpsert chooses a key of the target that two rows of the source cannot share: one that contains the source's
// identity, the shortest first. Where that is not known (the whole row, or nothing) the target's first key has to be one of
// the source.
func (p *plan) keyToUpsert(keys [][]int) (best []int) {
	if len(p.identity) == 0 {
		return p.full
	}
	for _, key := range keys {
		contains := !slices.ContainsFunc(p.identity, func(i int) bool { return !slices.Contains(key, i) })
		if contains && (best == nil || len(key) < len(best)) {
			best = key
		}
	}
	return best
}

// forget drops what was learned, at the limit.
func (s *session) forget() {
	if len(s.plans) <= plansMax {
		return
	}
	s.unlearn()
}

// unlearn forgets what was learned about tables, because they may have changed. Statements stay prepared on the server
// until they are the oldest; their plans are no longer found.
func (s *session) unlearn() {
	clear(s.tables)
	clear(s.plans)
	clear(s.plansByRaw)
	clear(s.touched)
	s.learned.Add(1)
}
