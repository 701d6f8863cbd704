package subscribe

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What apply workers make on a target, in the schema cdc. Each has rows by subscription.
const skippedTable = "skipped" // stays when a subscription is dropped: it says what the database lacks

var targetTablesMade = []string{"progress", "copying", "ddl", "ddl_done", skippedTable}

// madeRights are what a worker needs on them. Who made them has these.
var madeRights = map[string][]string{
	"progress":   {"SELECT", "INSERT", "UPDATE"},
	"copying":    {"SELECT", "INSERT", "UPDATE", "DELETE"},
	"ddl":        {"SELECT", "INSERT", "UPDATE", "DELETE"},
	"ddl_done":   {"SELECT"},
	skippedTable: {"SELECT", "INSERT"},
}

// ownRights is what a role may do with the schema cdc and its tables.
type ownRights struct {
	createSchema bool // CREATE on the database, which CREATE SCHEMA IF NOT EXISTS wants even where there is one
	schema       bool // it is there
	use, create  bool
	missing      []string
	foreign      []string // there, and of an owner that the role is no member of: it could not make the missing ones
	lacking      tableRights
}

const ownSchemaSQL = `
SELECT pg_catalog.has_schema_privilege(oid, 'USAGE'), pg_catalog.has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = 'cdc'`

const ownTablesSQL = `
SELECT w.name, c.oid IS NOT NULL, coalesce(pg_catalog.pg_has_role(c.relowner, 'USAGE'), true), ARRAY(SELECT r FROM pg_catalog.unnest(pg_catalog.string_to_array(w.rights, ' ')) r WHERE NOT pg_catalog.has_table_privilege(c.oid, r))
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY w(name, rights, nr)
LEFT JOIN pg_catalog.pg_class c ON c.relname = w.name AND c.relkind = 'r' AND c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'cdc')
ORDER BY w.nr`

func (o *ownRights) read(ctx context.Context, db *database) error {
	rows, err := db.Query(ctx, ownSchemaSQL)
	if err != nil {
		return fmt.Errorf("ask for rights: %w", err)
	}
	if _, err = pgx.ForEachRow(rows, []any{&o.use, &o.create}, func() error { o.schema = true; return nil }); err != nil {
		return fmt.Errorf("ask for rights: %w", err)
	}
	wanted := make([]string, len(targetTablesMade))
	for i, name := range targetTablesMade {
		wanted[i] = strings.Join(madeRights[name], " ")
	}
	if rows, err = db.Query(ctx, ownTablesSQL, targetTablesMade, wanted); err != nil {
		return fmt.Errorf("ask for rights: %w", err)
	}
	var (
		name         string
		there, owned bool
		lacks        []string
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &there, &owned, &lacks}, func() error {
		if !owned {
			o.foreign = append(o.foreign, "cdc."+name)
		}
		switch {
		case !there:
			o.missing = append(o.missing, "cdc."+name)
		case len(lacks) > 0:
			o.lacking.add(table{schema: "cdc", name: name}, lacks)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ask for rights: %w", err)
	}
	return nil
}

func (o *ownRights) findings(about, user, database string) (findings []Finding) {
	role := pgx.Identifier{user}.Sanitize()
	create := "GRANT CREATE ON DATABASE " + database + " TO " + role
	switch {
	case !o.schema && !o.createSchema:
		findings = append(findings, faultf(about, create, "role %s may not create the schema cdc, where the progress is kept", user))
	case o.schema && len(o.missing) > 0 && !(o.createSchema && o.create && len(o.foreign) == 0):
		try := create + "; GRANT USAGE, CREATE ON SCHEMA cdc TO " + role
		for _, name := range o.foreign {
			try += "; ALTER TABLE " + name + " OWNER TO " + role
		}
		findings = append(findings, faultf(about, try, "role %s may not make what is missing in the schema cdc, where the progress is kept: %s", user, strings.Join(o.missing, ", ")))
	case o.schema && !o.use:
		findings = append(findings, faultf(about, "GRANT USAGE ON SCHEMA cdc TO "+role, "role %s may not use the schema cdc, where the progress is kept", user))
	}
	if len(o.lacking.tables) > 0 {
		findings = append(findings, faultf(about, o.lacking.grant()+" TO "+role, "role %s lacks rights on tables in which the progress is kept: %s", user, o.lacking))
	}
	return findings
}
