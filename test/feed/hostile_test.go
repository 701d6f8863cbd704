package feed

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"shardcdc/output/sql"
	"shardcdc/pipeline"
	"shardcdc/pipeline/format"
	"shardcdc/pipeline/mysql"
)

// pieces of texts that mean something to somebody.
var pieces = []string{
	"'", "''", `"`, "`", `\`, `\'`, `\\`, "\n", "\r", "\r\n", "\t", "\b", "\f", "\x1b", "\x1a", "\x7f", "\x01", ";", "--", "-- ", "#", "/*", "*/", "/*!50000 ", "$$", "$a$",
	`\.`, `\!`, `\! ls`, `\g`, `\q`, `\c`, "\nCOMMIT;\n", "\n-- end 1\n", "'); DROP TABLE canary; --", "`; DROP TABLE canary; -- ", `"; DROP TABLE canary; -- `, `\'; DROP TABLE canary; -- `,
	"delimiter //", "\ndelimiter //\n", ":x", ":'x'", ":\"x\"", "%s", "%", "_", "?", "$1", "E'", "U&'", "X'00'", "é", "日本", "😀", "\u2028", "\uFEFF", "\u202e", "ª", "\u0301", "NULL", "0", "1e5", " ", "  ", "a", "B", "x'y",
}

func hostile(r *rand.Rand, length int) string {
	var b strings.Builder
	for range r.IntN(length) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// hostileName is a name that a table or column can have: not empty, at most max bytes, without what MySQL has no names for.
func hostileName(r *rand.Rand, max int, mysql bool) string {
	for {
		name := hostile(r, 12)
		for len(name) > max {
			_, n := utf8.DecodeLastRuneInString(name)
			name = name[:len(name)-n]
		}
		if mysql {
			name = strings.TrimRight(strings.Map(func(c rune) rune {
				if c < ' ' || c == 0x7f || c > 0xffff || c == '/' || c == '\\' || c == '.' { // the last three: no file has such a name
					return -1
				}
				return c
			}, name), " ")
		}
		if name != "" {
			return name
		}
	}
}

// seeded is a source of randomness that can be repeated.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func insert(id uint32, values ...string) []byte {
	msg := append(binary.BigEndian.AppendUint32([]byte{'I'}, id), 'N')
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(values)))
	for _, v := range values {
		msg = binary.BigEndian.AppendUint32(append(msg, pipeline.Text), uint32(len(v)))
		msg = append(msg, v...)
	}
	return msg
}

func message(prefix, content string) []byte {
	msg := append(append([]byte{'M', 1, 0, 0, 0, 0, 0, 0, 0, 9}, prefix...), 0)
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(content)))
	return append(msg, content...)
}

// poisoned is a table with hostile names, and rows of hostile texts.
type poisoned struct {
	r    *pipeline.Relation
	rows []string
	b    *pipeline.Batch
}

func poison(r *rand.Rand, my bool) poisoned {
	const rows = 60
	p := poisoned{r: &pipeline.Relation{ID: 1, Namespace: "public", Name: hostileName(r, 60, my), Identity: 'd', Columns: []pipeline.Column{
		{Name: "key", Key: true, Type: 23, Modifier: -1}, {Name: hostileName(r, 60, my), Type: 25, Modifier: -1}, {Name: "j\"`'", Type: 1009, Modifier: -1},
	}}}
	tx := &pipeline.Transaction{CSN: 1, GID: hostile(r, 20)}
	f := &pipeline.Fragment{End: 1, Origin: hostile(r, 20), Relations: []pipeline.RelationUse{{Relation: p.r}}}
	for i := range rows {
		text := hostile(r, 30)
		p.rows = append(p.rows, text)
		f.Append(insert(1, fmt.Sprint(i), text, `{"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)+`"}`))
		f.Append(message(strings.ReplaceAll(hostile(r, 5), "\x00", ""), hostile(r, 20)))
	}
	tx.Fragments = []*pipeline.Fragment{f}
	p.b = &pipeline.Batch{Transactions: []*pipeline.Transaction{tx}}
	return p
}

// create makes the table, empty, in PostgreSQL.
func (p *poisoned) create(d *database) {
	d.exec(fmt.Sprintf("DROP TABLE IF EXISTS public.%s; CREATE TABLE public.%[1]s (key int PRIMARY KEY, %s text, \"j\"\"`'\" text[])", pgName(p.r.Name), pgName(p.r.Columns[1].Name)))
}

func encoded(t *testing.T, b *pipeline.Batch, o format.SQLOptions) string {
	t.Helper()
	e := sql.New(sql.Config{Shards: []string{"a\n'\"`"}, Options: o})
	payloads, err := e.Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	text := string(payloads[0].Data)
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, ";\n") && !strings.HasPrefix(line, "-- ") {
			t.Errorf("a line is neither a statement nor a comment: %q", line)
		}
	}
	return sql.Settings(o.Dialect) + text
}

// Texts and names of others come out as they went in, and nothing else happens.
func TestHostilePostgreSQL(t *testing.T) {
	r := seeded(t)
	d := newDatabase(t, "hostile")
	for round := range 6 {
		d.exec("DROP TABLE IF EXISTS canary; CREATE TABLE canary (id int); INSERT INTO canary VALUES (1)")
		p := poison(r, false)
		p.create(d)
		feeds(t, psql(t, d.name, encoded(t, p.b, format.SQLOptions{Dialect: format.PostgreSQL, Idempotent: round%2 == 1})))
		var got []string
		for _, row := range d.rows(fmt.Sprintf("SELECT %s, \"j\"\"`'\"[1] FROM public.%s ORDER BY key", pgName(p.r.Columns[1].Name), pgName(p.r.Name))) {
			got = append(got, string(row[0]))
			if string(row[0]) != string(row[1]) {
				t.Errorf("%q in an array is %q", row[0], row[1])
			}
		}
		if !slices.Equal(got, p.rows) {
			t.Errorf("got %q\nwant %q", got, p.rows)
		}
		if d.text("SELECT * FROM canary") != "1\n" {
			t.Error("the canary is dead")
		}
	}
}

func TestHostileMariaDB(t *testing.T) {
	r := seeded(t)
	db := newMariaDB(t, "hostile")
	for round := range 6 {
		p := poison(r, true)
		feeds(t, mysqlClient(t, "hostile", "DROP TABLE IF EXISTS canary; CREATE TABLE canary (id int); INSERT INTO canary VALUES (1);"))
		o := format.SQLOptions{Dialect: format.MySQL, Idempotent: round%2 == 1, CreateTables: true}
		feeds(t, mysqlClient(t, "hostile", encoded(t, p.b, o)))
		table := "hostile." + string(mysql.AppendName(nil, p.r.Name))
		var got []string
		for _, row := range query(t, db, fmt.Sprintf("SELECT %s FROM %s ORDER BY `key`", mysql.AppendName(nil, p.r.Columns[1].Name), table)) {
			got = append(got, string(row[0]))
		}
		if !slices.Equal(got, p.rows) {
			t.Errorf("got %q\nwant %q", got, p.rows)
		}
		if len(query(t, db, "SELECT * FROM hostile.canary")) != 1 {
			t.Error("the canary is dead")
		}
		query(t, db, "DROP TABLE "+table)
	}
}
