package ddl_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shardcdc/apply/postgres/ddl"
	"shardcdc/pipeline/mark"
)

func table(name string) mark.DDLObject {
	return mark.DDLObject{Type: mark.DDLTable, Schema: "public", Name: name}
}

func dropped(kind, name, column string) mark.DDLObject {
	return mark.DDLObject{Type: kind, Schema: "public", Name: name, Column: column, Dropped: true}
}

// brief is what a statement means, on a line.
func brief(s *ddl.Statement, err error) string {
	var refusal *ddl.Refusal
	switch {
	case errors.As(err, &refusal):
		return "refused: " + refusal.Why
	case err != nil:
		return err.Error()
	case s.SQL == "":
		return "nothing"
	}
	line := "first"
	if s.Last {
		line = "last"
	}
	for _, f := range []struct {
		set  bool
		name string
	}{{s.Apart, "apart"}, {s.Single, "single"}, {s.Attach, "attach"}} {
		if f.set {
			line += " " + f.name
		}
	}
	if s.Partition.Name != "" {
		line += fmt.Sprintf(" partition %s of %s", s.Partition, s.PartitionOf)
	}
	for _, e := range s.Effects {
		line += fmt.Sprintf(" [%s %s %s %s", e.Kind, e.Table, e.From, e.To)
		if e.Into != nil {
			line += e.Into.String()
		}
		line += "]"
	}
	for _, t := range s.Types {
		line += fmt.Sprintf(" type of %s.%s: %s", t.Table, t.Column, t.Type)
	}
	if s.Between != "" {
		line += " between: " + s.Between
	}
	if len(s.Calls) > 0 {
		line += " calls"
	}
	for _, c := range s.Calls {
		line += " " + c.Function
	}
	if s.Values != "" {
		line += " values: " + s.Values
	}
	return line + ": " + s.SQL
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		sql     string
		want    string
		objects []mark.DDLObject
	}{
		{"ALTER TABLE t ADD c int DEFAULT -1 NOT NULL", "first single: ALTER TABLE t ADD c int DEFAULT -1 NOT NULL", nil},
		{"alter table if exists only public.t * add column if not exists \"C c\" jsonb default '{}'::jsonb", "first single: alter table if exists only public.t * add column if not exists \"C c\" jsonb default '{}'::jsonb", nil},
		{"ALTER TABLE t ADD c timestamptz DEFAULT now()", "first single values: column \"c\" gets the value of an expression (now()): ALTER TABLE t ADD c timestamptz DEFAULT now()", nil},
		{"ALTER TABLE t ADD c date DEFAULT CURRENT_DATE NOT NULL", "first single values: column \"c\" gets the value of an expression (CURRENT_DATE): ALTER TABLE t ADD c date DEFAULT CURRENT_DATE NOT NULL", nil},
		{"ALTER TABLE t ADD c timestamp DEFAULT 'Now '", "first single values: column \"c\" gets the value of an expression ('Now '): ALTER TABLE t ADD c timestamp DEFAULT 'Now '", nil},
		{"ALTER TABLE t ADD c text DEFAULT 'a'::character varying(10) || now()", "first single values: column \"c\" gets the value of an expression ('a'::character varying(10) || now()): ALTER TABLE t ADD c text DEFAULT 'a'::character varying(10) || now()", nil},
		{"ALTER TABLE t ADD c date DEFAULT DATE '2020-01-01', ADD d text[] DEFAULT ARRAY['a']::text[]", "first: ALTER TABLE t ADD c date DEFAULT DATE '2020-01-01', ADD d text[] DEFAULT ARRAY['a']::text[]", nil},
		{"ALTER TABLE t ADD id bigserial", "first single values: column \"id\" gets numbers of a sequence: ALTER TABLE t ADD id bigserial", nil},
		{"ALTER TABLE t ADD id int GENERATED ALWAYS AS IDENTITY", "first single values: column \"id\" gets numbers of a sequence: ALTER TABLE t ADD id int GENERATED ALWAYS AS IDENTITY", nil},
		{"ALTER TABLE t ADD id int GENERATED ALWAYS AS (a + 1) STORED", "first single: ALTER TABLE t ADD id int GENERATED ALWAYS AS (a + 1) STORED", nil},
		{"ALTER TABLE t ADD exclude int", "first single: ALTER TABLE t ADD exclude int", nil},
		{"ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID", "last single: ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID", nil},
		{"ALTER TABLE t VALIDATE CONSTRAINT k", "last single: ALTER TABLE t VALIDATE CONSTRAINT k", nil},
		{"ALTER TABLE t DROP CONSTRAINT k", "first single: ALTER TABLE t DROP CONSTRAINT k", nil},
		{"ALTER TABLE t ALTER a SET NOT NULL", "last single: ALTER TABLE t ALTER a SET NOT NULL", nil},
		{"ALTER TABLE t ALTER a DROP NOT NULL", "first single: ALTER TABLE t ALTER a DROP NOT NULL", nil},
		{"ALTER TABLE t ALTER a TYPE date USING CURRENT_DATE", "first single type of \"t\".a: date between: column \"a\" gets other values (CURRENT_DATE) than rows have that come from shards before they run it values: column \"a\" gets the value of an expression (CURRENT_DATE): ALTER TABLE t ALTER a TYPE date USING CURRENT_DATE", nil},
		{"ALTER TABLE t ALTER a TYPE uuid USING (coalesce(b, public.gen_random_uuid()))", "first single type of \"t\".a: uuid between: column \"a\" gets other values ((coalesce(b, public.gen_random_uuid()))) than rows have that come from shards before they run it calls coalesce gen_random_uuid: ALTER TABLE t ALTER a TYPE uuid USING (coalesce(b, public.gen_random_uuid()))", nil},
		{"ALTER TABLE t ALTER a TYPE mood USING (CAST((\"a\"::text) AS mood))", "first single type of \"t\".a: mood: ALTER TABLE t ALTER a TYPE mood USING (CAST((\"a\"::text) AS mood))", nil},
		{"ALTER TABLE t ALTER a TYPE int USING a::int*2", "first single type of \"t\".a: int between: column \"a\" gets other values (a::int*2) than rows have that come from shards before they run it: ALTER TABLE t ALTER a TYPE int USING a::int*2", nil},
		{"ALTER TABLE t ALTER a TYPE int USING b::int", "first single type of \"t\".a: int between: column \"a\" gets other values (b::int) than rows have that come from shards before they run it: ALTER TABLE t ALTER a TYPE int USING b::int", nil},
		{"ALTER TABLE t ALTER a TYPE bool USING a::int IS NULL", "first single type of \"t\".a: bool between: column \"a\" gets other values (a::int IS NULL) than rows have that come from shards before they run it: ALTER TABLE t ALTER a TYPE bool USING a::int IS NULL", nil},
		{"ALTER TABLE t ALTER a DROP EXPRESSION", "first single between: column \"a\" is not computed any more, but rows come without it from shards that have not run it: ALTER TABLE t ALTER a DROP EXPRESSION", nil},
		{"DROP SCHEMA s CASCADE", "last: DROP SCHEMA IF EXISTS \"s\"", []mark.DDLObject{{Type: mark.DDLSchema, Schema: "s", Name: "s", Dropped: true}}},
		{"DROP SCHEMA s CASCADE", "refused: it dropped other things with the schema", []mark.DDLObject{{Type: mark.DDLSchema, Schema: "s", Name: "s", Dropped: true}, dropped(mark.DDLTable, "t", "")}},
		{"DROP SCHEMA s CASCADE", "refused: it dropped other things with the schema", []mark.DDLObject{dropped(mark.DDLTable, "t", "")}},
		{"ALTER TABLE t ALTER a DROP DEFAULT", "last single [default \"t\" a ]: ALTER TABLE t ALTER a DROP DEFAULT", nil},
		{"ALTER TABLE t ALTER a DROP DEFAULT, ALTER a TYPE int, ALTER a SET DEFAULT 1", "first [default \"t\" a ] [default \"t\" a ] type of \"t\".a: int: ALTER TABLE t ALTER a DROP DEFAULT, ALTER a TYPE int, ALTER a SET DEFAULT 1", nil},
		{"ALTER TABLE t ADD a int DEFAULT 1, ALTER a DROP DEFAULT", "first [default \"t\" a ] between: column \"a\" is new and gets another default at once, but rows come without it from shards that have not run it: ALTER TABLE t ADD a int DEFAULT 1, ALTER a DROP DEFAULT", nil},
		{"ALTER TABLE t INHERIT u", "first single: ALTER TABLE t INHERIT u", nil},
		{"ALTER TABLE t NO INHERIT u", "first single: ALTER TABLE t NO INHERIT u", nil},
		{"ALTER TABLE t NO FORCE ROW LEVEL SECURITY", "nothing", nil},
		{"ALTER TABLE t ALTER COLUMN a SET STATISTICS 100", "nothing", nil},
		{"ALTER TABLE t OWNER TO x, SET (fillfactor = 10), REPLICA IDENTITY FULL", "nothing", nil},
		{"ALTER TABLE t ENABLE ROW LEVEL SECURITY", "nothing", nil},
		{"ALTER TABLE t DROP a", "last single [drop column \"public\".\"t\" a ]: ALTER TABLE t DROP a", []mark.DDLObject{dropped(mark.DDLColumn, "t", "a"), table("t")}},
		{"ALTER TABLE t DROP a, ADD b int", "first [drop column \"public\".\"t\" a ]: ALTER TABLE t DROP a, ADD b int", []mark.DDLObject{dropped(mark.DDLColumn, "t", "a"), table("t")}},
		{"ALTER TABLE t RENAME a TO \"B\"", "first single [rename column \"public\".\"t\" a B]: ALTER TABLE t RENAME a TO \"B\"", []mark.DDLObject{{Type: mark.DDLColumn, Schema: "public", Name: "t", Column: "B"}}},
		{"ALTER TABLE t RENAME TO u", "first single [rename table \"public\".\"t\"  \"public\".\"u\"]: ALTER TABLE t RENAME TO u", []mark.DDLObject{table("u")}},
		{"ALTER TABLE t SET SCHEMA s", "first single [rename table \"public\".\"t\"  \"s\".\"t\"]: ALTER TABLE t SET SCHEMA s", []mark.DDLObject{table("t")}},
		{"ALTER TABLE t RENAME CONSTRAINT a TO b", "first single: ALTER TABLE t RENAME CONSTRAINT a TO b", nil},
		{"ALTER TABLE t ALTER a TYPE numeric(10, 2) USING a::numeric", "first single type of \"public\".\"t\".a: numeric(10, 2): ALTER TABLE t ALTER a TYPE numeric(10, 2) USING a::numeric", []mark.DDLObject{table("t")}},
		{"ALTER TABLE r ATTACH PARTITION r1 FOR VALUES IN (1)", "first single attach partition \"r1\" of \"public\".\"r\": ALTER TABLE r ATTACH PARTITION r1 FOR VALUES IN (1)", []mark.DDLObject{table("r")}},
		{"ALTER TABLE r DETACH PARTITION r1 CONCURRENTLY", "last single partition \"r1\" of \"public\".\"r\": ALTER TABLE r DETACH PARTITION r1", []mark.DDLObject{table("r")}},
		{"CREATE TABLE IF NOT EXISTS r1 PARTITION OF r DEFAULT", "first single partition \"r1\" of \"r\": CREATE TABLE IF NOT EXISTS r1 PARTITION OF r DEFAULT", nil},
		{"CREATE TABLE n (a int)", "first single: CREATE TABLE n (a int)", nil},
		{"CREATE TABLE n AS SELECT 1", "refused: the rows that it makes are not in the stream", nil},
		{"DROP TABLE a, b CASCADE", "last [drop table \"public\".\"b\"  ]: DROP TABLE IF EXISTS \"public\".\"b\" CASCADE", []mark.DDLObject{dropped(mark.DDLTable, "b", "")}},
		{"CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "last single: CREATE UNIQUE INDEX  i ON t (a)", nil},
		{"CREATE INDEX ON t (a)", "first single: CREATE INDEX ON t (a)", nil},
		{"DROP INDEX CONCURRENTLY i", "first: DROP INDEX IF EXISTS \"public\".\"i\"", []mark.DDLObject{dropped(mark.DDLIndex, "i", "")}},
		{"CREATE TYPE e AS ENUM ('a')", "first single: CREATE TYPE e AS ENUM ('a')", nil},
		{"ALTER TYPE e ADD VALUE 'b'", "first apart single: ALTER TYPE e ADD VALUE 'b'", nil},
		{"ALTER TYPE e RENAME VALUE 'b' TO 'c'", "first single: ALTER TYPE e RENAME VALUE 'b' TO 'c'", nil},
		{"ALTER TYPE e OWNER TO x", "nothing", nil},
		{"DROP TYPE e CASCADE", "last [drop column \"public\".\"t\" a ]: DROP TYPE IF EXISTS \"public\".\"e\" CASCADE", []mark.DDLObject{dropped(mark.DDLType, "e", ""), dropped(mark.DDLColumn, "t", "a")}},
		{"ALTER INDEX i SET (fillfactor = 70)", "nothing", nil},
		{"ALTER INDEX i RENAME TO j", "first single: ALTER INDEX i RENAME TO j", nil},
		{"DROP OWNED BY x", "refused: what DROP OWNED does to tables is not followed", []mark.DDLObject{dropped(mark.DDLTable, "t", "")}},
		{"/* a; b /* c */ */ ALTER TABLE t -- ; \n ADD \";\" text DEFAULT $a$;'$a$", "first single: ALTER TABLE t -- ; \n ADD \";\" text DEFAULT $a$;'$a$", nil},
		{"ALTER TABLE t ADD a text DEFAULT E'\\';'", "first single: ALTER TABLE t ADD a text DEFAULT E'\\';'", nil},
		{"ALTER TABLE t ADD U&\"d\\0061t\" int", "refused: names and strings of the form U&… are not taken apart", nil},
		{"ALTER TABLE t ADD a text DEFAULT 'x", "refused: a string or a quoted name does not end", nil},
		{"SELECT f()", "refused: the client's text shows no ALTER TABLE", nil},
	} {
		d := mark.DDL{Statement: c.sql, Tag: tagOf(c.sql), Nth: 1, SearchPath: "public", Objects: c.objects}
		if got := brief(ddl.Read(&d)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.sql, got, c.want)
		}
	}
}

