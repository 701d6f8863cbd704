// Package mysql says how rows of PostgreSQL are kept in MySQL and MariaDB: which type a column gets, and how a value's text
// form becomes a literal. The encoder of SQL and the target of apply both use it, so a file of statements and a target cannot
// differ.
//
//	kind := mysql.KindOf(relation, i)                 // of a column of the source
//	kind  = kind.In(column)                           // where the column of MySQL is known (information_schema)
//	sql, err = kind.AppendLiteral(sql, text)          // *Unfit: MySQL has no such value
//
// # Exact, or an error
//
// What comes out of MySQL is what PostgreSQL held: the same number, the same time, the same characters. A type of MySQL that would
// round, fold or reorder is not used (JSON reorders keys and makes numbers doubles; FLOAT prints six digits; DECIMAL has one
// scale for all rows, so numeric without a precision is text). A value that the type cannot hold (infinity, NaN, years
// before Christ or after 9999) is an *Unfit error, never NULL and never another value. Its way out is a column of text:
// Kind.In turns to PostgreSQL's text form where the target's column is one.
//
// # Literals
//
// A literal means the same whatever the session's sql_mode and character set: no backslash and no control character is ever
// in quotes (such strings are written as X'…'), and strings that are not ASCII name their character set. Times are UTC.
//
// docs/mysql.md has the table of types.
package mysql
