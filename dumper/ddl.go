package dumper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline/pattern"

	"github.com/jackc/pgx/v5/pgconn"
)

// Capturing DDL: event triggers on the shard write each statement that changes a table of the subscription into the WAL,
// as a logical message (package mark) inside the statement's own transaction. So it has a place in the order.
//
//	statement ─► sql_drop: what was dropped ─┐ (a setting of the transaction)
//	          ─► ddl_command_end ────────────┴► cdc.ddl_NAME() ─► cdc.ddl_NAME_note() ─► pg_logical_emit_message
//
// Each subscription has triggers and functions of its own, so that they come and go with it.
//
// The user's statement never fails because of us. Should the functions fail nevertheless, they warn, and write a mark that
// says so: a target stops there, and a person decides. Failing the statement would let a fault of the capture stop the
// application; writing nothing would be a gap that shows only when a row does not fit.
//
// The triggers fire ALWAYS: rows are in the WAL whatever session_replication_role is, so statements have to be.
//
// What runs in a function or a DO block is taken from PL/pgSQL's context, which quotes it exactly. A function in SQL
// does not say what it runs; then the mark says Inexact. See ddl_sql.go.

// DDLSpec says whose triggers on which shard.
type DDLSpec struct {
	DSN          string
	Name         string   // the shard's name, for messages
	Subscription string   // the triggers are named after it
	Token        string   // proves to readers that the triggers wrote a mark; kept where only their owner can read it
	Publications []string // statements about their tables are captured
	Tables       []string // patterns, as in ProvisionSpec: also those about tables that match; may be empty
}

// names of what is installed.
func (s *DDLSpec) function() string { return "ddl_" + s.Subscription }
func (s *DDLSpec) note() string     { return s.function() + "_note" }
func (s *DDLSpec) filled() string   { return s.function() + "_filled" }
func (s *DDLSpec) token() string    { return s.function() + "_token" }

// Triggers are the names of the event triggers.
func (s *DDLSpec) Triggers() []string {
	return []string{"cdc_" + s.Subscription + "_ddl_drop", "cdc_" + s.Subscription + "_ddl_end"}
}

// InstallDDL makes the triggers, or makes them anew: with other publications or patterns.
func InstallDDL(ctx context.Context, spec DDLSpec) error {
	sql, err := spec.install()
	if err != nil {
		return named(spec.Name, &FatalError{What: err.Error()})
	}
	conn, err := dial(ctx, spec.DSN, "ddl", false)
	if err != nil {
		return named(spec.Name, err)
	}
	defer hangUp(conn)
	if _, err := query(ctx, conn, sql); err != nil {
		return named(spec.Name, ddlRefused("install", err))
	}
	return nil
}

// ddlRefused says what to do about a right that is missing.
func ddlRefused(doing string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return &FatalError{
			What: "event triggers for DDL: " + doing, Err: err,
			Try: "ALTER ROLE … SUPERUSER for the shard's role while this command runs (PostgreSQL lets nobody else make event triggers; hosted ones have a role for it), or --ddl ignore",
		}
	}
	return fmt.Errorf("event triggers for DDL: %s: %w", doing, err)
}

// InspectDDL lists what is installed on the shard for the subscription.
func InspectDDL(ctx context.Context, spec DDLSpec) ([]string, error) {
	conn, err := dial(ctx, spec.DSN, "ddl", false)
	if err != nil {
		return nil, named(spec.Name, err)
	}
	defer hangUp(conn)
	there, err := spec.there(ctx, conn)
	return there, named(spec.Name, err)
}

