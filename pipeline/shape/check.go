package shape

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline"
)

// Facts are what a catalog knows about a table and its changes do not say.
type Facts struct {
	Relation *pipeline.Relation
	Unique   [][]string // columns of unique indexes whose values are never NULL
	Large    []string   // columns whose values PostgreSQL may keep apart (TOAST)
	NotNull  []string   // columns that are NOT NULL
}

// Finding is what a check found.
type Finding struct {
	Fault bool // it would not work; else it may surprise
	Text  string
}

// Check looks whether the rules fit a table of the source.
func (s *Shape) Check(f *Facts) (findings []Finding) {
	t := s.Rule(f.Relation.Namespace, f.Relation.Name)
	if t == nil || t.Exclude {
		return nil
	}
	p, err := t.bind(f.Relation)
	if err != nil {
		for _, e := range unjoin(err) {
			findings = append(findings, Finding{Fault: true, Text: e.Error()})
		}
		return findings
	}
	note := func(fault bool, format string, args ...any) {
		err := t.fault(fmt.Errorf("table %s: %w", f.Relation, fmt.Errorf(format, args...)))
		findings = append(findings, Finding{Fault: fault, Text: err.Error()})
	}
	if len(t.Key) > 0 && !slices.ContainsFunc(f.Unique, func(u []string) bool { return subset(u, t.Key) }) {
		note(true, "key: no unique index says that (%s) names one row. Try: CREATE UNIQUE INDEX on columns that are NOT NULL, on every shard", strings.Join(t.Key, ", "))
	}
	for _, u := range f.Unique {
		for _, column := range u {
			if m, masked := t.Mask[column]; masked && m.Hash == "" && p.full() && len(t.Key) == 0 {
				note(true, "mask of column %s: it is unique, and %s would make many the same. Try: hash, or key with the columns that identify a row", column, m)
			}
		}
	}
	for _, column := range f.NotNull {
		if t.Mask[column].Nullify {
			note(false, "mask of column %s: it is NOT NULL, and has to allow NULL where the stream is applied", column)
		}
	}
	if p.filter != nil && !p.full() {
		var unknown []string
		for _, c := range f.Large {
			i := slices.IndexFunc(f.Relation.Columns, func(col pipeline.Column) bool { return col.Name == c })
			if i >= 0 && !f.Relation.Columns[i].Key && t.stays(c) {
				unknown = append(unknown, c)
			}
		}
		if len(unknown) > 0 {
			note(false, "rows: an update that lets a row in and does not touch a large value of (%s) stops the stream: the source does not send it. Try: ALTER TABLE %s REPLICA IDENTITY FULL, on every shard, if such rows move", strings.Join(unknown, ", "), f.Relation)
		}
	}
	return findings
}

// CheckNames looks at tables together, by the names that they have at the source: two must not be one in the stream.
func (s *Shape) CheckNames(tables [][2]string) error {
	var errs []error
	first := map[[2]string][2]string{}
	for _, t := range tables {
		if s.Excluded(t[0], t[1]) {
			continue
		}
		schema, name := s.Name(t[0], t[1])
		to := [2]string{schema, name}
		if other, taken := first[to]; taken && other != t {
			errs = append(errs, fmt.Errorf("tables %s.%s and %s.%s would both be %s.%s in the stream. Try: another rename", other[0], other[1], t[0], t[1], schema, name))
		}
		first[to] = t
	}
	return errors.Join(errs...)
}

// CheckUse finds rules that count for none of the tables: a name that is wrong would leave a value unmasked. For a pattern that is
// no fault, as tables may come.
func (s *Shape) CheckUse(tables [][2]string) (findings []Finding) {
	for i := range s.Tables {
		rule := &s.Tables[i]
		if !slices.ContainsFunc(tables, func(t [2]string) bool { return s.Rule(t[0], t[1]) == rule }) {
			err := rule.fault(errors.New("it counts for no table that is captured. Try: correct the name, or move it before the rule that matches first"))
			findings = append(findings, Finding{Fault: !rule.match.Wild(), Text: err.Error()})
		}
	}
	return findings
}

// Columns are the names in the stream of those columns of a table that are in it.
func (s *Shape) Columns(schema, table string, columns []string) []string {
	t := s.Rule(schema, table)
	if t == nil {
		return columns
	}
	var stay []string
	for _, c := range columns {
		if !t.stays(c) {
			continue
		}
		if to, renamed := t.RenameColumns[c]; renamed {
			c = to
		}
		stay = append(stay, c)
	}
	return stay
}

// Alters says whether the rows that the stream has of a table of the source are not all of them, as they are.
func (s *Shape) Alters(schema, table string) bool {
	t := s.Rule(schema, table)
	return t != nil && (t.Rows != "" || t.rewrites())
}

// Excluded says whether nothing of a table of the source is in the stream.
func (s *Shape) Excluded(schema, table string) bool {
	t := s.Rule(schema, table)
	return t != nil && t.Exclude
}

// Keyed says whether a rule names the key of a table of the source.
func (s *Shape) Keyed(schema, table string) bool {
	t := s.Rule(schema, table)
	return t != nil && len(t.Key) > 0
}

// Route is the subject behind cdc.NAME. of the rows of a table; schema and table are its names in the stream.
func (s *Shaper) Route(schema, table string) (tokens string, ok bool) {
	if s == nil {
		return "", false
	}
	tokens, ok = s.routes[[2]string{schema, table}]
	return tokens, ok
}

func subset(of, all []string) bool {
	return !slices.ContainsFunc(of, func(s string) bool { return !slices.Contains(all, s) })
}
