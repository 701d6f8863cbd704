package verify

import (
	"fmt"
	"slices"
	"strings"
)

// plan says how one table is compared.
type plan struct {
	tableName
	columns []string     // compared: sent by every shard that has the table, and not computed by the target
	key     []int        // indexes into columns; nil: rows have no key, and are known by all their values
	leading string       // the type of the key's first column when ranges of it mean the same everywhere; else empty
	shards  []*described // by ShardID; nil: the shard does not send the table
	target  *described
	recode  bool  // servers have different encodings
	rows    int64 // estimated, for people
	bytes   int64 // of the largest of them
	notes   []string
}

// unfit is a table that cannot be equal, or cannot be compared.
type unfit struct{ problem, try string }

func (u *unfit) Error() string { return u.problem + ". Try: " + u.try }

// resolve makes the plan of a table. Its error is an *unfit.
func resolve(name tableName, shards []*described, target *described) (*plan, error) {
	if target == nil {
		return nil, &unfit{"it is not on the target", "create it there, for example with pg_dump --schema-only of one shard"}
	}
	p := &plan{tableName: name, shards: shards, target: target}
	if err := p.chooseColumns(); err != nil {
		return nil, err
	}
	p.chooseKey()
	for _, t := range append([]*described{target}, shards...) {
		if t != nil {
			p.rows, p.bytes = max(p.rows, t.rows), max(p.bytes, t.bytes)
		}
	}
	return p, nil
}

func (p *plan) chooseColumns() error {
	var missing []string
	for _, t := range p.present() {
		for _, c := range t.columns {
			if c.published && p.target.column(c.name) < 0 && !slices.Contains(missing, c.name) {
				missing = append(missing, c.name)
			}
		}
	}
	if len(missing) > 0 {
		return &unfit{"the target's table has no column " + strings.Join(missing, ", "), "ALTER TABLE there, ADD COLUMN"}
	}
	var partly []string
	for _, c := range p.target.columns {
		sent := 0
		for _, t := range p.present() {
			if i := t.column(c.name); i >= 0 && t.columns[i].published {
				sent++
			}
		}
		switch {
		case c.generated || sent == 0:
		case sent < len(p.present()):
			partly = append(partly, c.name)
		default:
			p.columns = append(p.columns, c.name)
		}
	}
	if len(partly) > 0 {
		p.notes = append(p.notes, "columns that not every shard sends are left out: "+strings.Join(partly, ", "))
	}
	return nil
}

// present are the shards that send the table.
func (p *plan) present() (there []*described) {
	for _, t := range p.shards {
		if t != nil {
			there = append(there, t)
		}
	}
	return there
}

// chooseKey takes the first key that every change of a row carries, and that is never NULL.
func (p *plan) chooseKey() {
	var candidates [][]string
	for _, x := range p.target.indexes {
		if x.unique {
			candidates = append(candidates, x.columns)
		}
	}
	for _, t := range p.present() {
		if names, _ := t.identityColumns(); names != nil {
			candidates = append(candidates, names)
		}
	}
	for _, names := range candidates {
		if p.isKey(names) {
			for _, n := range names {
				p.key = append(p.key, slices.Index(p.columns, n))
			}
			p.leading = p.rangeType(names[0])
			return
		}
	}
}

func (p *plan) isKey(names []string) bool {
	for _, n := range names {
		if !slices.Contains(p.columns, n) || !p.target.columns[p.target.column(n)].notNull {
			return false
		}
		for _, t := range p.present() {
			identity, all := t.identityColumns()
			if !all && !slices.Contains(identity, n) || !t.columns[t.column(n)].notNull {
				return false
			}
		}
	}
	return true
}

// Types that every server sorts alike, whatever its collations, in groups that compare with each other.
var rangeTypes = map[string]string{
	"smallint": "integer", "integer": "integer", "bigint": "integer", "numeric": "numeric", "uuid": "uuid", "date": "date",
	"timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz", "bytea": "bytea",
}

// rangeType is the target's type of a column when ranges of it mean the same everywhere, and every server has an index for
// them.
func (p *plan) rangeType(name string) string {
	typ := p.target.columns[p.target.column(name)].typ
	for _, t := range append(p.present(), p.target) {
		if g := rangeTypes[t.columns[t.column(name)].typ]; g == "" || g != rangeTypes[typ] || !t.leads(name) {
			return ""
		}
	}
	return typ
}

// identity are the columns by which rows are known.
func (p *plan) identity() []int {
	if p.key != nil {
		return p.key
	}
	all := make([]int, len(p.columns))
	for i := range all {
		all[i] = i
	}
	return all
}

func (p *plan) names(at []int) []string {
	names := make([]string, len(at))
	for i, c := range at {
		names[i] = p.columns[c]
	}
	return names
}

// from is the table as the stream means it: rows of children by old-style inheritance are under their own name. A row
// filter of the publications belongs to it.
func (p *plan) from(t *described) string {
	from := "ONLY " + p.sql()
	if t.partitioned {
		from = p.sql()
	}
	if t.filter != "" {
		return "(SELECT * FROM " + from + " WHERE " + t.filter + ")"
	}
	return from
}

// record is the text of some columns as one; NULL, an empty text and a missing column are different in it.
func (p *plan) record(at []int) string {
	quoted := make([]string, len(at))
	for i, c := range at {
		quoted[i] = "t." + quote(p.columns[c])
	}
	return "ROW(" + strings.Join(quoted, ", ") + ")::text"
}

// hashed is what functions of bytes get of a text: the same bytes on every server.
func (p *plan) hashed(text string) string {
	if p.recode {
		return "pg_catalog.encode(pg_catalog.convert_to(" + text + ", 'UTF8'), 'hex')"
	}
	return text
}

func (p *plan) hash(text string, seed int64) string {
	return fmt.Sprintf(`pg_catalog.hashtextextended(%s COLLATE pg_catalog."C", %d)`, p.hashed(text), seed)
}

// digest is digest in SQL.
func (p *plan) digest(text string) string {
	if p.recode {
		return "pg_catalog.md5(pg_catalog.convert_to(" + text + ", 'UTF8'))"
	}
	return "pg_catalog.md5(" + text + ")"
}
