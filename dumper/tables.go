package dumper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Pattern is what people write for tables: schema.table, where each part is a name, a "quoted name", or a name with *
// in it for any characters. Of an unquoted name the ASCII letters are folded to lower case, as PostgreSQL does. A - in
// front excludes what others match.
type Pattern struct {
	Exclude       bool
	text          string // without the -
	schema, table part
}

type part struct {
	text string
	wild bool
}

// ParsePattern reads a pattern.
func ParsePattern(s string) (Pattern, error) {
	s, exclude := strings.CutPrefix(s, "-")
	p := Pattern{Exclude: exclude, text: s}
	schema, rest, err := parsePart(s)
	if err != nil {
		return p, fmt.Errorf("table pattern %q: %w", s, err)
	}
	if !strings.HasPrefix(rest, ".") {
		return p, fmt.Errorf("table pattern %q names no schema. Try: public.%s", s, s)
	}
	table, rest, err := parsePart(rest[1:])
	if err != nil {
		return p, fmt.Errorf("table pattern %q: %w", s, err)
	}
	if rest != "" {
		return p, fmt.Errorf("table pattern %q: %q is left over. Try: schema.table, schema.*, or \"Quoted\".\"Names\"", s, rest)
	}
	p.schema, p.table = schema, table
	return p, nil
}

func parsePart(s string) (p part, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, '.')
		if end < 0 {
			end = len(s)
		}
		text := fold(s[:end])
		if text == "" || strings.ContainsAny(text, " \t\"',;") {
			return p, "", fmt.Errorf("%q is no name. Try: quote it", text)
		}
		return part{text: text, wild: strings.Contains(text, "*")}, s[end:], nil
	}
	var name strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			name.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			name.WriteByte('"')
			i++
			continue
		}
		if name.Len() == 0 {
			break
		}
		return part{text: name.String()}, s[i+1:], nil
	}
	return p, "", errors.New("a quoted name is empty or does not end. Try: \"Name\", with \"\" for a quote in it")
}

