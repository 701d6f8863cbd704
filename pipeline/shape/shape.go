package shape

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"shardcdc/pipeline/pattern"
)

// Shape is what becomes of tables on their way into the stream.
type Shape struct {
	// Tables: of a table, the first rule that matches it counts, and no other. A table that none matches stays as it is.
	Tables []Table `json:"tables" yaml:"tables"`
}

// Table is the rule for a table, or for all tables that a pattern matches. Everywhere but in Rename, RenameColumns and Route names
// are those of the source.
type Table struct {
	// Table is its name, schema.table, or a pattern with * (package pattern).
	Table string `json:"table" yaml:"table"`
	// Exclude: nothing of the table is in the stream. No other key is allowed beside it.
	Exclude bool `json:"exclude,omitempty" yaml:"exclude"`
	// Columns are the only ones that stay; or ExcludeColumns are left out. The columns of the replica identity have to stay.
	Columns        []string `json:"columns,omitempty" yaml:"columns"`
	ExcludeColumns []string `json:"exclude_columns,omitempty" yaml:"exclude_columns"`
	// Rows is an expression (see Expressions); rows for which it is not true are not in the stream.
	Rows string `json:"rows,omitempty" yaml:"rows"`
	// Rename is the table's name in the stream, schema.table; * for one of them leaves it as it is.
	Rename string `json:"rename,omitempty" yaml:"rename"`
	// RenameColumns: from the name at the source to the one in the stream.
	RenameColumns map[string]string `json:"rename_columns,omitempty" yaml:"rename_columns"`
	// Mask: what stands in place of a column's values.
	Mask map[string]Mask `json:"mask,omitempty" yaml:"mask"`
	// Route is the subject of the table's rows behind cdc.NAME., where rows are published one by one; default schema.table.
	Route string `json:"route,omitempty" yaml:"route"`
	// Key are the columns that identify a row for readers; default: those of the replica identity. They must be part of it; of
	// REPLICA IDENTITY FULL, which has every column, they may be any that are unique.
	Key []string `json:"key,omitempty" yaml:"key"`

	match pattern.Pattern
	line  int      // in the file; 0: it is not known any more
	rows  position // of Rows in the file
}

// position is where the text of an expression begins in a file. An expression over several lines has none.
type position struct{ line, column int }

// Mask is one way to hide a value. NULL stays NULL in each of them.
type Mask struct {
	// Hash: HMAC-SHA-256 of the value's text, in hexadecimal; the column's type becomes text. It names the key as ${VAR}, a
	// variable in the environment of the node. Equal values have equal hashes.
	Hash string `json:"hash,omitempty" yaml:"hash"`
	// Redact: this value instead, which has to fit the column's type.
	Redact *string `json:"redact,omitempty" yaml:"redact"`
	// Truncate: the first so many characters, of texts.
	Truncate int `json:"truncate,omitempty" yaml:"truncate"`
	// Nullify: NULL instead.
	Nullify bool `json:"nullify,omitempty" yaml:"nullify"`
}

var reference = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)

// variable is the environment variable that holds the key of a hash.
func (m Mask) variable() string {
	if found := reference.FindStringSubmatch(m.Hash); found != nil {
		return found[1]
	}
	return ""
}

// String is the mask for people.
func (m Mask) String() string {
	switch {
	case m.Hash != "":
		return "hash"
	case m.Redact != nil:
		return "redact"
	case m.Truncate != 0:
		return "truncate"
	}
	return "nullify"
}

// Validate lists everything that is wrong at once, as far as it can be seen without the tables. It must have been called before
// any other method.
func (s *Shape) Validate() error {
	var errs []error
	if len(s.Tables) == 0 {
		errs = append(errs, errors.New("the shape has no rule. Try: tables: [{table: public.*, …}]"))
	}
	for i := range s.Tables {
		for _, err := range s.Tables[i].validate() {
			errs = append(errs, s.Tables[i].fault(err))
		}
	}
	return errors.Join(errs...)
}

// fault says which rule an error is about.
func (t *Table) fault(err error) error {
	if t.line > 0 {
		return fmt.Errorf("rule %s (line %d): %w", t.Table, t.line, err)
	}
	return fmt.Errorf("rule %s: %w", t.Table, err)
}

func (t *Table) validate() (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	var err error
	switch t.match, err = pattern.Parse(t.Table); {
	case err != nil:
		errs = append(errs, err)
	case t.match.Exclude:
		add("a pattern of a rule has no -. Try: exclude: true")
	}
	if t.Exclude && t.changes() {
		add("exclude leaves nothing for the other keys to do. Try: exclude alone, or without it")
	}
	if !t.Exclude && !t.changes() && t.Table != "" {
		add("the rule does nothing. Try: exclude, columns, exclude_columns, rows, rename, rename_columns, mask, route or key")
	}
	if len(t.Columns) > 0 && len(t.ExcludeColumns) > 0 {
		add("columns and exclude_columns exclude each other: columns says what stays")
	}
	for _, list := range []struct {
		key   string
		names []string
	}{{"columns", t.Columns}, {"exclude_columns", t.ExcludeColumns}, {"key", t.Key}} {
		if name, twice := repeated(list.names); twice {
			add("%s names %q twice", list.key, name)
		}
	}
	if t.Rows != "" {
		if _, err := parseExpression(t.Rows, t.rows); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, t.validateNames()...)
	for _, column := range slices.Sorted(maps.Keys(t.Mask)) {
		if err := t.Mask[column].validate(); err != nil {
			add("mask of column %s: %w", column, err)
		}
	}
	return errs
}

