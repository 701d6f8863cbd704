package pgtype_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"shardcdc/pipeline"
	"shardcdc/pipeline/pgtype"
	"shardcdc/pipeline/throwaway"
	"shardcdc/pipeline/throwaway/throwawaytest"
)

var server *throwaway.Server

func TestMain(m *testing.M) { os.Exit(throwawaytest.Main(m, "pgtype", &server)) }

type database struct {
	t    *testing.T
	conn *pgconn.PgConn
}

func newDatabase(t *testing.T, name string) *database {
	t.Helper()
	open := func(name string) *database {
		c, err := pgconn.Connect(t.Context(), server.DSNFor(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return &database{t, c}
	}
	open("postgres").query("CREATE DATABASE " + name)
	return open(name)
}

func (d *database) query(sql string) [][][]byte {
	d.t.Helper()
	results, err := d.conn.Exec(d.t.Context(), sql).ReadAll()
	if err != nil {
		d.t.Fatalf("%v\n%.2000s", err, sql)
	}
	return results[len(results)-1].Rows
}

// relation is the table as pgoutput describes it.
func (d *database) relation(schema, table string, identity byte, keys ...string) *pipeline.Relation {
	r := &pipeline.Relation{Namespace: schema, Name: table, Identity: identity}
	for _, row := range d.query(fmt.Sprintf(`
		WITH RECURSIVE up(att, oid) AS (
			SELECT attnum, atttypid FROM pg_attribute WHERE attrelid = '%s.%s'::regclass
			UNION ALL SELECT att, typbasetype FROM up JOIN pg_type t ON t.oid = up.oid WHERE typtype = 'd')
		SELECT attname, atttypid, atttypmod, n.nspname, t.typname FROM pg_attribute a
		JOIN up ON att = attnum JOIN pg_type t ON t.oid = up.oid AND t.typtype <> 'd' JOIN pg_namespace n ON n.oid = typnamespace
		WHERE attrelid = '%[1]s.%[2]s'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, schema, table)) {
		oid, _ := strconv.ParseUint(string(row[1]), 10, 32)
		modifier, _ := strconv.ParseInt(string(row[2]), 10, 32)
		c := pipeline.Column{Name: string(row[0]), Type: uint32(oid), Modifier: int32(modifier)}
		for _, k := range keys {
			c.Key = c.Key || k == c.Name
		}
		r.Columns = append(r.Columns, c)
		if _, have := r.TypeName(c.Type); !have && c.Type >= pipeline.FirstUserOID {
			r.Types = append(r.Types, pipeline.Type{OID: c.Type, Namespace: string(row[3]), Name: string(row[4])})
		}
	}
	return r
}

func (d *database) create(r *pipeline.Relation) {
	d.t.Helper()
	sql, err := pgtype.AppendCreateTable(append(pgtype.AppendCreateSchema(nil, r), ';'), r)
	if err != nil {
		d.t.Fatal(err)
	}
	d.query(string(sql))
}

const formats = `SELECT attname, pg_catalog.format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '%s'::regclass AND attnum > 0 ORDER BY attnum`

// modified are types with modifiers, and those of users.
var modified = []string{
	"numeric(38,10)", "numeric(5)", "numeric(1000,-1000)", "numeric(5,-2)", "numeric(3,5)", "numeric(1000,1000)", "numeric(10,2)[]", "varchar(10)", "varchar(10485760)",
	"varchar(3)[]", "char(5)", "char(1)", "char(5)[]", "bit(5)", "bit(1)", "bit(7)[]", "varbit(9)", "time(0)", "time(6)", "timetz(3)", "timestamp(3)", "timestamp(0)[]",
	"timestamptz(2)", "interval(3)", "interval year", "interval month", "interval day", "interval hour", "interval minute", "interval second", "interval second(2)",
	"interval year to month", "interval day to hour", "interval day to minute", "interval day to second", "interval day to second(4)", "interval hour to minute",
	"interval hour to second", "interval hour to second(0)", "interval minute to second", "interval minute to second(1)", "interval(2)[]",
	"mood", "mood[]", "comp", "comp[]", `"odd ""schema"""."odd type"`, `"odd ""schema"""."odd type"[]`, "d1[]", "citext", "hstore", "citext[]", "span", "spans",
}

// TestCreateTable: a table that is made from a relation has the source's types, of all types that there are.
func TestCreateTable(t *testing.T) {
	d := newDatabase(t, "matrix")
	d.query(`CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE comp AS (a int, b text);
		CREATE SCHEMA "odd ""schema"""; CREATE TYPE "odd ""schema"""."odd type" AS ENUM ('a'); CREATE DOMAIN d1 AS numeric(10,2) CHECK (value > 0);
		CREATE TYPE span AS RANGE (subtype = text, multirange_type_name = spans)`)
	types := modified
	for _, row := range d.query(`SELECT pg_catalog.format_type(oid, -1) FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND oid < 16384
		AND typtype IN ('b', 'r', 'm') AND typname !~ '^_?(cstring|record|gtsvector|pg_node_tree|pg_ndistinct|pg_dependencies|pg_mcv_list|pg_brin.*|pg_ddl_command)$'
		AND typrelid = 0 AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = pg_type.oid AND e.typrelid <> 0)`) {
		types = append(types, string(row[0]))
	}
	columns := make([]string, len(types))
	for i, typ := range types {
		columns[i] = fmt.Sprintf(`"c ""%d" %s`, i, typ)
	}
	d.query("CREATE TABLE public.every (" + strings.Join(columns, ", ") + ")")
	r := d.relation("public", "every", 'n')
	r.Namespace, r.Name = `new "one"`, `every "type"`
	d.create(r)
	d.create(r) // again, as a session may that cannot know
	want, got := d.query(fmt.Sprintf(formats, "public.every")), d.query(fmt.Sprintf(formats, `"new ""one"""."every ""type"""`))
	if len(want) < 200 || len(got) != len(want) {
		t.Fatalf("%d columns, want %d", len(got), len(want))
	}
	for i := range want {
		if string(got[i][0]) != string(want[i][0]) || string(got[i][1]) != string(want[i][1]) {
			t.Errorf("%s is %s %s, want %s", types[i], got[i][0], got[i][1], want[i][1])
		}
	}
}

// TestCreateTableDomains: a domain becomes its base type, because the stream does not tell the domain's name.
func TestCreateTableDomains(t *testing.T) {
	d := newDatabase(t, "domains")
	d.query(`CREATE DOMAIN d1 AS numeric(10,2); CREATE DOMAIN d2 AS d1 NOT NULL; CREATE DOMAIN da AS int[]; CREATE DOMAIN db AS bit(3); CREATE DOMAIN dc AS char(3);
		CREATE TABLE t (a d1, b d2, c da, d db, e dc)`)
	r := d.relation("public", "t", 'n')
	r.Name = "made"
	d.create(r)
	want := []string{"numeric", "numeric", "integer[]", `"bit"`, "bpchar"}
	for i, row := range d.query(fmt.Sprintf(formats, "public.made")) {
		if string(row[1]) != want[i] {
			t.Errorf("%s is %s, want %s", row[0], row[1], want[i])
		}
	}
}

func TestCreateTablePrimaryKey(t *testing.T) {
	d := newDatabase(t, "keys")
	d.query(`CREATE TABLE t (a int, "b b" text, c int)`)
	for i, c := range []struct {
		identity byte
		keys     []string
		want     string
	}{
		{'d', []string{"a"}, `PRIMARY KEY (a)`},
		{'d', []string{"a", "b b"}, `PRIMARY KEY (a, "b b")`},
		{'i', []string{"c"}, `PRIMARY KEY (c)`},
		{'d', nil, ""},
		{'n', nil, ""},
		{'f', []string{"a", "b b", "c"}, ""},
	} {
		r := d.relation("public", "t", c.identity, c.keys...)
		r.Name = fmt.Sprintf("made%d", i)
		d.create(r)
		got := ""
		for _, row := range d.query(fmt.Sprintf("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.made%d'::regclass", i)) {
			got += string(row[0])
		}
		if got != c.want {
			t.Errorf("identity %c of %v: %s, want %s", c.identity, c.keys, got, c.want)
		}
	}
}

func TestCreateTableRefuses(t *testing.T) {
	r := &pipeline.Relation{Namespace: "s", Name: "t", Columns: []pipeline.Column{{Name: "a", Type: 16000, Modifier: -1}}}
	sql, err := pgtype.AppendCreateTable([]byte("before"), r)
	const want = `table s.t: column "a": its type has OID 16000, which is not known here`
	if err == nil || err.Error() != want || string(sql) != "before" {
		t.Errorf("%s, %v", sql, err)
	}
}