// fold is PostgreSQL's for unquoted names in UTF-8: other letters than those of ASCII stay as they are.
func fold(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (p part) match(name string) bool {
	if !p.wild {
		return p.text == name
	}
	pieces := strings.Split(p.text, "*")
	if !strings.HasPrefix(name, pieces[0]) {
		return false
	}
	name = name[len(pieces[0]):]
	last := len(pieces) - 1
	for _, piece := range pieces[1:last] {
		i := strings.Index(name, piece)
		if i < 0 {
			return false
		}
		name = name[i+len(piece):]
	}
	return strings.HasSuffix(name, pieces[last])
}

// Match reports whether the pattern matches the table.
func (p Pattern) Match(schema, name string) bool {
	return p.schema.match(schema) && p.table.match(name)
}

// Wild reports whether the pattern may match several tables.
func (p Pattern) Wild() bool { return p.schema.wild || p.table.wild }

// table is a table that a publication could contain.
type table struct {
	oid, schema, name string
	partitioned       bool
	unlogged          bool
	extension         bool     // belongs to an extension
	identity          bool     // has a replica identity, so that updates and deletes can be published
	full              bool     // the identity is the whole row
	generated         byte     // a generated column in the identity: 's'tored, 'v'irtual; 0: none
	owned             bool     // we may publish it
	ancestors         []string // OIDs of the partitioned tables above it
}

// quoted is the table's name for SQL and for people.
func (t table) quoted() string { return identifier(t.schema) + "." + identifier(t.name) }

func readTables(ctx context.Context, conn *pgconn.PgConn) ([]table, error) {
	rows, err := query(ctx, conn, `SELECT c.oid, n.nspname, c.relname, c.relkind = 'p', c.relpersistence = 'u',
  EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid AND deptype = 'e'),
  c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND i.indisvalid
    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END),
  pg_catalog.pg_has_role(c.relowner, 'USAGE'),
  CASE WHEN c.relispartition THEN (SELECT pg_catalog.string_agg(relid::oid::text, ' ') FROM pg_catalog.pg_partition_ancestors(c.oid) WHERE relid <> c.oid) END,
  c.relreplident = 'f',
  (SELECT pg_catalog.max(a.attgenerated::text) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND (c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)))
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname`)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	tables := make([]table, len(rows))
	for i, r := range rows {
		tables[i] = table{
			oid: r[0], schema: r[1], name: r[2], partitioned: r[3] == "t", unlogged: r[4] == "t", extension: r[5] == "t",
			identity: r[6] == "t", owned: r[7] == "t", ancestors: strings.Fields(r[8]), full: r[9] == "t",
		}
		if r[10] != "" {
			tables[i].generated = r[10][0]
		}
	}
	return tables, nil
}

// selection is what patterns mean in one database.
type selection struct {
	tables []table  // to publish
	leaves []table  // the tables that hold their rows: these need the replica identity
	notes  []string // what a pattern matched and is not published, and why
	faults []string // patterns that cannot be followed
}

// selectTables follows the patterns; an exclusion wins, wherever it stands. A partition whose partitioned table is published too is left out: its changes come
// under the partitioned table's name (publish_via_partition_root), which is the name that stays the same on the target
// however the shard is partitioned. The price: TRUNCATE of a single partition is not published (PostgreSQL's rule).
// What only a wildcard found may be left out with a note; what was named must be possible.
func selectTables(all []table, texts []string) (s selection, err error) {
	patterns := make([]Pattern, len(texts))
	for i, text := range texts {
		if patterns[i], err = ParsePattern(text); err != nil {
			return s, err
		}
	}
	found := make([]bool, len(patterns))
	chosen := map[string]bool{}
	for _, t := range all {
		var named, matched, excluded bool
		for i, p := range patterns {
			if !p.Match(t.schema, t.name) {
				continue
			}
			found[i] = true
			excluded = excluded || p.Exclude
			matched = matched || !p.Exclude
			named = named || !p.Exclude && !p.Wild()
		}
		if matched && !excluded && s.accept(t, named) {
			chosen[t.oid] = true
		}
	}
	for i, p := range patterns {
		switch {
		case found[i]:
		case p.Exclude:
			s.notes = append(s.notes, fmt.Sprintf("-%s excludes no table. Try: correct the name", p.text))
		default:
			s.faults = append(s.faults, fmt.Sprintf("%s matches no table. Try: correct the name, or create the table first", p.text))
		}
	}
	s.choose(all, chosen)
	return s, nil
}

// accept says whether a matching table can be published, and takes down why not.
func (s *selection) accept(t table, named bool) bool {
	switch {
	case t.unlogged && named:
		s.faults = append(s.faults, fmt.Sprintf("%s is unlogged: its changes are not in the WAL. Try: ALTER TABLE %s SET LOGGED", t.quoted(), t.quoted()))
	case t.unlogged:
		s.notes = append(s.notes, fmt.Sprintf("%s is left out: it is unlogged. Try: ALTER TABLE %s SET LOGGED", t.quoted(), t.quoted()))
	case t.extension && !named:
		s.notes = append(s.notes, fmt.Sprintf("%s is left out: it belongs to an extension. Try: name it to publish it", t.quoted()))
	default:
		return true
	}
	return false
}

func (s *selection) choose(all []table, chosen map[string]bool) {
	for _, t := range all {
		under := slices.ContainsFunc(t.ancestors, func(oid string) bool { return chosen[oid] })
		if chosen[t.oid] && !under {
			s.tables = append(s.tables, t)
		}
		if !t.partitioned && (chosen[t.oid] || under) {
			s.leaves = append(s.leaves, t)
		}
	}
}

// identityFaults lists what is to be done before updates and deletes can be published. What is not there makes them fail
// on the source itself as soon as the table is published; and from 18 on, a generated column in the identity that is not
// published does so too. Before 18 such a column is never sent, so the row could not be found on the target.
func (s *selection) identityFaults(version int) (faults []string) {
	for _, t := range s.leaves {
		name := t.quoted()
		switch {
		case !t.identity:
			faults = append(faults, fmt.Sprintf("%s has no replica identity: every UPDATE and DELETE on it would fail. Try: ALTER TABLE %s ADD PRIMARY KEY (...), or ALTER TABLE %s REPLICA IDENTITY FULL", name, name, name))
		case t.generated == 'v':
			faults = append(faults, fmt.Sprintf("%s has a virtual generated column in its replica identity: every UPDATE and DELETE on it would fail. Try: a primary key and ALTER TABLE %s REPLICA IDENTITY DEFAULT, or a STORED column", name, name))
		case t.generated == 's' && !t.full && version < publishesGenerated:
			faults = append(faults, fmt.Sprintf("%s has a generated column in its replica identity, which PostgreSQL %s does not send: no UPDATE or DELETE could be replayed. Try: ALTER TABLE %s REPLICA IDENTITY USING INDEX with columns that are not generated, or FULL", name, versionName(version), name))
		}
	}
	return faults
}

// publishesGenerated is the first version that can publish generated columns.
const publishesGenerated = 180000

// wantsGenerated lists the tables whose updates and deletes need generated columns published.
func (s *selection) wantsGenerated(version int) (names []string) {
	for _, t := range s.leaves {
		if t.generated == 's' && version >= publishesGenerated {
			names = append(names, t.quoted())
		}
	}
	return names
}

func (s *selection) names() []string {
	names := make([]string, len(s.tables))
	for i, t := range s.tables {
		names[i] = t.quoted()
	}
	return names
}
