package mysql

import (
	"fmt"
	"strings"

	"shardcdc/pipeline"
)

// AppendName quotes an identifier.
func AppendName(dst []byte, name string) []byte {
	dst = append(dst, '`')
	for i := range len(name) {
		if name[i] == '`' {
			dst = append(dst, '`')
		}
		dst = append(dst, name[i])
	}
	return append(dst, '`')
}

// Table is where a table of PostgreSQL is: those of schema public in the connection's own database (""), others in the
// database that has the schema's name. MySQL calls databases schemas; it has no second level.
func Table(schema, table string) (database, name string) {
	if schema == "public" {
		return "", table
	}
	return schema, table
}

// AppendTable appends the quoted name of the table that Table gives.
func AppendTable(dst []byte, schema, table string) []byte {
	database, name := Table(schema, table)
	if database != "" {
		dst = append(AppendName(dst, database), '.')
	}
	return AppendName(dst, name)
}

// rowBytesMax is what columns of limited length may take together before all of them become LONGTEXT: a row of InnoDB has
// 65,535 bytes at most, without what is LONGTEXT.
const rowBytesMax = 48 << 10

// pageBytesMax is the same for what has to be in the row's page, 8126 bytes: of columns that may be longer than 255 bytes no more than
// outsideBytes each are, because the rest can be elsewhere; shorter ones are there whole.
const (
	pageBytesMax = 8000
	outsideBytes = 40
)

// KeyColumns are the columns of the replica identity; none where that is the whole row, because PostgreSQL does not say then
// which are the primary key.
func KeyColumns(r *pipeline.Relation) (key []int) {
	if r.Identity == 'f' {
		return nil
	}
	for i, c := range r.Columns {
		if c.Key {
			key = append(key, i)
		}
	}
	return key
}

// AppendCreateTable appends CREATE TABLE IF NOT EXISTS for a table of the source, without a semicolon. Columns are nullable but for the key's,
// since a relation does not say more. Columns of a key whose length has no limit share what a key of InnoDB may have; a longer value is
// refused when it comes.
//
// Strings are compared byte by byte, blanks at the end included, as PostgreSQL does it: MySQL and MariaDB have such a collation
// each, under different names, and read each other's version comments as comments.
func AppendCreateTable(dst []byte, r *pipeline.Relation) ([]byte, error) {
	if len(r.Columns) == 0 {
		return dst, fmt.Errorf("table %s has no columns, and MySQL has no such tables. Try: leave it out (--tables 'public.*,-%s')", r, r)
	}
	key := KeyColumns(r)
	if len(key) > keyColumnsMax {
		return dst, fmt.Errorf("the key of table %s has %d columns, and MySQL's have %d at most. Try: create the table by hand, with a key of fewer", r, len(key), keyColumnsMax)
	}
	dst = append(dst, "CREATE TABLE IF NOT EXISTS "...)
	dst = AppendTable(dst, r.Namespace, r.Name)
	dst = append(dst, " (\n"...)
	bounds := keyBounds(r, key)
	narrow := rowBytes(r, key) <= rowBytesMax && pageBytes(r, bounds) <= pageBytesMax
	for i := range r.Columns {
		if i > 0 {
			dst = append(dst, ",\n"...)
		}
		dst = append(dst, "  "...)
		dst = AppendName(dst, r.Columns[i].Name)
		dst = append(dst, ' ')
		kind := KindOf(r, i)
		typ := kind.columnType(bounds[i])
		if _, isKey := bounds[i]; !isKey && !narrow && strings.HasPrefix(typ, "VARCHAR") {
			typ = "LONGTEXT"
		}
		dst = append(dst, typ...)
		if _, isKey := bounds[i]; isKey {
			dst = append(dst, " NOT NULL"...)
		} else {
			dst = append(dst, " NULL"...)
		}
	}
	for n, i := range key {
		dst = append(dst, separator(n, ",\n  PRIMARY KEY (", ", ")...)
		dst = AppendName(dst, r.Columns[i].Name)
	}
	if len(key) > 0 {
		dst = append(dst, ')')
	}
	return append(dst, "\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100202 COLLATE utf8mb4_nopad_bin */"...), nil
}

func separator(n int, first, others string) string {
	if n == 0 {
		return first
	}
	return others
}

// keyBounds shares the bytes of a key among its columns whose length has no limit, or one that does not fit.
func keyBounds(r *pipeline.Relation, key []int) map[int]int {
	bounds := map[int]int{}
	left, open := keyBytesMax, []int(nil)
	for _, i := range key {
		n := KindOf(r, i).keyBytes()
		if n == 0 || n > keyBytesMax/len(key) {
			open = append(open, i)
			continue
		}
		bounds[i] = n
		left -= n
	}
	for _, i := range open {
		bounds[i] = left / len(open)
	}
	return bounds
}

// rowBytes is what columns of limited length take in a row.
func rowBytes(r *pipeline.Relation, key []int) (n int) {
	for i := range r.Columns {
		if typ := KindOf(r, i).ColumnType(); typ == "LONGTEXT" || typ == "LONGBLOB" {
			n += 12
			continue
		}
		n += KindOf(r, i).keyBytes() + 2
	}
	if len(key) > 0 {
		n += keyBytesMax
	}
	return n
}

// pageBytes is what columns take in the row's page.
func pageBytes(r *pipeline.Relation, bounds map[int]int) (n int) {
	for i := range r.Columns {
		bytes, isKey := bounds[i]
		if !isKey {
			bytes = KindOf(r, i).keyBytes()
			if bytes == 0 || bytes > 255 {
				bytes = outsideBytes
			}
		}
		n += bytes + 2
	}
	return n
}

// Collates says whether two values that differ may be equal to a collation: folds, one that takes a for A; pads, one that does not mind blanks
// at the end. Of most types PostgreSQL writes each value in one way.
func (k Kind) Collates() (folds, pads bool) {
	switch k.form {
	case formText:
		return true, true
	case formPadded, formArray:
		return true, false
	default:
		return false, false
	}
}

// IsText says whether a literal of the kind is a string of characters, which a collation compares.
func (k Kind) IsText() bool {
	switch k.form {
	case formText, formPadded, formASCII, formNumeric, formArray:
		return true
	}
	return false
}
