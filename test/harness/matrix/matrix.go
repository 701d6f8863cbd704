package matrix

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Side of the copy.
type Side int

const (
	Source Side = iota
	Target
)

// Matrix is the fixture as a server can have it.
type Matrix struct {
	kinds      []kind
	extensions []string
	icu        bool
	shapes     []shape
}

// New asks a server what it can do.
func New(ctx context.Context, dsn string) (*Matrix, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("type matrix: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	m := &Matrix{shapes: shapes}
	rows, err := conn.Query(ctx, "SELECT name FROM pg_available_extensions WHERE name = ANY ($1) ORDER BY 1", extensions)
	if err == nil {
		m.extensions, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')").Scan(&m.icu)
	}
	if err != nil {
		return nil, fmt.Errorf("type matrix: %w", err)
	}
	has := map[string]bool{"": true}
	for _, e := range m.extensions {
		has[e] = true
	}
	for _, k := range kinds {
		if has[k.needs] {
			m.kinds = append(m.kinds, k)
		}
	}
	if m.icu {
		m.shapes = append(m.shapes, icuShape)
	}
	return m, nil
}

// Kinds is how many types there are.
func (m *Matrix) Kinds() int { return len(m.kinds) }

// DDL makes everything, empty.
func (m *Matrix) DDL(side Side) string {
	var b strings.Builder
	for _, e := range m.extensions {
		fmt.Fprintf(&b, "CREATE EXTENSION IF NOT EXISTS %s;\n", e)
	}
	b.WriteString(kindsDDL)
	var scalars, arrays []string
	for i, k := range m.kinds {
		scalars = append(scalars, fmt.Sprintf("c%d %s", i, k.typ))
		if k.hasArray() {
			arrays = append(arrays, fmt.Sprintf("c%d %s[]", i, k.typ))
		}
		if k.keys() != nil {
			fmt.Fprintf(&b, "CREATE TABLE key_%d (n int, k %s, s int, PRIMARY KEY (k, s));\n", i, k.typ)
		}
	}
	fmt.Fprintf(&b, "CREATE TABLE types (id int PRIMARY KEY, n int, %s);\n", strings.Join(scalars, ", "))
	fmt.Fprintf(&b, "CREATE TABLE arrays (id int PRIMARY KEY, n int, %s);\n", strings.Join(arrays, ", "))
	fmt.Fprintf(&b, "CREATE TABLE types_full (s int, n int, %s); ALTER TABLE types_full REPLICA IDENTITY FULL;\n", strings.Join(scalars, ", "))
	for _, s := range m.shapes {
		ddl := s.ddl
		if side == Target && s.target != "" {
			ddl = s.target
		}
		b.WriteString(ddl + ";\n")
	}
	return b.String()
}

// Tables are the tables as the shards publish them, quoted, with their schemas.
func (m *Matrix) Tables() (names []string) {
	names = []string{"public.types", "public.arrays", "public.types_full"}
	for i, k := range m.kinds {
		if k.keys() != nil {
			names = append(names, fmt.Sprintf("public.key_%d", i))
		}
	}
	for _, s := range m.shapes {
		names = append(names, s.tables...)
	}
	return names
}

// Patterns select the tables in a subscription.
func Patterns() []string { return []string{"public.*", `"s.ch.""q".*`} }

// rowsOfTypes is enough for every value of every kind to stand beside others.
const rowsOfTypes = 22

// Fill are the first rows of shard i of n.
func (m *Matrix) Fill(i, n int) (statements []string) {
	for r := range rowsOfTypes {
		statements = append(statements, m.insert(i, n, r)...)
	}
	for k := range m.kinds {
		for v, value := range m.kinds[k].keys() {
			statements = append(statements, fmt.Sprintf("INSERT INTO key_%d VALUES (%d, %s, %d) ON CONFLICT DO NOTHING", k, v, value, i))
		}
	}
	for _, s := range m.shapes {
		for _, sql := range s.fill {
			statements = append(statements, fillIn(sql, i, n, 0))
		}
	}
	return statements
}

// insert is row r of shard i in the tables of types.
func (m *Matrix) insert(i, n, r int) []string {
	id := r*n + i
	var scalars, arrays []string
	for _, k := range m.kinds {
		scalars = append(scalars, k.value(r+i))
		if k.hasArray() {
			arrays = append(arrays, k.array(r+i))
		}
	}
	row := strings.Join(scalars, ", ")
	full := fmt.Sprintf("INSERT INTO types_full VALUES (%d, %d, %s)", i, r%3, row)
	return []string{
		fmt.Sprintf("INSERT INTO types VALUES (%d, %d, %s)", id, r, row),
		fmt.Sprintf("INSERT INTO arrays VALUES (%d, %d, %s)", id, r, strings.Join(arrays, ", ")),
		full, full,
	}
}

// Change are the changes of a round, 1 to 9, on shard i of n.
func (m *Matrix) Change(i, n, round int) (statements []string) {
	statements = append(statements, m.insert(i, n, rowsOfTypes+round)...)
	var scalars, arrays []string
	for c, k := range m.kinds {
		scalars = append(scalars, fmt.Sprintf("c%d = %s", c, k.value(round+i+c)))
		if k.hasArray() {
			arrays = append(arrays, fmt.Sprintf("c%d = %s", c, k.array(round+i+c)))
		}
	}
	one := func(table string) string { // exactly one of the rows, always the same
		return fmt.Sprintf("ctid = (SELECT ctid FROM %s WHERE s = %d ORDER BY n, ctid LIMIT 1 OFFSET %d)", table, i, round)
	}
	touched := (rowsOfTypes + round - 3) * n
	statements = append(statements,
		fmt.Sprintf("UPDATE types SET %s WHERE id / %d %% 7 = %d", strings.Join(scalars, ", "), n, round%7),
		fmt.Sprintf("UPDATE arrays SET %s WHERE id / %d %% 7 = %d", strings.Join(arrays, ", "), n, round%7),
		fmt.Sprintf("UPDATE types SET n = n + 1 WHERE id / %d %% 3 = %d", n, round%3), // large values are not sent
		fmt.Sprintf("UPDATE types SET id = -id - %d WHERE id = %d", n, touched+i),
		fmt.Sprintf("UPDATE arrays SET id = -id - %d, n = n + 1 WHERE id = %d", n, touched+i),
		fmt.Sprintf("DELETE FROM types WHERE id = %d", touched-n+i),
		fmt.Sprintf("DELETE FROM arrays WHERE id = %d", touched-n+i),
		"UPDATE types_full SET n = n + 1 WHERE "+one("types_full"),
		"DELETE FROM types_full WHERE "+one("types_full"),
	)
	for k := range m.kinds {
		if m.kinds[k].keys() == nil {
			continue
		}
		table := fmt.Sprintf("key_%d", k)
		statements = append(statements,
			fmt.Sprintf("UPDATE %s SET n = n + 1", table),
			fmt.Sprintf("UPDATE %s SET s = s + %d WHERE s < %d AND n %% 4 = %d", table, n, n*round, round%4),
			fmt.Sprintf("INSERT INTO %s SELECT n + 1, k, s + %d FROM %[1]s WHERE s = %d ORDER BY k LIMIT 1 ON CONFLICT DO NOTHING", table, 1000*n*round, i))
	}
	for _, s := range m.shapes {
		for _, sql := range s.change {
			statements = append(statements, fillIn(sql, i, n, round))
		}
	}
	return statements
}

// fillIn puts numbers into a statement: {i} the shard's, {n} how many there are, {r} the round's, {0} the first of a range of
// a million numbers that are the shard's own.
func fillIn(sql string, i, n, round int) string {
	return strings.NewReplacer("{i}", strconv.Itoa(i), "{n}", strconv.Itoa(n), "{r}", strconv.Itoa(round), "{0}", strconv.Itoa(i*1_000_000)).Replace(sql)
}
