package sql

import (
	"bytes"
	"errors"

	"shardcdc/pipeline"
	"shardcdc/pipeline/mark"
	"shardcdc/pipeline/mysql"
)

// mySQL is the dialect of MySQL and MariaDB. Names and values are those of package mysql.
type mySQL struct{}

// settings: strict, so that a value that does not fit is an error; everything else that decides what a value becomes.
//
// The client mysql has a character set of its own, by which it looks for quotes; in one as sjis or gbk it may take a quote for the
// second byte of a character, and then runs commands of its own (\!, \r) in what are names and texts. \C is its command for the
// character set; a server sees a comment, and so does a client under NO_BACKSLASH_ESCAPES, of which the line before makes an end.
func (mySQL) settings() string {
	return `SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO';
/*!999999\C utf8mb4 */ SET NAMES utf8mb4;
SET SESSION time_zone = '+00:00';
SET SESSION foreign_key_checks = 0;
SET SESSION unique_checks = 1;
SET SESSION sql_auto_is_null = 0;
SET SESSION sql_safe_updates = 0;
`
}

func (mySQL) begin() string { return "BEGIN;\n" }

func (mySQL) name(name string) string { return string(mysql.AppendName(nil, name)) }

func (mySQL) table(schema, name string) string { return string(mysql.AppendTable(nil, schema, name)) }

// insert: MySQL takes every unique key for the one that is meant.
func (mySQL) insert(t *table) (insert, upsert string) {
	insert = "INSERT INTO " + t.name
	if len(t.columns) == 0 {
		return insert + " () VALUES ()", ""
	}
	insert += " (" + string(t.list(nil, everyColumn, plainName)) + ") "
	rest := t.list(nil, restColumn, func(dst []byte, c *column) []byte {
		dst = append(append(append(dst, c.name...), " = VALUES("...), c.name...)
		return append(dst, ')')
	})
	if len(rest) == 0 {
		rest = []byte(t.columns[0].name + " = " + t.columns[0].name)
	}
	return insert, " ON DUPLICATE KEY UPDATE " + string(rest)
}

func (mySQL) value(dst []byte, c *column, text []byte) ([]byte, error) {
	out, err := c.my.AppendLiteral(dst, text)
	if err == nil {
		return out, nil
	}
	out, textErr := mysql.Kind{}.AppendLiteral(dst, text)
	if textErr != nil {
		out = append(dst, "NULL"...) // a statement in front of it fails
	}
	return out, err
}

func (d mySQL) equal(dst []byte, c *column, v *pipeline.Value) ([]byte, error) {
	if v.Kind == pipeline.Null {
		return append(append(dst, c.name...), " IS NULL"...), nil
	}
	if !c.my.IsText() {
		return d.value(append(append(dst, c.name...), " = "...), c, v.Data)
	}
	dst = append(append(append(dst, "CAST("...), c.name...), " AS BINARY) = CAST("...)
	dst, err := d.value(dst, c, v.Data)
	return append(dst, " AS BINARY)"...), err
}

func (mySQL) cast(*pipeline.Relation, *pipeline.Column) string { return "" }

func (mySQL) path(*table) string { return "" }

func (mySQL) one(*table) (before, behind string) { return "", " LIMIT 1" }

func (mySQL) execute(dst []byte, _ *mark.DDL) []byte { return dst } // it is never asked to

// truncate: TRUNCATE of MySQL would commit.
func (mySQL) truncate(dst []byte, names []string, _ byte) []byte {
	for _, name := range names {
		dst = append(append(append(dst, "DELETE FROM "...), name...), ";\n"...)
	}
	return dst
}

// truncateIfThere asks the catalog, whose names are compared as those of files are; a DELETE of what is not there is an error.
func (d mySQL) truncateIfThere(dst []byte, tables []mark.Table) []byte {
	text := func(dst []byte, s string) []byte {
		dst, _ = mysql.Kind{}.AppendLiteral(dst, []byte(s)) // names are UTF-8, see checkName
		return dst
	}
	for _, t := range tables {
		database, name := mysql.Table(t.Schema, t.Name)
		dst = text(append(dst, "SET @cdc = (SELECT IF(COUNT(*) > 0, "...), "DELETE FROM "+d.table(t.Schema, t.Name))
		dst = append(dst, ", 'DO 0') FROM information_schema.tables WHERE table_schema = "...)
		if database == "" {
			dst = append(dst, "DATABASE()"...)
		} else {
			dst = text(dst, database)
		}
		dst = text(append(dst, " AND IF(@@lower_case_table_names, LOWER(table_name) = LOWER("...), name)
		dst = text(append(dst, "), CAST(table_name AS BINARY) = CAST("...), name)
		dst = append(dst, " AS BINARY)));\nPREPARE cdc FROM @cdc;\nEXECUTE cdc;\nDEALLOCATE PREPARE cdc;\n"...)
	}
	return dst
}

func (mySQL) create(dst []byte, r *pipeline.Relation) ([]byte, error) {
	if database, _ := mysql.Table(r.Namespace, r.Name); database != "" {
		dst = append(mysql.AppendName(append(dst, "CREATE DATABASE IF NOT EXISTS "...), database), ";\n"...)
	}
	made, err := mysql.AppendCreateTable(nil, r)
	return append(dst, bytes.ReplaceAll(made, []byte("\n"), []byte(" "))...), err // no name has a line break, see checkName
}

// checkName: a name has no escapes, and every statement is one line.
func (mySQL) checkName(name string) error {
	if hasControls(name) {
		return errControls
	}
	return nil
}

var errControls = errors.New("the name has control characters, which have no form in a line of MySQL. Try: ALTER TABLE … RENAME, or cdcctl create-subscription … --format internal")

func (mySQL) createsBefore() bool { return true }

// messageMax is how long the text of SIGNAL may be.
const messageMax = 120

func (mySQL) raise(dst []byte, text string) []byte {
	dst = append(dst, "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '"...)
	n := 0
	for _, r := range text {
		if n++; n > messageMax {
			break
		}
		switch {
		case r == '\'':
			dst = append(dst, '"')
		case r < ' ' || r == '\\' || r >= 0x7f:
			dst = append(dst, '?')
		default:
			dst = append(dst, byte(r))
		}
	}
	return append(dst, "';\n"...)
}
