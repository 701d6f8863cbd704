package apply

import (
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline"
)

// Missing counts what a transaction that is left out would have changed, for Skipped.Changes.
type Missing struct {
	counts     map[missingKind]int
	unreadable []string
}

// missingKind is what is counted.
type missingKind struct {
	table string // of the source
	op    pipeline.Op
}

// Count takes a change.
func (m *Missing) Count(c *pipeline.Change) {
	add := func(r *pipeline.Relation) {
		if m.counts == nil {
			m.counts = map[missingKind]int{}
		}
		m.counts[missingKind{quote(r.Namespace) + "." + quote(r.Name), c.Op}]++
	}
	switch c.Op {
	case pipeline.Insert, pipeline.Update, pipeline.Delete, pipeline.Read:
		add(c.Relation)
	case pipeline.Truncate:
		for _, r := range c.Truncated {
			add(r)
		}
	case pipeline.Message: // says nothing about tables
	}
}

// Unreadable takes an error that ended the reading of rows: they may be why the transaction is left out.
func (m *Missing) Unreadable(err error) { m.unreadable = append(m.unreadable, err.Error()) }

// String is for people: "public"."t": 2 insert, 1 delete; …
func (m *Missing) String() string {
	tables := map[string][]string{}
	for _, op := range []pipeline.Op{pipeline.Insert, pipeline.Update, pipeline.Delete, pipeline.Truncate, pipeline.Read} {
		for k, n := range m.counts {
			if k.op == op {
				tables[k.table] = append(tables[k.table], fmt.Sprintf("%d %s", n, op))
			}
		}
	}
	var lines []string
	for table, kinds := range tables {
		lines = append(lines, table+": "+strings.Join(kinds, ", "))
	}
	slices.Sort(lines)
	for _, text := range m.unreadable {
		lines = append(lines, "the rest cannot be read: "+text)
	}
	return strings.Join(lines, "; ")
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
