package ddl

import (
	"fmt"
	"slices"
	"strings"

	"shardcdc/pipeline/mark"
)

// Statement is what a target does about a captured statement.
type Statement struct {
	// Key is the same for the same statement of every shard.
	Key string
	// Text as the shard ran it, alone.
	Text string
	// SQL is what a target runs; empty: nothing, it is the target's own business.
	SQL string
	// Last: it runs when the last shard has come to it; else when the first has.
	Last bool
	// Apart: it runs in a transaction of its own, before, because rows of the same target transaction may need it
	// (ALTER TYPE … ADD VALUE). Running it twice does no harm.
	Apart bool
	// Single: if the target says that the thing exists, or is gone, already, then there is nothing left to do.
	Single bool
	// Effects on rows of shards that have not run it, once the target has.
	Effects []Effect
	// Types are columns that get another type; Last is then to be found out from the target.
	Types []NewType
	// Doubtful are tables that it drops on the shard, and that were not published there: partitions, or tables of a name
	// that may be another table's here.
	Doubtful []Name
	// Values: rows that are there get values that only each shard knows, unless there are none.
	Values string
	// Between: why rows that come from shards that have not run it yet do not fit the table Of, whether it runs at the first
	// shard's place or at the last one's. It runs only when all shards run it in one transaction.
	Between string
	Of      Name
	// Calls are functions that make values of rows that are there. Unless they make the same of the same everywhere, Values
	// has to say so.
	Calls []Call
	// Partition that is attached, detached or made, of Table; empty: none.
	Partition, PartitionOf Name
	// Attach: its rows become rows of the table.
	Attach bool

	phrase  phrase
	drop    []Name
	cascade bool
}

// Mentions says whether the statement uses a name.
func (s *Statement) Mentions(name string) bool {
	return slices.ContainsFunc(s.phrase.tokens, func(t token) bool {
		text, ok := t.name()
		return ok && text == name
	})
}

// Refusal is a statement that a person has to run.
type Refusal struct{ Why string }

func (e *Refusal) Error() string { return e.Why }

// Name of a table. An empty Schema is looked up in the search path.
type Name struct {
	Schema string `json:"schema,omitempty"`
	Name   string `json:"table"`
}

func (n Name) String() string {
	if n.Schema == "" {
		return Quote(n.Name)
	}
	return Quote(n.Schema) + "." + Quote(n.Name)
}

// Call of a function, by any schema's name.
type Call struct {
	Column   string
	Function string
}

// NewType of a column.
type NewType struct {
	Table  Name
	Column string
	Type   string
}

// Kinds of an Effect.
const (
	CreateTable  = "create table" // none: it says whose table that is
	Default      = "default"      // none: a statement that builds on the column comes behind it
	RenameColumn = "rename column"
	RenameTable  = "rename table"
	DropColumn   = "drop column" // its values are left out
	DropTable    = "drop table"  // its changes are left out
)

// Effect says how what a shard sends fits a target on which a statement ran that the shard has not come to yet.
type Effect struct {
	Kind  string `json:"kind"`
	Table Name   `json:"of"`
	From  string `json:"from,omitempty"` // RenameColumn, DropColumn, Default: the column
	To    string `json:"to,omitempty"`   // RenameColumn
	Into  *Name  `json:"into,omitempty"` // RenameTable
}

// Quote makes an identifier of any name.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Read finds out what a statement means. The error is a Refusal.
func Read(d *mark.DDL) (s *Statement, err error) {
	p, why := statementOf(d)
	if why != "" {
		return &Statement{Text: d.Statement, Key: keyOf(d, d.Tag+" "+d.Statement)}, &Refusal{why}
	}
	s = &Statement{Text: p.String(), Key: keyOf(d, p.normal()), phrase: p}
	r := reader{Statement: s, d: d, p: p.without("concurrently")}
	r.SQL = r.p.String()
	if why := r.read(); why != "" {
		return s, &Refusal{why}
	}
	return s, nil
}

// keyOf: the same text under another search path is about other tables.
func keyOf(d *mark.DDL, normal string) string { return d.SearchPath + "\n" + normal }

