package mysql

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/mysql"
)

// plan is how the changes of one version of a source's table become statements on a table of the target.
type plan struct {
	relation *pipeline.Relation
	source   tableName
	table    *table
	columns  []planned // in the source's order
	identity []int     // the source's replica identity: places in columns
	full     []int     // the target's key that locates a row under REPLICA IDENTITY FULL; nil: the whole row does
	upsert   []int     // the target's key by which a row is here already, while the table is copied; nil: there is none
	insert   string    // INSERT INTO … VALUES
	replace  string    // behind the values: ON DUPLICATE KEY UPDATE …; empty: a row that is here has to be deleted first
}

// planned is a column of the source on the target.
type planned struct {
	*column
	quoted string
	kind   mysql.Kind
}

// inexact: equal is not the same.
func (c *planned) inexact() bool {
	folds, pads := c.kind.Collates()
	return folds && c.folds || pads && c.pads
}

// plansMax limits the table versions in memory, besides those of one group; above it all are read again.
const plansMax = 4096

// plan finds the plan of a version of a shard's table, or makes it.
func (s *session) plan(ctx context.Context, r *pipeline.Relation) (*plan, error) {
	if p := s.plans[r]; p != nil {
		return p, nil
	}
	name := s.targetName(r.Namespace, r.Name)
	if err := s.claim(tableName{r.Namespace, r.Name}, name); err != nil {
		return nil, err
	}
	t, err := s.table(ctx, name)
	if err != nil {
		return nil, err
	}
	p := &plan{relation: r, source: tableName{r.Namespace, r.Name}, table: t}
	for i, c := range r.Columns {
		target := t.column(c.Name)
		if target == nil {
			return nil, &apply.Blocked{
				Table: t.name.String(), Problem: fmt.Sprintf("column %s of the source is not on the target", quote(c.Name)),
				Try: fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s; it goes on by itself", t.name, quote(c.Name), mysql.KindOf(r, i).ColumnType()),
			}
		}
		if slices.ContainsFunc(p.columns, func(o planned) bool { return o.column == target }) {
			return nil, &apply.Blocked{
				Table: t.name.String(), Problem: fmt.Sprintf("two columns of the source are %s on the target: names of columns have no case in MySQL", quote(target.name)),
				Try: "rename one of them on the source, or with a shaping rule, and on the target",
			}
		}
		p.columns = append(p.columns, planned{target, quote(target.name), mysql.KindOf(r, i).In(target.mysql)})
	}
	p.identity = mysql.KeyColumns(r)
	keys := p.keysOfTarget()
	if len(keys) > 0 {
		p.full = keys[0]
	}
	p.upsert = p.keyToUpsert(keys)
	p.inserting()
	s.plans[r] = p
	return p, nil
}

// keysOfTarget are the keys of the target whose columns the source sends all, as places in columns.
func (p *plan) keysOfTarget() (keys [][]int) {
	for _, key := range p.table.keys {
		var at []int
		for _, c := range key {
			if i := slices.IndexFunc(p.columns, func(o planned) bool { return o.column == c }); i >= 0 && !c.generated {
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

// inserting prepares the texts around the values of an INSERT. ON DUPLICATE KEY means any unique index, and a row whose key the collation
// calls equal, so it will do only where there is one index, of exact columns.
func (p *plan) inserting() {
	var names, sets []string
	for _, c := range p.columns {
		if !c.generated {
			names = append(names, c.quoted)
			sets = append(sets, c.quoted+" = VALUES("+c.quoted+")")
		}
	}
	p.insert = "INSERT INTO " + p.table.name.String() + " (" + strings.Join(names, ", ") + ") VALUES "
	inexact := slices.ContainsFunc(p.upsert, func(i int) bool { return p.columns[i].inexact() })
	if p.upsert != nil && p.table.uniques == 1 && !inexact {
		p.replace = " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", ")
	}
}

// locating are the columns that find a row: of the old row, or, where none was sent, of the new one. Nil: the whole row.
func (p *plan) locating(oldKind byte) ([]int, error) {
	if oldKind == pipeline.OldFull {
		return p.full, nil
	}
	if len(p.identity) == 0 {
		return nil, &apply.Blocked{
			Table: p.table.name.String(), Problem: "the source sends no key to find the row by",
			Try: fmt.Sprintf("on every shard: ALTER TABLE %s.%s REPLICA IDENTITY FULL; then copy the table anew", p.source.schema, p.source.name),
		}
	}
	return p.identity, nil
}

// textBytes of a value are shown to a person.
const textBytes = 64

// rowText names a row by its key for an error.
func (p *plan) rowText(c *pipeline.Change) string {
	key, tuple := p.identity, c.New
	if c.OldKind != pipeline.OldNone {
		tuple = c.Old
	}
	if c.OldKind == pipeline.OldFull || len(key) == 0 {
		key = p.full
	}
	values := tuple.Values(nil)
	if len(key) == 0 || len(values) != len(p.columns) {
		return ""
	}
	var names, texts []string
	for _, i := range key {
		names = append(names, p.columns[i].name)
		text := "null"
		if values[i].Kind == pipeline.Text {
			text = string(values[i].Data[:min(textBytes, len(values[i].Data))])
		}
		texts = append(texts, text)
	}
	return "(" + strings.Join(names, ", ") + ")=(" + strings.Join(texts, ", ") + ")"
}