// changes says whether the rule has another key than exclude.
func (t *Table) changes() bool {
	return len(t.Columns)+len(t.ExcludeColumns)+len(t.RenameColumns)+len(t.Mask)+len(t.Key) > 0 || t.Rows != "" || t.Rename != "" || t.Route != ""
}

// routeRule: names of tables never begin with '_' in a subject, so a route never meets a subject that is ours.
var routeRule = regexp.MustCompile(`^[A-Za-z0-9-][A-Za-z0-9_-]*(\.[A-Za-z0-9-][A-Za-z0-9_-]*){0,7}$`)

func (t *Table) validateNames() (errs []error) {
	if t.Rename != "" {
		if _, _, err := t.renamed("schema", "table"); err != nil {
			errs = append(errs, err)
		} else if t.match.Wild() && !strings.HasSuffix(t.Rename, ".*") {
			errs = append(errs, fmt.Errorf("rename %s would give one name to every table of the pattern. Try: schema.*", t.Rename))
		}
	}
	to := slices.Sorted(maps.Values(t.RenameColumns))
	if name, twice := repeated(to); twice {
		errs = append(errs, fmt.Errorf("rename_columns gives the name %q to two columns", name))
	}
	if slices.Contains(to, "") {
		errs = append(errs, errors.New("rename_columns gives an empty name to a column"))
	}
	if slices.ContainsFunc(append(to, t.Rename), func(name string) bool { return strings.ContainsRune(name, 0) || !utf8.ValidString(name) }) {
		errs = append(errs, errors.New("a new name holds what no name in PostgreSQL can hold: a zero byte, or what is not UTF-8"))
	}
	if t.Route != "" && !routeRule.MatchString(t.Route) {
		errs = append(errs, fmt.Errorf("route %q: want up to 8 words of letters, digits, - and _ with a . between, none of which begins with _. Try: vip.accounts", t.Route))
	}
	return errs
}

// renamed is the name that the rule gives to a table.
func (t *Table) renamed(schema, table string) (toSchema, toTable string, err error) {
	if t.Rename == "" {
		return schema, table, nil
	}
	parts, ok := splitName(t.Rename)
	if !ok {
		return "", "", fmt.Errorf("rename %q: want schema.table; * for one of them leaves it as it is. Try: bank.*", t.Rename)
	}
	for i, own := range []string{schema, table} {
		if parts[i] == "*" {
			parts[i] = own
		}
	}
	return parts[0], parts[1], nil
}

var nameRule = regexp.MustCompile(`^(\*|[^".*\s]+|"(?:[^"]|"")+")\.(\*|[^".*\s]+|"(?:[^"]|"")+")$`)

// splitName reads schema.table. Unquoted names stay as they are written: nothing folds them later.
func splitName(text string) (parts [2]string, ok bool) {
	found := nameRule.FindStringSubmatch(text)
	if found == nil {
		return parts, false
	}
	for i, p := range found[1:] {
		if strings.HasPrefix(p, `"`) {
			p = strings.ReplaceAll(p[1:len(p)-1], `""`, `"`)
		}
		parts[i] = p
	}
	return parts, true
}

// redactBytesMax bounds what a mask puts into every row.
const redactBytesMax = 200

func (m Mask) validate() error {
	ways := 0
	for _, given := range []bool{m.Hash != "", m.Redact != nil, m.Truncate != 0, m.Nullify} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return errors.New("want exactly one way. Try: {hash: \"${VAR}\"}, {redact: \"***\"}, {truncate: 4} or {nullify: true}")
	case m.Hash != "" && m.variable() == "":
		return errors.New("hash does not name an environment variable of the node. Try: hash: \"${CDC_MASK_KEY}\"; a key that stands here would be stored")
	case m.Redact != nil && (len(*m.Redact) > redactBytesMax || strings.ContainsRune(*m.Redact, 0)):
		return fmt.Errorf("redact: want a text of at most %d bytes, none of them zero", redactBytesMax)
	case m.Truncate < 0:
		return fmt.Errorf("truncate %d: want the number of characters that stay", m.Truncate)
	}
	return nil
}

func repeated(names []string) (string, bool) {
	seen := map[string]bool{}
	for _, n := range names {
		if seen[n] {
			return n, true
		}
		seen[n] = true
	}
	return "", false
}

// Rule is the one that counts for a table of the source; nil: none.
func (s *Shape) Rule(schema, table string) *Table {
	if s == nil {
		return nil
	}
	for i := range s.Tables {
		if s.Tables[i].match.Match(schema, table) {
			return &s.Tables[i]
		}
	}
	return nil
}

// Rewrites says whether what the stream has of the tables may differ from what statements that change tables speak of.
func (s *Shape) Rewrites() bool {
	return s != nil && slices.ContainsFunc(s.Tables, func(t Table) bool { return t.rewrites() })
}

// renames says whether a rule gives tables other names.
func (s *Shape) renames() bool {
	return s != nil && slices.ContainsFunc(s.Tables, func(t Table) bool { return t.Rename != "" })
}

func (t *Table) rewrites() bool {
	return t.Exclude || t.Rename != "" || len(t.Columns)+len(t.ExcludeColumns)+len(t.RenameColumns)+len(t.Mask) > 0
}

// Routes says whether a rule has a route.
func (s *Shape) Routes() bool {
	return s != nil && slices.ContainsFunc(s.Tables, func(t Table) bool { return t.Route != "" })
}

// Variables are the environment variables that hold keys of hashes.
func (s *Shape) Variables() []string {
	found := map[string]bool{}
	if s != nil {
		for i := range s.Tables {
			for _, m := range s.Tables[i].Mask {
				if v := m.variable(); v != "" {
					found[v] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
