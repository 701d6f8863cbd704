package sql

import (
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/pgtype"
)

// postgreSQL is the dialect of PostgreSQL.
type postgreSQL struct{}

// pinned are settings that decide what a literal means, and how a value is compared as text.
var pinned = [][2]string{
	{"standard_conforming_strings", "on"},
	{"search_path", ""},
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", "UTC"},
	{"lc_monetary", "C"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"xmloption", "content"},
	{"array_nulls", "on"},
}

// settings: the role is a wish, as only superusers, and whom they let, may set it. Without row_security a policy that would hide rows
// from statements is an error.
func (postgreSQL) settings() string {
	b := []byte("SET client_encoding = 'UTF8';\nSET client_min_messages = warning;\nSET row_security = off;\n")
	for _, s := range pinned {
		b = append(append(appendString(append(append(append(b, "SET "...), s[0]...), " = "...), []byte(s[1])), ';'), '\n')
	}
	return string(b) + `DO 'BEGIN SET session_replication_role = replica; EXCEPTION WHEN insufficient_privilege THEN RAISE WARNING ''triggers fire and foreign keys are checked: this role may not set session_replication_role''; END';
`
}

// begin: a statement of the source that touched many rows is many statements here, so what was checked at its end is checked at
// the transaction's.
func (postgreSQL) begin() string { return "BEGIN; SET CONSTRAINTS ALL DEFERRED;\n" }

func (postgreSQL) name(name string) string { return string(appendName(nil, name)) }

func (d postgreSQL) table(schema, name string) string { return d.name(schema) + "." + d.name(name) }

func (postgreSQL) insert(t *table) (insert, upsert string) {
	insert = "INSERT INTO " + t.name
	if len(t.columns) == 0 {
		return insert + " DEFAULT VALUES", ""
	}
	if t.relation.Name == "excluded" { // ON CONFLICT could not tell it from the row
		insert += " AS t"
	}
	insert += " (" + string(t.list(nil, everyColumn, plainName)) + ") OVERRIDING SYSTEM VALUE "
	if t.key == nil {
		return insert, ""
	}
	upsert = " ON CONFLICT (" + string(t.list(nil, keyColumn, plainName)) + ") DO "
	rest := t.list(nil, restColumn, func(dst []byte, c *column) []byte {
		return append(append(append(dst, c.name...), " = EXCLUDED."...), c.name...)
	})
	if len(rest) == 0 {
		return insert, upsert + "NOTHING"
	}
	return insert, upsert + "UPDATE SET " + string(rest)
}

// cast: the equality of some types is that of another one, which would read the literal: oid for regclass, record for composites.
func (d postgreSQL) cast(r *pipeline.Relation, c *pipeline.Column) string {
	if t, ok := r.TypeName(c.Type); ok && t.Namespace != "pg_catalog" {
		return "::" + d.table(t.Namespace, t.Name)
	}
	if typ := pgtype.Name(r, c.Type); strings.HasPrefix(typ, "reg") {
		return "::" + typ
	}
	return ""
}

// path: the operators of an extension's type are found by the search path only, and whole rows are compared under the empty one, which decides
// how names in values of regclass are written.
func (d postgreSQL) path(t *table) string {
	if t.full {
		return "SET LOCAL search_path = '';\n"
	}
	var schemas []string
	for _, i := range t.key {
		typ, ok := t.relation.TypeName(t.relation.Columns[i].Type)
		if name := d.name(typ.Namespace); ok && typ.Namespace != "pg_catalog" && !slices.Contains(schemas, name) {
			schemas = append(schemas, name)
		}
	}
	if schemas == nil {
		return ""
	}
	return "SET LOCAL search_path = " + strings.Join(schemas, ", ") + ";\n"
}

// integerDigits is how long a number may be without becoming numeric beside a column that is none.
const integerDigits = 18

// numericDigits: a longer one is no easier to read without quotes.
const numericDigits = 60

func (postgreSQL) value(dst []byte, c *column, text []byte) ([]byte, error) {
	switch c.kind {
	case asInteger:
		if isNumber(text, integerDigits) {
			return append(dst, text...), nil
		}
	case asNumeric:
		if isNumber(text, numericDigits) {
			return append(dst, text...), nil
		}
	case asBoolean:
		switch string(text) {
		case "t":
			return append(dst, "true"...), nil
		case "f":
			return append(dst, "false"...), nil
		}
	case asOther, asText, asExact, asLoose:
	}
	return appendString(dst, text), nil
}