// there lists triggers, functions and the table, for people.
func (s *DDLSpec) there(ctx context.Context, conn *pgconn.PgConn) ([]string, error) {
	rows, err := query(ctx, conn, fmt.Sprintf(`SELECT 'event trigger ' || evtname FROM pg_catalog.pg_event_trigger WHERE evtname IN (%s)
UNION ALL SELECT 'function ' || n.nspname || '.' || p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'cdc' AND p.proname IN (%s, %s, %s)
UNION ALL SELECT 'table cdc.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'cdc' AND c.relname = %s ORDER BY 1`, list(s.Triggers(), literal), literal(s.function()), literal(s.note()), literal(s.filled()), literal(s.token())))
	if err != nil {
		return nil, fmt.Errorf("look for the event triggers for DDL: %w", err)
	}
	there := make([]string, len(rows))
	for i, r := range rows {
		there[i] = r[0]
	}
	return there, nil
}

// UninstallDDL removes what InstallDDL made, and the schema cdc if nothing else is in it. What is gone is no error.
func UninstallDDL(ctx context.Context, spec DDLSpec) (removed []string, err error) {
	conn, err := dial(ctx, spec.DSN, "ddl", false)
	if err != nil {
		return nil, named(spec.Name, err)
	}
	defer hangUp(conn)
	there, err := spec.there(ctx, conn)
	if err != nil || len(there) == 0 {
		return nil, named(spec.Name, err)
	}
	var sql strings.Builder
	for _, t := range spec.Triggers() {
		fmt.Fprintf(&sql, "DROP EVENT TRIGGER IF EXISTS %s;\n", identifier(t))
	}
	fmt.Fprintf(&sql, "DROP FUNCTION IF EXISTS cdc.%s(), cdc.%s(text, text, text, text), cdc.%s(oid);\n",
		identifier(spec.function()), identifier(spec.note()), identifier(spec.filled()))
	fmt.Fprintf(&sql, "DROP TABLE IF EXISTS cdc.%s;\n", identifier(spec.token()))
	sql.WriteString(dropSchemaSQL)
	if _, err := query(ctx, conn, sql.String()); err != nil {
		return nil, named(spec.Name, ddlRefused("remove", err))
	}
	return there, nil
}

// dropSchemaSQL: whoever may have been as quick as we are is no reason to fail.
const dropSchemaSQL = `DO $$BEGIN
  IF pg_catalog.to_regnamespace('cdc') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
    WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid = pg_catalog.to_regnamespace('cdc')) THEN
    DROP SCHEMA cdc RESTRICT;
  END IF;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR undefined_object OR invalid_schema_name THEN NULL;
END$$`

// install is one transaction.
func (s *DDLSpec) install() (string, error) {
	var in, out [][2]string
	for _, text := range s.Tables {
		p, err := pattern.Parse(text)
		if err != nil {
			return "", err
		}
		schema, table := p.Regexps()
		if p.Exclude {
			out = append(out, [2]string{schema, table})
		} else {
			in = append(in, [2]string{schema, table})
		}
	}
	values := strings.NewReplacer(
		"@subscription@", literal(s.Subscription),
		"@function@", identifier(s.function()), "@note@", identifier(s.note()), "@filled@", identifier(s.filled()), "@token@", identifier(s.token()), "@secret@", literal(s.Token), "@name@", s.function(),
		"@setting@", literal("cdc."+s.function()),
		"@publications@", array(s.Publications),
		"@in_schema@", array(column(in, 0)), "@in_table@", array(column(in, 1)),
		"@out_schema@", array(column(out, 0)), "@out_table@", array(column(out, 1)),
		"@drop@", identifier(s.Triggers()[0]), "@end@", identifier(s.Triggers()[1]),
		"@drop_name@", literal(s.Triggers()[0]), "@end_name@", literal(s.Triggers()[1]), "@signature@", literal("cdc."+identifier(s.function())+"()"),
	)
	return values.Replace(installDDL), nil
}

func column(pairs [][2]string, i int) []string {
	var all []string
	for _, p := range pairs {
		all = append(all, p[i])
	}
	return all
}

// array is an array constant. Backslashes are none of the string's, since standard_conforming_strings is pinned on.
func array(texts []string) string {
	return "ARRAY[" + list(slices.Clone(texts), literal) + "]::text[]"
}
