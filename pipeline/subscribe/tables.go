package subscribe

import (
	"context"
	"fmt"
	"slices"

	"shardcdc/pipeline/pattern"

	"github.com/jackc/pgx/v5"
)

// table is one that a shard has.
type table struct {
	schema, name string
	permanent    bool     // neither unlogged nor of an extension: what a wildcard may choose
	columns      []string // that are sent
	above        []string // quoted names of the partitioned tables that it is a partition of
	whole        bool     // REPLICA IDENTITY FULL: the stream does not say which columns are the key
	key          []string // by which a copied row is found; only known where it was looked for
}

func (t table) quoted() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }

func (t table) plain() string { return t.schema + "." + t.name }

const tablesSQL = `
SELECT n.nspname, c.relname, c.relpersistence = 'p'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = c.oid AND deptype = 'e'),
  ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
  ARRAY(SELECT pg_catalog.format('"%s"."%s"', replace(pn.nspname, '"', '""'), replace(p.relname, '"', '""'))
    FROM pg_catalog.pg_partition_ancestors(c.oid) up JOIN pg_catalog.pg_class p ON p.oid = up.relid
    JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace WHERE p.oid <> c.oid),
  c.relreplident = 'f'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2`

// publishedSQL: what given publications hold. attnames is new in PostgreSQL 15; what is older is refused elsewhere.
const publishedSQL = `
SELECT DISTINCT p.schemaname::text, p.tablename::text, true, ARRAY(SELECT jsonb_array_elements_text(coalesce(nullif(to_jsonb(p) -> 'attnames', 'null'), '[]'))), '{}'::text[],
  EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = p.schemaname AND c.relname = p.tablename AND c.relreplident = 'f')
FROM pg_catalog.pg_publication_tables p WHERE p.pubname = ANY($1) ORDER BY 1, 2`

// shardTables lists the tables that the subscription reads on a shard.
func shardTables(ctx context.Context, db *database, spec *Spec) ([]table, error) {
	sql, args := tablesSQL, []any{}
	if len(spec.Publications) > 0 {
		sql, args = publishedSQL, []any{spec.Publications}
	}
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.schema, &t.name, &t.permanent, &t.columns, &t.above, &t.whole)
	})
	if err != nil || len(spec.Publications) > 0 {
		return all, err
	}
	s, err := parseSelection(spec.Tables)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(t table) bool { return !s.chooses(t) })
	chosen := map[string]bool{}
	for _, t := range all {
		chosen[t.quoted()] = true
	}
	// The changes of a partition come under the name of the table above it.
	return slices.DeleteFunc(all, func(t table) bool {
		return slices.ContainsFunc(t.above, func(name string) bool { return chosen[name] })
	}), nil
}

// selection is what table patterns mean. An exclusion wins, wherever it stands.
type selection []pattern.Pattern

func parseSelection(texts []string) (selection, error) {
	s := make(selection, len(texts))
	for i, text := range texts {
		var err error
		if s[i], err = pattern.Parse(text); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s selection) chooses(t table) bool {
	matched := false
	for _, p := range s {
		if !p.Match(t.schema, t.name) {
			continue
		}
		if p.Exclude {
			return false
		}
		matched = matched || t.permanent || !p.Wild()
	}
	return matched
}