// reader of one statement.
type reader struct {
	*Statement
	d *mark.DDL
	p phrase
	i int // the next token

	added string // the column that an action of ALTER TABLE adds
}

// nothing: the statement says nothing about rows.
func (r *reader) nothing() string {
	r.SQL = ""
	return ""
}

func (r *reader) read() (why string) {
	switch r.d.Tag {
	case "ALTER TABLE":
		return r.alterTable()
	case "ALTER TYPE":
		return r.alterType()
	case "ALTER DOMAIN":
		return r.alterDomain()
	case "ALTER INDEX":
		return r.alterIndex()
	case "CREATE TABLE":
		return r.createTable()
	case "CREATE TABLE AS", "SELECT INTO":
		return "the rows that it makes are not in the stream"
	case "CREATE INDEX":
		r.Single, r.Last = true, r.p.starts(1, "unique")
		return ""
	case "CREATE TYPE", "CREATE DOMAIN":
		r.Single = true
		return ""
	case "CREATE SCHEMA":
		r.Single = true
		if len(r.d.Objects) > 1 {
			return "it makes other things in the schema"
		}
		return ""
	case "DROP TABLE":
		return r.dropTable()
	case "DROP INDEX":
		return r.dropped(mark.DDLIndex, "INDEX", false)
	case "DROP TYPE":
		return r.dropped(mark.DDLType, "TYPE", true)
	case "DROP DOMAIN":
		return r.dropped(mark.DDLType, "DOMAIN", true)
	case "DROP SCHEMA":
		return r.dropSchema()
	case "ALTER SCHEMA":
		if r.p.top("owner") >= 0 {
			return r.nothing()
		}
	case "ALTER EXTENSION":
		return r.nothing()
	}
	return fmt.Sprintf("what %s does to tables is not followed", r.d.Tag)
}

// skip takes keywords if they come next.
func (r *reader) skip(words ...string) bool {
	if !r.p.starts(r.i, words...) {
		return false
	}
	r.i += len(words)
	return true
}

// name takes a name with or without a schema.
func (r *reader) name() (n Name, ok bool) {
	for {
		if r.i >= len(r.p.tokens) {
			return n, false
		}
		text, ok := r.p.tokens[r.i].name()
		if !ok {
			return n, false
		}
		n.Schema, n.Name = n.Name, text
		r.i++
		if !r.skip(".") {
			return n, true
		}
	}
}

// resolved is the name with the schema that the shard found it in.
func (r *reader) resolved(n Name) Name {
	if n.Schema != "" {
		return n
	}
	for _, o := range r.d.Objects {
		if o.Name == n.Name && (o.Type == mark.DDLTable || o.Type == mark.DDLColumn) {
			n.Schema = o.Schema
			return n
		}
	}
	return n
}

// drops are the objects of a kind that the statement dropped.
func (r *reader) drops(kind string) (all []mark.DDLObject) {
	for _, o := range r.d.Objects {
		if o.Type == kind && o.Dropped {
			all = append(all, o)
		}
	}
	return all
}

// dropTable runs for the tables that the statement names and that are of the subscription; a table of the same name as
// another that was dropped is not touched.
func (r *reader) dropTable() string {
	r.i = 2
	r.skip("if", "exists")
	var names []Name
	for {
		n, ok := r.name()
		if !ok {
			return "its list of tables is not understood"
		}
		for _, o := range r.drops(mark.DDLTable) {
			if o.Name == n.Name && (n.Schema == "" || n.Schema == o.Schema) {
				of := Name{o.Schema, o.Name}
				names = append(names, of)
				if !o.Published {
					r.Doubtful = append(r.Doubtful, of)
				}
				r.Effects = append(r.Effects, Effect{Kind: DropTable, Table: of})
			}
		}
		if !r.skip(",") {
			break
		}
	}
	if len(names) == 0 {
		return "it dropped tables that it does not name"
	}
	r.drop = names
	r.cascade = r.skip("cascade")
	r.Spare(nil)
	r.Last = true
	return ""
}

