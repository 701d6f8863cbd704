package subscribe

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"shardcdc/pipeline/mark"
)

// namesMax is how many tables a finding names.
const namesMax = 10

// writeRights are what an apply worker needs on a table: to find rows too.
var writeRights = []string{"SELECT", "INSERT", "UPDATE", "DELETE"}

// allRights is the order in which rights are granted.
var allRights = append(slices.Clone(writeRights), "TRUNCATE")

// targetTablesSQL looks for tables on a target; of one that is not there the OID is NULL. A copy that empties them needs
// TRUNCATE ($4) where no table outside refers to it; what others refer to cannot be truncated, and is emptied by DELETE.
const targetTablesSQL = `
WITH w AS MATERIALIZED (
  SELECT w.schema, w.name, n.oid AS nspoid, c.oid
  FROM unnest($1::text[], $2::text[]) AS w(schema, name)
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p'))
SELECT w.schema, w.name, w.oid IS NOT NULL,
  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped),
  coalesce(pg_catalog.has_schema_privilege(w.nspoid, 'USAGE'), true),
  ARRAY(SELECT r.name FROM unnest($3::text[] || CASE WHEN $4 AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f
      WHERE f.contype = 'f' AND f.confrelid = w.oid AND f.conrelid NOT IN (SELECT o.oid FROM w o WHERE o.oid IS NOT NULL)) THEN '{TRUNCATE}' ELSE '{}'::text[] END)
    WITH ORDINALITY AS r(name, nr) WHERE NOT pg_catalog.has_table_privilege(w.oid, r.name) ORDER BY r.nr)
FROM w
ORDER BY w.schema, w.name`

// tableRights are rights on tables.
type tableRights struct {
	tables []table
	rights map[string][]string // by quoted name
}

func (r *tableRights) add(t table, rights []string) {
	if r.rights == nil {
		r.rights = map[string][]string{}
	}
	r.tables = append(r.tables, t)
	r.rights[t.quoted()] = slices.Clone(rights)
}

func (r tableRights) String() string {
	return list(r.tables, func(t table) string { return t.plain() + " (" + strings.Join(r.rights[t.quoted()], ", ") + ")" })
}

// grant is the statement that gives them, without to whom. Those on many tables are given by their schemas.
func (r tableRights) grant() string {
	rights := slices.DeleteFunc(slices.Clone(allRights), func(right string) bool {
		return !slices.ContainsFunc(r.tables, func(t table) bool { return slices.Contains(r.rights[t.quoted()], right) })
	})
	schemas := map[string]bool{}
	names := make([]string, len(r.tables))
	for i, t := range r.tables {
		names[i], schemas[t.schema] = t.quoted(), true
	}
	on := strings.Join(names, ", ")
	if len(names) > namesMax {
		on = "ALL TABLES IN SCHEMA " + strings.Join(quotedSorted(schemas), ", ")
	}
	return "GRANT " + strings.Join(rights, ", ") + " ON " + on
}

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
	blind      []table // missing, and made without their key; see copyWish
	narrow     []table // columns are those that are missing
	closed     map[string]bool
	unwritable tableRights
}

