package ddl

import (
	"slices"
	"strings"

	"shardcdc/pipeline/mark"
)

// place says where a part of ALTER TABLE runs.
type place uint8

const (
	nowhere place = iota // owner, storage, triggers: the target's own business
	first
	last
)

// alterTable looks at every action of the statement.
func (r *reader) alterTable() (why string) {
	r.i = 2
	if r.skip("all", "in") {
		return r.nothing()
	}
	r.skip("if", "exists")
	r.skip("only")
	named, ok := r.name()
	if !ok {
		return "the name of the table is not understood"
	}
	r.skip("*")
	of := r.resolved(named)
	actions := r.p.slice(r.i, len(r.p.tokens)).parts()
	places := map[place]bool{}
	var added []string
	for _, a := range actions {
		action := reader{Statement: r.Statement, d: r.d, p: a}
		at, why := action.alter(of)
		if action.added != "" {
			added = append(added, action.added)
		}
		if why != "" {
			return why
		}
		places[at] = true
	}
	for _, e := range r.Effects {
		if e.Kind == Default && slices.Contains(added, e.From) {
			r.Between, r.Of = "column "+Quote(e.From)+" is new and gets another default at once, but rows come without it from shards that have not run it", of
		}
	}
	r.dropColumns()
	r.Single = len(actions) == 1
	switch {
	case !places[first] && !places[last]:
		return r.nothing()
	case !places[first]:
		r.Last = true
	}
	return ""
}

// alter reads one action.
func (r *reader) alter(of Name) (at place, why string) {
	switch {
	case r.skip("add"):
		return r.add(of)
	case r.skip("drop", "constraint"):
		return first, ""
	case r.skip("drop"):
		return last, ""
	case r.skip("rename"):
		return first, r.rename(of)
	case r.skip("set", "schema"):
		to, _ := r.name()
		r.moved(of, Name{to.Name, of.Name})
		return first, ""
	case r.skip("alter", "constraint"):
		return first, ""
	case r.skip("alter"):
		return r.column(of)
	case r.skip("validate"):
		return last, ""
	case r.skip("attach", "partition"):
		r.Partition, _ = r.name()
		r.PartitionOf, r.Attach = of, true
		return first, ""
	case r.skip("detach", "partition"):
		r.Partition, _ = r.name()
		r.PartitionOf = of
		return last, ""
	}
	if r.skip("inherit") || r.skip("no", "inherit") {
		return first, "" // whose rows a query of the parent shows
	}
	for _, word := range []string{"owner", "enable", "disable", "cluster", "set", "reset", "replica", "force", "no", "of", "not"} {
		if r.skip(word) {
			return nowhere, ""
		}
	}
	return first, "it does something to the table that is not understood"
}

// add is ADD of a column or a constraint.
func (r *reader) add(of Name) (at place, why string) {
	for _, words := range [][]string{
		{"constraint"}, {"primary"}, {"unique"}, {"check"}, {"foreign"}, {"exclude", "using"}, {"exclude", "("}, {"not"},
	} {
		if r.skip(words...) {
			return last, ""
		}
	}
	r.skip("column")
	r.skip("if", "not", "exists")
	column, ok := r.name()
	if !ok {
		return first, "the name of the new column is not understood"
	}
	r.added = column.Name
	rest := r.p.slice(r.i, len(r.p.tokens))
	if made := differs(rest); made != "" {
		r.Values = "column " + Quote(column.Name) + " gets " + made
	}
	return first, ""
}

// rename is RENAME of the table, a column or a constraint.
func (r *reader) rename(of Name) (why string) {
	if r.skip("constraint") {
		return ""
	}
	if r.skip("to") {
		to, _ := r.name()
		// The shard knows the table by its new name.
		r.moved(of, Name{r.resolved(to).Schema, to.Name})
		return ""
	}
	r.skip("column")
	from, ok := r.name()
	if !ok || !r.skip("to") {
		return "what it renames is not understood"
	}
	to, ok := r.name()
	if !ok {
		return "what it renames is not understood"
	}
	for _, o := range r.d.Objects {
		if o.Type == mark.DDLColumn && !o.Dropped && o.Column == to.Name {
			r.Effects = append(r.Effects, Effect{Kind: RenameColumn, Table: Name{o.Schema, o.Name}, From: from.Name, To: to.Name})
			return ""
		}
	}
	return "the shard does not name the column that it renamed"
}

func (r *reader) moved(from, to Name) {
	if from.Schema == "" {
		from.Schema = to.Schema // RENAME keeps the schema
	}
	if to.Schema == "" {
		to.Schema = from.Schema
	}
	r.Effects = append(r.Effects, Effect{Kind: RenameTable, Table: from, Into: &to})
}