// equal uses the type's equality where that tells all values apart, or as much as it does, for an index's sake; and else the text that
// the type's output function gives, which is what was sent, and which every type has.
func (d postgreSQL) equal(dst []byte, c *column, v *pipeline.Value) ([]byte, error) {
	if v.Kind == pipeline.Null {
		return append(append(dst, c.name...), " IS NOT DISTINCT FROM NULL"...), nil // IS NULL is true of ROW(NULL)
	}
	switch c.kind {
	case asExact, asInteger, asBoolean:
		dst = append(append(dst, c.name...), " = "...)
		return d.value(dst, c, v.Data)
	case asText:
		dst = append(append(dst, c.name...), " = "...)
		return append(appendString(dst, v.Data), ` COLLATE "C"`...), nil
	case asLoose, asNumeric:
		dst = append(append(dst, c.name...), " = "...)
		dst = append(appendString(dst, v.Data), " AND "...)
	case asOther:
	}
	dst = append(append(append(dst, "pg_catalog.format('%s', "...), c.name...), `) COLLATE "C" = `...)
	dst = appendString(dst, v.Data)
	if len(v.Data) == 0 { // which is what format makes of NULL, too
		dst = append(append(append(dst, " AND "...), c.name...), " IS DISTINCT FROM NULL"...)
	}
	return dst, nil
}

// one finds a row by its place, in a partitioned table together with the partition.
func (postgreSQL) one(t *table) (before, behind string) {
	return " WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM " + t.name, " LIMIT 1)"
}

func (postgreSQL) truncate(dst []byte, names []string, flags byte) []byte {
	dst = append(append(dst, "TRUNCATE "...), strings.Join(names, ", ")...)
	if flags&pipeline.TruncateRestartIdentity != 0 {
		dst = append(dst, " RESTART IDENTITY"...)
	}
	if flags&pipeline.TruncateCascade != 0 {
		dst = append(dst, " CASCADE"...)
	}
	return append(dst, ";\n"...)
}

// truncateIfThere asks the catalog, because names in a string have no escapes.
func (postgreSQL) truncateIfThere(dst []byte, tables []mark.Table) []byte {
	body := []byte("DECLARE t text := (SELECT pg_catalog.string_agg(pg_catalog.format('%I.%I', nspname, relname), ', ') FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE (nspname, relname) IN (")
	for i, t := range tables {
		if i > 0 {
			body = append(body, ", "...)
		}
		body = appendString(append(body, '('), []byte(t.Schema))
		body = append(appendString(append(body, ", "...), []byte(t.Name)), ')')
	}
	body = append(body, ")); BEGIN IF t IS NOT NULL THEN EXECUTE 'TRUNCATE ' || t; END IF; END"...)
	return append(appendString(append(dst, "DO "...), body), ";\n"...)
}

func (postgreSQL) create(dst []byte, r *pipeline.Relation) ([]byte, error) {
	made := dst
	if r.Namespace != "public" {
		made = append(pgtype.AppendCreateSchema(made, r), ";\n"...)
	}
	start := len(made)
	made, err := pgtype.AppendCreateTable(made, r)
	if err == nil && hasControls(string(made[start:])) {
		err = fmt.Errorf("table %q has control characters in a name. Try: create it by hand", r)
	}
	if err != nil {
		return dst, err
	}
	return made, nil
}

// checkName: every name has a form.
func (postgreSQL) checkName(string) error { return nil }

func (postgreSQL) createsBefore() bool { return false }

func (postgreSQL) raise(dst []byte, text string) []byte {
	body := appendString([]byte("BEGIN RAISE EXCEPTION USING MESSAGE = "), []byte(text))
	return append(appendString(append(dst, "DO "...), append(body, "; END"...)), ";\n"...)
}

// execute runs a statement under the settings of the session that ran it.
func (postgreSQL) execute(dst []byte, d *mark.DDL) []byte {
	body := appendConfig([]byte("BEGIN"), "search_path", d.SearchPath)
	back := appendConfig(nil, "search_path", "")
	for _, s := range pinned {
		if value, ok := d.Settings[s[0]]; ok && s[0] != "search_path" {
			body, back = appendConfig(body, s[0], value), appendConfig(back, s[0], s[1])
		}
	}
	body = appendString(append(body, " EXECUTE "...), []byte(d.Statement))
	body = append(append(append(body, ';'), back...), " END"...)
	return append(appendString(append(dst, "DO "...), body), ";\n"...)
}

func appendConfig(dst []byte, name, value string) []byte {
	dst = appendString(append(dst, " PERFORM pg_catalog.set_config("...), []byte(name))
	return append(appendString(append(dst, ", "...), []byte(value)), ", true);"...)
}