// tagOf is the tag that the server gives.
func tagOf(sql string) string {
	for _, tag := range []string{"DROP SCHEMA", "CREATE TABLE", "CREATE INDEX", "CREATE TYPE", "ALTER TYPE", "DROP TABLE", "DROP INDEX", "DROP TYPE", "DROP OWNED", "ALTER INDEX"} {
		if strings.HasPrefix(sql, tag) {
			if strings.Contains(sql, " AS SELECT") {
				return tag + " AS"
			}
			return tag
		}
	}
	if strings.HasPrefix(sql, "CREATE UNIQUE INDEX") {
		return "CREATE INDEX"
	}
	return "ALTER TABLE"
}

// Which statement of a text a mark is about.
func TestReadOneOfMany(t *testing.T) {
	many := "BEGIN; ALTER TABLE t ADD a int; CREATE INDEX ON t (a); SELECT ';'; ALTER TABLE t ADD b int; END"
	for _, c := range []struct {
		d    mark.DDL
		want string
	}{
		{mark.DDL{Statement: strings.Replace(many, "END", "SELECT 1", 1), Tag: "ALTER TABLE", Nth: 1}, "ALTER TABLE t ADD a int"},
		{mark.DDL{Statement: strings.Replace(many, "END", "SELECT 1", 1), Tag: "ALTER TABLE", Nth: 2}, "ALTER TABLE t ADD b int"},
		{mark.DDL{Statement: many, Tag: "CREATE INDEX", Nth: 1}, "CREATE INDEX ON t (a)"},
		{mark.DDL{Statement: many, Tag: "ALTER TABLE", Nth: 2}, "ALTER TABLE t ADD b int"},
		{mark.DDL{Statement: strings.Replace(many, "END", "PREPARE TRANSACTION 'x'", 1), Tag: "ALTER TABLE", Nth: 2}, "ALTER TABLE t ADD b int"},
		{mark.DDL{Statement: many + "; SELECT 1", Tag: "ALTER TABLE", Nth: 2}, "the client's text has 2 statements of ALTER TABLE, and which of them ran cannot be told"},
		{mark.DDL{Statement: "ALTER TABLE t ADD a int; ALTER TABLE t ADD b int", Tag: "ALTER TABLE", Nested: true}, "the client's text has 2 statements of ALTER TABLE, and which of them ran cannot be told"},
		{mark.DDL{Statement: "ALTER TABLE t ADD a int; ALTER TABLE t ADD b int", Tag: "ALTER TABLE", Nth: 3}, "the client's text has 2 statements of ALTER TABLE, and this is number 3"},
		{mark.DDL{Statement: "x", Tag: "ALTER TABLE", Inexact: "hidden"}, "hidden"},
		{mark.DDL{Statement: `CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; ALTER TABLE t ADD a int`, Tag: "ALTER TABLE", Nth: 1}, "a body in BEGIN ATOMIC is not taken apart"},
		{mark.DDL{Statement: `ALTER TABLE t ADD a text DEFAULT 'a\';'; SELECT 1`, Tag: "ALTER TABLE", Nth: 1, Settings: map[string]string{"standard_conforming_strings": "off"}}, `ALTER TABLE t ADD a text DEFAULT 'a\';'`},
	} {
		s, err := ddl.Read(&c.d)
		got := s.SQL
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v\n got %s\nwant %s", c.d, got, c.want)
		}
	}
}

