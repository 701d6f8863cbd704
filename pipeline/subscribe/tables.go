package subscribe

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// table is one that a shard has.
type table struct {
	schema, name string
	permanent    bool // neither unlogged nor of an extension: what a wildcard may choose
}

func (t table) plain() string  { return t.schema + "." + t.name }
func (t table) quoted() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }

const tablesSQL = `
SELECT n.nspname, c.relname, c.relpersistence = 'p'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objid = c.oid AND deptype = 'e')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2`

// publishedSQL: what given publications hold.
const publishedSQL = `SELECT DISTINCT schemaname::text, tablename::text, true FROM pg_catalog.pg_publication_tables WHERE pubname = ANY($1) ORDER BY 1, 2`

// shardTables lists the tables that the subscription reads on a shard.
func shardTables(ctx context.Context, db *database, spec *Spec) ([]table, error) {
	sql, args := tablesSQL, []any{}
	if len(spec.Publications) > 0 {
		sql, args = publishedSQL, []any{spec.Publications}
	}
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.schema, &t.name, &t.permanent)
	})
	if err != nil || len(spec.Publications) > 0 {
		return all, err
	}
	s, err := parseSelection(spec.Tables)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(t table) bool { return !s.chooses(t) }), nil
}

// selection is what table patterns mean. An exclusion wins, wherever it stands.
type selection struct{ include, exclude []pattern }

// pattern is schema.table: each a name, a "quoted name", or a name with * for any characters. As in PostgreSQL, what is
// not quoted is folded to lower case.
type pattern struct {
	re   *regexp.Regexp // of schema, NUL, name
	wild bool
}

func parseSelection(texts []string) (s selection, err error) {
	for _, text := range texts {
		rest, exclude := strings.CutPrefix(text, "-")
		p, err := parsePattern(rest)
		if err != nil {
			return s, err
		}
		if exclude {
			s.exclude = append(s.exclude, p)
		} else {
			s.include = append(s.include, p)
		}
	}
	return s, nil
}

func (s *selection) chooses(t table) bool {
	matches := func(p pattern) bool { return p.re.MatchString(t.schema+"\x00"+t.name) && (t.permanent || !p.wild) }
	excludes := func(p pattern) bool { return p.re.MatchString(t.schema + "\x00" + t.name) }
	return slices.ContainsFunc(s.include, matches) && !slices.ContainsFunc(s.exclude, excludes)
}

func parsePattern(text string) (p pattern, err error) {
	var re strings.Builder
	re.WriteString("^")
	dots, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' && quoted && i+1 < len(text) && text[i+1] == '"':
			re.WriteString(`"`)
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
			re.WriteString(regexp.QuoteMeta(text[i : i+1]))
		case c == '.':
			dots++
			re.WriteString("\x00")
		case c == '*':
			p.wild = true
			re.WriteString("[^\x00]*")
		case strings.IndexByte(" \t\n',;", c) >= 0:
			return p, fmt.Errorf("table pattern %q is none. Try: --tables 'public.*'", text)
		default:
			re.WriteString(regexp.QuoteMeta(strings.ToLower(text[i : i+1])))
		}
	}
	re.WriteString("$")
	if dots != 1 || quoted || strings.HasPrefix(text, ".") || strings.HasSuffix(text, ".") {
		return p, fmt.Errorf("table pattern %q is not schema.table. Try: --tables 'public.*'", text)
	}
	p.re, err = regexp.Compile("(?s)" + re.String())
	return p, err
}

// excludes says that some patterns exclude.
func (s *Spec) excludes() bool {
	return slices.ContainsFunc(s.Tables, func(p string) bool { return strings.HasPrefix(p, "-") })
}
