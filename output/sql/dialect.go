package sql

import (
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mark"
)

// dialect is what PostgreSQL and MySQL say differently. What it appends ends without a semicolon, unless it says otherwise.
type dialect interface {
	settings() string // statements, a line each
	begin() string    // a line
	name(name string) string
	checkName(name string) error
	table(schema, name string) string
	// insert is an INSERT up to VALUES, and what comes behind where the row may be there; empty: which one that is is not known.
	insert(t *table) (insert, upsert string)
	// value is a literal. text is PostgreSQL's text form. An error says that the dialect has no such value; then the literal is
	// the text.
	value(dst []byte, c *column, text []byte) ([]byte, error)
	// cast stands behind a literal that is compared with a column by =.
	cast(r *pipeline.Relation, c *pipeline.Column) string
	// path is a line that has to be in force where rows of the table are looked for; empty: whatever is.
	path(t *table) string
	// equal compares a column with a value of a row: exactly, whatever its type, NULL with NULL.
	equal(dst []byte, c *column, v *pipeline.Value) ([]byte, error)
	// one is what stands before and behind the WHERE that holds for all rows that are equal to one of them.
	one(t *table) (before, behind string)
	truncate(dst []byte, names []string, flags byte) []byte // lines
	// truncateIfThere leaves out what is not there.
	truncateIfThere(dst []byte, tables []mark.Table) []byte // lines
	create(dst []byte, r *pipeline.Relation) ([]byte, error)
	// createsBefore says that a CREATE TABLE commits, so that it has to stand before BEGIN.
	createsBefore() bool
	execute(dst []byte, d *mark.DDL) []byte // DDL, lines
	// raise is a statement that fails with a text, a line.
	raise(dst []byte, text string) []byte
}

func dialectOf(o format.SQLOptions) dialect {
	if o.Dialect == format.MySQL {
		return mySQL{}
	}
	return postgreSQL{}
}