// The same statement is the same, however it is written; under another search path it is another.
func TestKey(t *testing.T) {
	key := func(sql, path string) string {
		s, _ := ddl.Read(&mark.DDL{Statement: sql, Tag: "ALTER TABLE", Nth: 1, SearchPath: path})
		return s.Key
	}
	if diff := cmp.Diff(key("alter  TABLE t/**/add \"a\" int", "public"), key("ALTER TABLE T ADD \"a\" INT -- x", "public")); diff != "" {
		t.Error(diff)
	}
	if key("ALTER TABLE t ADD a int", "s1") == key("ALTER TABLE t ADD a int", "s2") || key("ALTER TABLE t ADD a int", "s") == key("ALTER TABLE t ADD \"A\" int", "s") {
		t.Error("two statements have one key")
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"ALTER TABLE t ADD a int; DROP TABLE x", "$a$;$a$", "/* */'", `"a""b".c`, "E'\\''"} {
		f.Add(s, "ALTER TABLE", 1)
	}
	f.Fuzz(func(t *testing.T, sql, tag string, nth int) {
		s, err := ddl.Read(&mark.DDL{Statement: sql, Tag: tag, Nth: nth})
		if err == nil && s.SQL != "" && s.Key == "" {
			t.Error("no key")
		}
	})
}
