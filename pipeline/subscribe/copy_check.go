package subscribe

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"shardcdc/dumper"
	"shardcdc/pipeline/mark"
)

// wanted is a table as the queries below take it.
type wanted struct {
	Schema  string   `json:"schema"`
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
}

func wantedOf(tables []table) []wanted {
	all := make([]wanted, len(tables))
	for i, t := range tables {
		all[i] = wanted{Schema: t.schema, Name: t.name, Columns: slices.Concat([]string{}, t.columns)}
	}
	return all
}

// copyWish is what a check of a target has to look at, for a copy above all.
type copyWish struct {
	creates    bool   // the target makes tables that are missing (control.Subscription.CreateTables)
	targetRows string // what a target does with rows that are there (package mark); empty: nothing is copied
	otherwise  string // what else mends a fault
}

// orNoCopy is what mends everything about a copy.
const orNoCopy = "; or --copy-data=false"

func (w copyWish) copies() bool { return w.targetRows != "" }

// blind says whether the target would make the table without the key by which copied rows are found: the stream does not say it.
func (w copyWish) blind(t table) bool { return w.creates && w.copies() && t.whole && len(t.key) > 0 }

// blindTables is the finding about tables that are missing, and blind.
func (w copyWish) blindTables(about, names string) Finding {
	return faultf(about, "create them with the key that the shards have, or name it in a rule of --shape (key: […])"+w.otherwise,
		"tables are missing there, and would be made without a key, by which copied rows are found: with REPLICA IDENTITY FULL the stream does not say it: %s", names)
}

// copyableSQL: may every row and every sent column be read?
const copyableSQL = `
SELECT w.schema, w.name,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (pg_catalog.has_table_privilege(c.oid, 'SELECT') OR NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND w.columns ? a.attname::text
      AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))),
  pg_catalog.row_security_active(c.oid)
FROM jsonb_to_recordset($1) AS w(schema text, name text, columns jsonb)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
ORDER BY w.schema, w.name`

// checkCopyable looks whether the tables of the shard with this DSN can be copied, and notes their keys.
func (c *shardCheck) checkCopyable(ctx context.Context, db *database, text, about string, wish copyWish) error {
	keys, err := dumper.FindKeys(ctx, text, "check", tableNames(c.tables))
	if err != nil {
		return err
	}
	for i, t := range c.tables {
		c.tables[i].key = keys[dumper.TableName{Schema: t.schema, Name: t.name}]
	}
	rows, err := db.Query(ctx, copyableSQL, wantedOf(c.tables))
	if err != nil {
		return fmt.Errorf("look whether the tables can be copied: %w", err)
	}
	var (
		t                table
		readable, hidden bool
		unreadable, part []table
	)
	_, err = pgx.ForEachRow(rows, []any{&t.schema, &t.name, &readable, &hidden}, func() error {
		if !readable {
			unreadable = append(unreadable, t)
		}
		if hidden {
			part = append(part, t)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look whether the tables can be copied: %w", err)
	}
	role := db.Config().User
	if len(unreadable) > 0 {
		c.findings = append(c.findings, faultf(about, grantSelect(unreadable, pgx.Identifier{role}.Sanitize())+wish.otherwise,
			"role %s may not read tables, so their rows cannot be copied: %s", role, list(unreadable, table.plain)))
	}
	if len(part) > 0 {
		c.findings = append(c.findings, faultf(about, "ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" BYPASSRLS"+wish.otherwise,
			"role %s sees only those rows that policies let it see, so a copy would be incomplete: %s", role, list(part, table.plain)))
	}
	return nil
}

// grantSelect is the statement that lets a role read tables. Many tables are given by their schemas.
func grantSelect(tables []table, role string) string {
	var r tableRights
	schemas := map[string]bool{}
	for _, t := range tables {
		r.add(t, []string{"SELECT"})
		schemas[t.schema] = true
	}
	return "GRANT USAGE ON SCHEMA " + strings.Join(quotedSorted(schemas), ", ") + " TO " + role + "; " + r.grant() + " TO " + role
}

// keyless notes the tables whose copy is one chunk per shard.
func keyless(tables []table) []Finding {
	without := slices.DeleteFunc(slices.Clone(tables), func(t table) bool { return len(t.key) > 0 })
	if len(without) == 0 {
		return nil
	}
	return []Finding{{
		Severity: Warning, About: "copy", Try: "a primary key, if they are large",
		What: "tables have no key: " + list(without, table.plain) + "; the rows of each shard are copied in one piece, which begins anew after a crash",
	}}
}

// keyedSQL lists the tables that exist and have no key made of columns that are sent.
const keyedSQL = `
SELECT w.schema, w.name
FROM jsonb_to_recordset($1) AS w(schema text, name text, columns jsonb)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index i
  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
    AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, nr)
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum WHERE k.nr <= i.indnkeyatts AND NOT w.columns ? a.attname::text))
ORDER BY w.schema, w.name`

// checkTargetCopy looks whether rows can be copied into the tables of a target. Those that lack rights or are not there
// are told of elsewhere.
func checkTargetCopy(ctx context.Context, db *database, about string, wish copyWish, tables []table) (findings []Finding, err error) {
	keyed := slices.DeleteFunc(slices.Clone(tables), func(t table) bool { return len(t.key) == 0 })
	lacking, err := db.tables(ctx, keyedSQL, keyed)
	if err != nil {
		return nil, fmt.Errorf("look at the keys of the tables: %w", err)
	}
	if len(lacking) > 0 {
		i := slices.IndexFunc(keyed, func(t table) bool { return t.quoted() == lacking[0].quoted() })
		columns := make([]string, len(keyed[i].key))
		for k, name := range keyed[i].key {
			columns[k] = pgx.Identifier{name}.Sanitize()
		}
		findings = append(findings, faultf(about, "the key that the shards have: ALTER TABLE "+lacking[0].quoted()+" ADD PRIMARY KEY ("+strings.Join(columns, ", ")+")"+wish.otherwise,
			"tables have a key on the shards and none there, by which a copied row could be found: %s", list(lacking, table.plain)))
	}
	if wish.targetRows != mark.TargetFail {
		return findings, nil
	}
	filled, err := db.filled(ctx, tables)
	if len(filled) > 0 {
		findings = append(findings, faultf(about, "TRUNCATE them there; or --if-target-has-rows truncate, which empties them, or merge, which writes over rows with the same key and keeps the others",
			"tables hold rows there already: %s", list(filled, table.plain)))
	}
	return findings, err
}

// readableSQL lists the tables that exist and may be read.
const readableSQL = `
SELECT w.schema, w.name
FROM jsonb_to_recordset($1) AS w(schema text, name text)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
ORDER BY w.schema, w.name`

// filled lists the tables that hold rows, as far as they may be read.
func (d *database) filled(ctx context.Context, tables []table) (filled []table, err error) {
	readable, err := d.tables(ctx, readableSQL, tables)
	if err != nil {
		return nil, fmt.Errorf("look for rows: %w", err)
	}
	for _, t := range readable {
		var found bool
		if err := d.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+t.quoted()+")").Scan(&found); err != nil {
			return nil, fmt.Errorf("look for rows in %s: %w", t.plain(), err)
		}
		if found {
			filled = append(filled, t)
		}
	}
	return filled, nil
}

// tables asks which of the tables a query lists.
func (d *database) tables(ctx context.Context, sql string, of []table) ([]table, error) {
	rows, err := d.Query(ctx, sql, wantedOf(of))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.schema, &t.name)
	})
}
