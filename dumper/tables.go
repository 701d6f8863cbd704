package dumper

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline/pattern"
)

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
	patterns := make([]pattern.Pattern, len(texts))
	for i, text := range texts {
		if patterns[i], err = pattern.Parse(text); err != nil {
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
			s.notes = append(s.notes, fmt.Sprintf("-%s excludes no table. Try: correct the name", p))
		default:
			s.faults = append(s.faults, fmt.Sprintf("%s matches no table. Try: correct the name, or create the table first", p))
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