func readTargetTables(ctx context.Context, db *database, wanted []table, wish copyWish) (*targetTables, error) {
	schemas, names := make([]string, len(wanted)), make([]string, len(wanted))
	columns, blind := map[string][]string{}, map[string]bool{}
	for i, t := range wanted {
		schemas[i], names[i], columns[t.quoted()] = t.schema, t.name, t.columns
		blind[t.quoted()] = wish.blind(t)
	}
	rows, err := db.Query(ctx, targetTablesSQL, schemas, names, writeRights, wish.targetRows == mark.TargetTruncate)
	if err != nil {
		return nil, fmt.Errorf("look at the tables: %w", err)
	}
	found := &targetTables{closed: map[string]bool{}}
	var (
		t             table
		there, usable bool
		has, lacks    []string
	)
	_, err = pgx.ForEachRow(rows, []any{&t.schema, &t.name, &there, &has, &usable, &lacks}, func() error {
		if !usable {
			found.closed[t.schema] = true
		}
		if !there && blind[t.quoted()] {
			found.blind = append(found.blind, t)
			return nil
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
			found.unwritable.add(t, lacks)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at the tables: %w", err)
	}
	return found, nil
}

// findings are warnings: what is missing may be made later, and until then changes wait for it. For a copy they are faults:
// everything else on the target would wait as well.
func (f *targetTables) findings(about, role string, wish copyWish) (findings []Finding) {
	found := func(what, waits, try string) {
		one := Finding{Severity: Warning, About: about, What: what + "; the first change to one will wait for " + waits, Try: try}
		if wish.copies() {
			one = faultf(about, try+wish.otherwise, "%s, so their rows cannot be copied", what)
		}
		findings = append(findings, one)
	}
	if len(f.missing) > 0 {
		found("tables are missing there: "+list(f.missing, table.plain), "it", "create them, for example with pg_dump --schema-only of one shard, or let the target make them (--create-tables)")
	}
	if len(f.blind) > 0 {
		findings = append(findings, wish.blindTables(about, list(f.blind, table.plain)))
	}
	if len(f.narrow) > 0 {
		first := f.narrow[0]
		found("columns are missing there: "+list(f.narrow, func(t table) string { return t.plain() + " (" + strings.Join(t.columns, ", ") + ")" }), "them",
			"ALTER TABLE "+first.quoted()+" ADD COLUMN "+pgx.Identifier{first.columns[0]}.Sanitize()+" …, with the type and default that the shards have")
	}
	grantee := pgx.Identifier{role}.Sanitize()
	if schemas := quotedSorted(f.closed); len(schemas) > 0 {
		names := strings.Join(schemas, ", ")
		found("role "+role+" may not use the schemas of tables: "+names, "it", "GRANT USAGE ON SCHEMA "+names+" TO "+grantee)
	}
	if len(f.unwritable.tables) > 0 {
		found("role "+role+" lacks rights on tables: "+f.unwritable.String(), "them", f.unwritable.grant()+" TO "+grantee)
	}
	return findings
}

const creatableSQL = `
SELECT w.name, n.oid IS NOT NULL, coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE'), pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'))
FROM unnest($1::text[]) w(name) LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.name ORDER BY 1`

// creatable looks whether the worker may make what is missing; nothing is missing then.
func (f *targetTables) creatable(ctx context.Context, db *database, about, role string) (findings []Finding, err error) {
	if len(f.missing) == 0 {
		return nil, nil
	}
	schemas := map[string]bool{}
	for _, t := range f.missing {
		schemas[t.schema] = true
	}
	rows, err := db.Query(ctx, creatableSQL, slices.Collect(maps.Keys(schemas)))
	if err != nil {
		return nil, fmt.Errorf("ask for rights: %w", err)
	}
	grantee := " TO " + pgx.Identifier{role}.Sanitize()
	var (
		schema     string
		there, may bool
	)
	_, err = pgx.ForEachRow(rows, []any{&schema, &there, &may}, func() error {
		grant, what := "GRANT CREATE ON SCHEMA "+pgx.Identifier{schema}.Sanitize()+grantee, "tables in schema "+schema
		if !there {
			grant, what = "GRANT CREATE ON DATABASE "+pgx.Identifier{db.Config().Database}.Sanitize()+grantee, "schema "+schema
		}
		if !may {
			findings = append(findings, faultf(about, grant, "role %s may not make %s, which is to be made there", role, what))
		}
		return nil
	})
	if err != nil {
		return findings, fmt.Errorf("ask for rights: %w", err)
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{Severity: Info, About: about, What: "tables are missing there, and are made before their first rows: " + list(f.missing, table.plain)})
	}
	f.missing = nil
	return findings, nil
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
