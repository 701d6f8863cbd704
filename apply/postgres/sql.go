package postgres

import (
	"strconv"
	"strings"
)

// What an UPDATE does with a column; the letters are part of a statement's key.
const (
	colSkip  = '-' // not sent, not changed, or not ours to write
	colSet   = 's'
	colGuard = 'g' // cannot be written and must be as sent
)

// What a comparison of whole rows knows about a column; part of a statement's key.
const (
	oldSkip  = '-' // not sent, or computed on the target
	oldValue = 'v'
	oldNull  = 'n'
)

// builder writes one statement and remembers where its parameters come from.
type builder struct {
	strings.Builder
	plan   *plan
	params []param
}

// value writes a parameter. A cast gives it the column's type where the context would not.
func (b *builder) value(old bool, column int, cast bool) {
	b.params = append(b.params, param{old, column})
	b.WriteByte('$')
	b.WriteString(strconv.Itoa(len(b.params)))
	if cast {
		b.WriteString("::")
		b.WriteString(b.plan.columns[column].typ)
	}
}

func (b *builder) statement() *statement {
	return &statement{sql: b.String(), params: b.params, plan: b.plan}
}

// written are the columns that the source sent, but for what the target computes.
func (p *plan) written() (at []int) {
	for i, c := range p.columns {
		if !c.generated {
			at = append(at, i)
		}
	}
	return at
}

// insertSQL: every column that is written. upsert: a row that has the key takes the values.
func (p *plan) insertSQL(upsert bool) *statement {
	b := &builder{plan: p}
	b.WriteString("INSERT INTO " + p.table.name.String())
	at := p.written()
	if len(at) == 0 {
		b.WriteString(" DEFAULT VALUES")
		return b.statement()
	}
	for n, i := range at {
		b.WriteString(separator(n, " (", ", "))
		b.WriteString(quote(p.columns[i].name))
	}
	b.WriteString(") OVERRIDING SYSTEM VALUE VALUES (")
	for n, i := range at {
		b.WriteString(separator(n, "", ", "))
		b.value(false, i, false)
	}
	b.WriteString(")")
	if upsert {
		b.onConflict(at)
	}
	return b.statement()
}

func separator(n int, first, later string) string {
	if n == 0 {
		return first
	}
	return later
}

// updateSQL: columns has a letter for each column. An update of nothing looks that the row is there.
func (p *plan) updateSQL(columns []byte, l locator) *statement {
	b := &builder{plan: p}
	set := 0
	for i, what := range columns {
		if what != colSet {
			continue
		}
		if set == 0 {
			b.WriteString("UPDATE " + p.table.from() + " AS t SET ")
		} else {
			b.WriteString(", ")
		}
		set++
		b.WriteString(quote(p.columns[i].name) + " = ")
		b.value(false, i, false)
	}
	if set == 0 {
		b.WriteString("SELECT FROM " + p.table.from() + " AS t")
	}
	b.locate(l, " FROM ", set == 0)
	guards := false
	for i, what := range columns {
		if what == colGuard {
			b.WriteString(" AND ")
			b.exact("t.", i, false)
			guards = true
		}
	}
	st := b.statement()
	st.guards = guards
	return st
}

func (p *plan) deleteSQL(l locator) *statement {
	b := &builder{plan: p}
	b.WriteString("DELETE FROM " + p.table.from() + " AS t")
	b.locate(l, " USING ", false)
	return b.statement()
}

// locator says how to find a row.
type locator struct {
	old  bool   // the values are in the old row
	key  []int  // by these columns
	rest []byte // key is nil: by the whole old row, a letter for each column
}

// locate writes the WHERE. When only the whole row is known there may be several that are equal, and one of them
// is meant; ctid names it, in a partitioned table together with the partition.
func (b *builder) locate(l locator, with string, selects bool) {
	if l.key != nil {
		for n, i := range l.key {
			b.WriteString(separator(n, " WHERE ", " AND "))
			b.equal("t.", i, l.old)
		}
		return
	}
	t := b.plan.table
	switch {
	case selects:
		with = ", "
		fallthrough
	case t.partitioned:
		b.WriteString(with + "(SELECT ctid AS c, tableoid AS o FROM " + t.from() + " AS s")
		b.whole(l)
		b.WriteString(" LIMIT 1) AS x WHERE t.ctid = x.c AND t.tableoid = x.o")
	default:
		b.WriteString(" WHERE t.ctid = (SELECT ctid FROM " + t.from() + " AS s")
		b.whole(l)
		b.WriteString(" LIMIT 1)")
	}
}

// whole compares every column of the old row, first those that an index can find.
func (b *builder) whole(l locator) {
	n := 0
	for i, what := range l.rest {
		if c := b.plan.columns[i]; what == oldValue && c.leads {
			b.WriteString(separator(n, " WHERE ", " AND "))
			b.equal("s.", i, true)
			n++
		}
	}
	for i, what := range l.rest {
		if what != oldSkip {
			b.WriteString(separator(n, " WHERE ", " AND "))
			b.exact("s.", i, true)
			n++
		}
	}
}

// equal compares a column as the target's index does, or exactly where no index is.
func (b *builder) equal(of string, i int, old bool) {
	c := b.plan.columns[i]
	if c.equal == "" {
		b.exact(of, i, old)
		return
	}
	b.WriteString(of + quote(c.name) + " " + c.equal + " ")
	b.value(old, i, true)
}

// exact compares a column by its text: the same text read again is the same value, for every type.
func (b *builder) exact(of string, i int, old bool) {
	b.WriteString(of + quote(b.plan.columns[i].name) + "::text IS NOT DISTINCT FROM ")
	b.value(old, i, true)
	b.WriteString("::text")
}