// column is ALTER COLUMN.
func (r *reader) column(of Name) (at place, why string) {
	r.skip("column")
	name, ok := r.name()
	if !ok {
		return first, "the name of the column is not understood"
	}
	switch {
	case r.skip("type"), r.skip("set", "data", "type"):
		typ := r.p.slice(r.i, len(r.p.tokens))
		if i := typ.top("using"); i >= 0 {
			r.using(of, name.Name, typ.slice(i+1, len(typ.tokens)))
		}
		for _, end := range []string{"using", "collate"} {
			if i := typ.top(end); i >= 0 {
				typ = typ.slice(0, i)
			}
		}
		r.Types = append(r.Types, NewType{Table: of, Column: name.Name, Type: typ.String()})
		return first, ""
	case r.skip("set", "not", "null"):
		return last, ""
	case r.skip("drop", "expression"):
		r.Between, r.Of = "column "+Quote(name.Name)+" is not computed any more, but rows come without it from shards that have not run it", of
		return first, ""
	case r.skip("set", "default"), r.skip("drop", "default"):
		// Rows of shards that have not got the column yet get the default that it came with.
		r.Effects = append(r.Effects, Effect{Kind: Default, Table: of, From: name.Name})
		return last, ""
	case r.skip("drop"), r.skip("add"), r.skip("set", "generated"), r.skip("restart"), r.skip("set", "expression"):
		return first, ""
	}
	return nowhere, "" // statistics, storage, compression, options
}

// using is the expression that a column's values are made with. It is the same everywhere when it is made of constants,
// columns, and functions that are; what functions are is found out from the target.
func (r *reader) using(of Name, column string, e phrase) {
	if !casts(e, column) {
		r.Between, r.Of = "column "+Quote(column)+" gets other values ("+e.String()+") than rows have that come from shards before they run it", of
	}
	for i, t := range e.tokens {
		switch {
		case now(t):
			r.Values = "column " + Quote(column) + " gets the value of an expression (" + e.String() + ")"
		case !t.is("cast") && i+1 < len(e.tokens) && e.tokens[i+1].is("("):
			if name, ok := t.name(); ok {
				r.Calls = append(r.Calls, Call{Column: column, Function: name})
			}
		}
	}
}

// casts says that an expression is the column itself, cast or not.
func casts(e phrase, column string) bool {
	for e.bracketed(0) {
		e = e.slice(1, len(e.tokens)-1)
	}
	if e.starts(0, "cast") && e.bracketed(1) {
		e = e.slice(2, len(e.tokens)-1)
		return casts(e.slice(0, max(0, e.top("as"))), column)
	}
	for i, t := range e.tokens {
		switch name, ok := t.name(); {
		case i == 0:
			if !ok || name != column {
				return false
			}
		case i == 1 && !t.is(":"):
			return false
		case !ok && !t.is(":") && !t.is(".") && !t.is("(") && !t.is(")") && !t.is(",") && !t.is("[") && !t.is("]") && t.kind != number:
			return false
		case ok && slices.Contains([]string{"and", "or", "is", "in", "like", "at", "between", "collate", "operator"}, name):
			return false
		}
	}
	return len(e.tokens) > 0
}

// now says that what a constant or keyword means depends on when, where, or by whom it is run.
func now(t token) bool {
	switch t.kind {
	case text:
		return slices.Contains([]string{"'now'", "'today'", "'tomorrow'", "'yesterday'"}, strings.ToLower(strings.ReplaceAll(t.text, " ", "")))
	case word:
		return slices.Contains([]string{
			"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp",
			"current_user", "current_role", "session_user", "user", "current_catalog", "current_schema",
		}, t.text)
	case quoted, number, symbol:
	}
	return false
}

// differs says what is in a new column of rows that are there, if that is not the same everywhere.
func differs(column phrase) string {
	for _, t := range column.tokens {
		if t.kind == word && slices.Contains([]string{"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}, t.text) {
			return "numbers of a sequence"
		}
		if t.is("default") || t.is("generated") || t.is("not") || t.is("(") {
			break
		}
	}
	if i := column.top("identity"); i > 0 && column.tokens[i-1].is("as") {
		return "numbers of a sequence"
	}
	i := column.top("default")
	if i < 0 {
		return ""
	}
	value := column.slice(i+1, len(column.tokens))
	for _, end := range []string{"not", "check", "unique", "primary", "references", "generated", "constraint", "collate"} {
		if n := value.top(end); n > 0 {
			value = value.slice(0, n)
		}
	}
	if constant(value) {
		return ""
	}
	return "the value of an expression (" + value.String() + ")"
}

// constant says that an expression is made of constants, so that it is the same everywhere and at any time.
func constant(e phrase) bool {
	for i, t := range e.tokens {
		switch t.kind {
		case text:
			if now(t) {
				return false
			}
		case word, quoted:
			if t.kind == word && slices.Contains([]string{"true", "false", "null", "array"}, t.text) || ofType(e.tokens, i) {
				continue
			}
			return false
		case symbol, number:
		}
	}
	return true
}

// ofType says that a word is (part of) the name of a type: behind ::, or in front of a string.
func ofType(tokens []token, i int) bool {
	if i+1 < len(tokens) && tokens[i+1].kind == text {
		return true
	}
	for i--; i >= 0; i-- {
		switch t := tokens[i]; {
		case t.is(":"):
			return true
		case t.kind == word && !slices.Contains([]string{"and", "or", "not"}, t.text), t.kind == quoted, t.is("."):
		default:
			return false
		}
	}
	return false
}
