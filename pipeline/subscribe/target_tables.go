package subscribe

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// namesMax is how many tables a finding names.
const namesMax = 10

// writeRights are what an apply worker needs on a table: to find rows too.
var writeRights = []string{"SELECT", "INSERT", "UPDATE", "DELETE"}

// targetTablesSQL looks for tables on a target; of one that is not there the OID is NULL.
const targetTablesSQL = `
SELECT w.schema, w.name, c.oid IS NOT NULL,
  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), true),
  ARRAY(SELECT r.name FROM unnest($3::text[]) WITH ORDINALITY AS r(name, nr) WHERE NOT pg_catalog.has_table_privilege(c.oid, r.name) ORDER BY r.nr)
FROM unnest($1::text[], $2::text[]) AS w(schema, name)
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
ORDER BY w.schema, w.name`

// published puts together what all shards publish: every table once, with the columns that any of them has,
// and with a key if all of them have one.
func published(shards []shardCheck) []table {
	all := map[string]table{}
	for _, s := range shards {
		for _, t := range s.tables {
			columns := append(slices.Clone(all[t.quoted()].columns), t.columns...)
			slices.Sort(columns)
			t.columns = slices.Compact(columns)
			if before, seen := all[t.quoted()]; seen && len(before.key) == 0 {
				t.key = nil
			}
			all[t.quoted()] = t
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b table) int { return strings.Compare(a.quoted(), b.quoted()) })
}

// targetTables is what a target lacks for the tables that the shards publish, a list for each kind of fault.
type targetTables struct {
	missing    []table
	narrow     []table // columns are those that are missing
	closed     map[string]bool
	unwritable []table
	rights     map[string][]string // that the unwritable ones lack, by quoted name
}

func readTargetTables(ctx context.Context, db *database, wanted []table) (*targetTables, error) {
	schemas, names := make([]string, len(wanted)), make([]string, len(wanted))
	columns := map[string][]string{}
	for i, t := range wanted {
		schemas[i], names[i], columns[t.quoted()] = t.schema, t.name, t.columns
	}
	rows, err := db.Query(ctx, targetTablesSQL, schemas, names, writeRights)
	if err != nil {
		return nil, fmt.Errorf("look at the tables: %w", err)
	}
	found := &targetTables{closed: map[string]bool{}, rights: map[string][]string{}}
	var (
		t             table
		there, usable bool
		has, lacks    []string
	)
	_, err = pgx.ForEachRow(rows, []any{&t.schema, &t.name, &there, &has, &usable, &lacks}, func() error {
		if !usable {
			found.closed[t.schema] = true
		}
		if !there {
			found.missing = append(found.missing, t)
			return nil
		}
		missing := slices.DeleteFunc(slices.Clone(columns[t.quoted()]), func(c string) bool { return slices.Contains(has, c) })
		if len(missing) > 0 {
			found.narrow = append(found.narrow, table{schema: t.schema, name: t.name, columns: missing})
		}
		if len(lacks) > 0 {
			found.unwritable = append(found.unwritable, t)
			found.rights[t.quoted()] = slices.Clone(lacks)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at the tables: %w", err)
	}
	return found, nil
}

// findings are warnings: what is missing may be made later, and until then changes wait for it.
func (f *targetTables) findings(about, role string) (findings []Finding) {
	warn := func(what, try string) {
		findings = append(findings, Finding{Severity: Warning, About: about, What: what, Try: try})
	}
	if len(f.missing) > 0 {
		warn("tables are missing there: "+list(f.missing, table.plain)+"; the first change to one will wait for it",
			"create them, for example with pg_dump --schema-only of one shard")
	}
	if len(f.narrow) > 0 {
		first := f.narrow[0]
		warn("columns are missing there: "+list(f.narrow, func(t table) string { return t.plain() + " (" + strings.Join(t.columns, ", ") + ")" })+
			"; the first change to such a table will wait for them",
			"ALTER TABLE "+first.quoted()+" ADD COLUMN "+pgx.Identifier{first.columns[0]}.Sanitize()+" …, with the type and default that the shards have")
	}
	grantee := pgx.Identifier{role}.Sanitize()
	if schemas := quotedSorted(f.closed); len(schemas) > 0 {
		warn("role "+role+" may not use the schemas of tables: "+strings.Join(schemas, ", ")+"; the first change to one will wait for it",
			"GRANT USAGE ON SCHEMA "+strings.Join(schemas, ", ")+" TO "+grantee)
	}
	if len(f.unwritable) > 0 {
		warn("role "+role+" lacks rights on tables: "+list(f.unwritable, func(t table) string { return t.plain() + " (" + strings.Join(f.rights[t.quoted()], ", ") + ")" })+
			"; the first change to one will wait for them", f.grant()+" TO "+grantee)
	}
	return findings
}

// grant is the statement that gives what is missing, without to whom. Many tables are given by their schemas.
func (f *targetTables) grant() string {
	rights := slices.DeleteFunc(slices.Clone(writeRights), func(right string) bool {
		return !slices.ContainsFunc(f.unwritable, func(t table) bool { return slices.Contains(f.rights[t.quoted()], right) })
	})
	schemas := map[string]bool{}
	names := make([]string, len(f.unwritable))
	for i, t := range f.unwritable {
		names[i], schemas[t.schema] = t.quoted(), true
	}
	on := strings.Join(names, ", ")
	if len(names) > namesMax {
		on = "ALL TABLES IN SCHEMA " + strings.Join(quotedSorted(schemas), ", ")
	}
	return "GRANT " + strings.Join(rights, ", ") + " ON " + on
}

// list names the first tables.
func list(tables []table, name func(table) string) string {
	names := make([]string, min(len(tables), namesMax))
	for i := range names {
		names[i] = name(tables[i])
	}
	text := strings.Join(names, ", ")
	if more := len(tables) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func quotedSorted(names map[string]bool) []string {
	var quoted []string
	for name := range names {
		quoted = append(quoted, pgx.Identifier{name}.Sanitize())
	}
	slices.Sort(quoted)
	return quoted
}