// Spare leaves tables out of DROP TABLE.
func (s *Statement) Spare(spared []Name) {
	var names []string
	for _, n := range s.drop {
		if !slices.Contains(spared, n) {
			names = append(names, n.String())
		}
	}
	s.SQL = ""
	if len(names) > 0 {
		s.SQL = "DROP TABLE IF EXISTS " + strings.Join(names, ", ")
		if s.cascade {
			s.SQL += " CASCADE"
		}
	}
}

// dropped is DROP of one or several things that hold no rows. Columns may go with them.
func (r *reader) dropped(kind, sql string, last bool) string {
	var names []string
	for _, o := range r.drops(kind) {
		names = append(names, Name{o.Schema, o.Name}.String())
	}
	if len(names) == 0 {
		return "it dropped what it does not name"
	}
	r.SQL = fmt.Sprintf("DROP %s IF EXISTS %s", sql, strings.Join(names, ", "))
	if r.p.top("cascade") >= 0 {
		r.SQL += " CASCADE"
	}
	r.dropColumns()
	r.Last = last
	return ""
}

// dropSchema drops what is empty here, too: CASCADE would take what the target has of its own in the schema.
func (r *reader) dropSchema() string {
	var names []string
	for _, o := range r.drops(mark.DDLSchema) {
		names = append(names, Quote(o.Name))
	}
	if len(names) == 0 || len(names) < len(r.d.Objects) {
		return "it dropped other things with the schema"
	}
	r.SQL, r.Last = "DROP SCHEMA IF EXISTS "+strings.Join(names, ", "), true
	return ""
}

// dropColumns notes which columns went.
func (r *reader) dropColumns() {
	for _, o := range r.drops(mark.DDLColumn) {
		r.Effects = append(r.Effects, Effect{Kind: DropColumn, Table: Name{o.Schema, o.Name}, From: o.Column})
	}
}

func (r *reader) createTable() string {
	if slices.Contains(words(r.p.tokens[:min(4, len(r.p.tokens))]), "temp") {
		return r.nothing()
	}
	r.Single = true
	for _, o := range r.d.Objects {
		if o.Type == mark.DDLTable && !o.Dropped {
			r.Effects = append(r.Effects, Effect{Kind: CreateTable, Table: Name{o.Schema, o.Name}})
		}
	}
	of := r.p.top("of")
	if of < 1 || !r.p.tokens[of-1].is("partition") {
		return ""
	}
	r.i = of + 1
	parent, ok := r.name()
	if !ok {
		return "the table that it is a partition of is not understood"
	}
	r.PartitionOf = parent
	r.i = 1 + slices.IndexFunc(r.p.tokens, func(t token) bool { return t.is("table") })
	r.skip("if", "not", "exists")
	r.Partition, _ = r.name()
	return ""
}

func words(tokens []token) (texts []string) {
	for _, t := range tokens {
		texts = append(texts, t.text)
	}
	return texts
}

func (r *reader) alterType() string {
	r.i = 2
	if _, ok := r.name(); !ok {
		return "the name of the type is not understood"
	}
	switch {
	case r.skip("add", "value"):
		r.Apart, r.Single = true, true
	case r.skip("owner"), r.skip("set", "("):
		return r.nothing()
	case r.skip("rename", "value"), r.skip("rename"), r.skip("set", "schema"):
		r.Single = true
	case r.skip("drop", "attribute"):
		r.Single, r.Last = true, true
	default: // ADD ATTRIBUTE, ALTER ATTRIBUTE, and several of these
		r.Single = len(r.p.parts()) == 1
	}
	return ""
}

func (r *reader) alterDomain() string {
	r.i = 2
	if _, ok := r.name(); !ok {
		return "the name of the domain is not understood"
	}
	switch {
	case r.skip("owner"):
		return r.nothing()
	case r.skip("add"), r.skip("set", "not"), r.skip("validate"):
		r.Last = true
	}
	r.Single = true
	return ""
}

func (r *reader) alterIndex() string {
	r.i = 2
	r.skip("if", "exists")
	if _, ok := r.name(); !ok {
		return r.nothing() // ALL IN TABLESPACE
	}
	if !r.skip("rename", "to") && !r.skip("attach", "partition") {
		return r.nothing() // storage, statistics, dependencies
	}
	r.Single = true
	return ""
}
