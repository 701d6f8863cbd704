package copier

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Range is the keys behind After, up to and with Through. Nil: from the lowest on, up to the highest.
type Range struct{ After, Through []string }

// keyColumn is a column of a key, and how the key's index compares it.
type keyColumn struct {
	name      string
	at        int    // in the relation's columns
	cast      string // type of its values, as SQL; of a domain the base type
	collation string // of the index, as SQL, if it is not the column's
	operators [5]operator
	order     string // what says in which order the index has its values: operator family and collation, by OID
	// bare: a domain over an array, enum, range or composite type. Operators of such types do not take a domain, and an index
	// is not found for the order of a domain that was cast to its base type; but without an operator it is.
	bare bool
}

// Strategies of a btree, from zero.
const (
	less = iota
	lessEqual
	equal
	greaterEqual
	greater
)

// operator is its schema and its name.
type operator [2]string

func (o operator) String() string { return "OPERATOR(" + identifier(o[0]) + "." + o[1] + ")" }

// sql is the column, compared as in the index.
func (c *keyColumn) sql() string {
	s := identifier(c.name)
	if c.bare {
		s += "::" + c.cast
	}
	if c.collation != "" {
		s += " COLLATE " + c.collation
	}
	return s
}

// value is a literal of the column's type.
func (c *keyColumn) value(text string) string { return literal(text) + "::" + c.cast }

// compare is a condition on the key. A comparison of rows is what an index can begin at; where the columns' operators have
// not all the same name, it is spelled out.
func compare(key []keyColumn, strategy int, values []string) string {
	columns, texts := make([]string, len(key)), make([]string, len(key))
	uniform := true
	for i, c := range key {
		columns[i], texts[i] = c.sql(), c.value(values[i])
		uniform = uniform && c.operators[strategy] == key[0].operators[strategy]
	}
	op := key[0].operators[strategy].String()
	switch {
	case len(key) == 1:
		return columns[0] + " " + op + " " + texts[0]
	case uniform:
		return "ROW(" + strings.Join(columns, ", ") + ") " + op + " ROW(" + strings.Join(texts, ", ") + ")"
	}
	outer, inner := lessEqual, less
	if strategy == greater || strategy == greaterEqual {
		outer, inner = greaterEqual, greater
	}
	with := func(strategy int) string {
		return columns[0] + " " + key[0].operators[strategy].String() + " " + texts[0]
	}
	return with(outer) + " AND (" + with(inner) + " OR (" + with(equal) + " AND " + compare(key[1:], strategy, values[1:]) + "))"
}

// conditions are those of a range.
func (r *Range) conditions(key []keyColumn) (all []string) {
	if r.After != nil {
		all = append(all, compare(key, greater, r.After))
	}
	if r.Through != nil {
		all = append(all, compare(key, lessEqual, r.Through))
	}
	return all
}

// order is the key's, for ORDER BY.
func order(key []keyColumn) string {
	columns := make([]string, len(key))
	for i, c := range key {
		if c.bare {
			columns[i] = identifier(c.name)
		} else {
			columns[i] = c.sql() + " USING " + c.operators[less].String()
		}
	}
	return strings.Join(columns, ", ")
}

// checkKeys makes sure that values are keys of the table.
func checkKeys(t *Table, keys ...[]string) error {
	for _, k := range keys {
		if k != nil && len(k) != len(t.Key) || t.Key == nil {
			return fmt.Errorf("key (%s) for columns (%s)", strings.Join(k, ", "), strings.Join(t.Key, ", "))
		}
	}
	return nil
}

// oneOf is the condition that the key is one of these. Keys may be equal to each other; a row is found once.
func oneOf(key []keyColumn, keys [][]string) string {
	rows, pairs := make([]string, len(keys)), make([]string, len(key))
	for i, values := range keys {
		texts := make([]string, len(key))
		for j, c := range key {
			texts[j] = c.value(values[j])
		}
		rows[i] = "(" + strings.Join(texts, ", ") + ")"
	}
	columns := make([]string, len(key))
	for j, c := range key {
		columns[j] = "k" + strconv.Itoa(j)
		pairs[j] = c.sql() + " " + c.operators[equal].String() + " wanted." + columns[j]
	}
	return "EXISTS (SELECT FROM (VALUES " + strings.Join(rows, ", ") + ") AS wanted(" + strings.Join(columns, ", ") + ") WHERE " + strings.Join(pairs, " AND ") + ")"
}

const (
	// rangeBytesMin is how large a part of a table is worth a range of its own.
	rangeBytesMin = 32 << 20
	// sampleRows is how many rows are looked at for each range: with so many, the largest is seldom more than a fifth
	// larger than it should be.
	sampleRows = 500
)

// Split cuts a table's keys into at most n ranges of about as many rows each; together they are all keys. A small table is
// one range. The borders come from a sample; they are keys of rows that were there.
func (s *Session) Split(ctx context.Context, t *Table, n int) ([]Range, error) {
	n = int(min(int64(n), t.Bytes/rangeBytesMin))
	if n <= 1 || t.Key == nil {
		return []Range{{}}, nil
	}
	percent := min(100, 100*float64(n)*sampleRows/float64(max(t.Rows, 1)))
	return s.split(ctx, t, n, percent)
}

func (s *Session) split(ctx context.Context, t *Table, n int, percent float64) ([]Range, error) {
	columns := make([]string, len(t.key))
	for i, c := range t.key {
		columns[i] = identifier(c.name)
	}
	by := order(t.key)
	sql := fmt.Sprintf(`SELECT %[1]s FROM (
	SELECT %[1]s, row_number() OVER (ORDER BY %[2]s) AS " n", count(*) OVER () AS " of" FROM %[3]s TABLESAMPLE SYSTEM (%[4]s)%[5]s) AS sample
WHERE " n" < " of" AND " n" * %[6]d / " of" <> (" n" - 1) * %[6]d / " of" ORDER BY " n"`,
		strings.Join(columns, ", "), by, t.from(), strconv.FormatFloat(percent, 'f', 6, 64), t.where(), n)
	ranges := []Range{{}}
	err := s.transaction(ctx, sql, func(results []*pgconn.Result) error {
		for _, row := range results[len(results)-1].Rows {
			border := make([]string, len(row))
			for i, v := range row {
				border[i] = string(v)
			}
			ranges[len(ranges)-1].Through = border
			ranges = append(ranges, Range{After: border})
		}
		return nil
	})
	if err != nil {
		return nil, s.fail("split into ranges", t, err)
	}
	return slices.Clip(ranges), nil
}
