package copier

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"shardcdc/pipeline"
)

// A table is read as the shard publishes it: the same bytes describe it, the same bytes are its rows.
func TestAsPublished(t *testing.T) {
	s := newShard(t)
	generated := ""
	if s.version >= sendsGenerated {
		generated = " WITH (publish_generated_columns = stored)"
	}
	for _, c := range []struct {
		what  string
		setup []string // before the publication; %t is the table
		pub   string   // of CREATE PUBLICATION p%n FOR; empty: the table
		rows  []string
		key   string // names joined by commas; empty: none
		least int    // PostgreSQL's version
	}{
		{
			what: "default", setup: []string{"CREATE TABLE %t (a int, id bigint PRIMARY KEY, b text)"},
			rows: []string{"INSERT INTO %t SELECT i, -i, CASE WHEN i % 3 > 0 THEN repeat('x', i % 3 - 1) END FROM generate_series(1, 50) i"}, key: "id",
		},
		{
			what: "composite key in another order", setup: []string{"CREATE TABLE %t (a int, b text, c int, PRIMARY KEY (c, a)) "},
			rows: []string{"INSERT INTO %t SELECT i % 7, i, i / 7 FROM generate_series(1, 50) i"}, key: "c,a",
		},
		{
			what: "using index", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL)", "CREATE UNIQUE INDEX %t_x ON %t (b, a) INCLUDE (id)", "ALTER TABLE %t REPLICA IDENTITY USING INDEX %t_x"},
			rows: []string{"INSERT INTO %t SELECT i, i % 7, i / 7 FROM generate_series(1, 50) i"}, key: "b,a",
		},
		{
			what: "full, with a key", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int)", "ALTER TABLE %t REPLICA IDENTITY FULL"},
			rows: []string{"INSERT INTO %t VALUES (1, 2), (2, NULL)"}, key: "id",
		},
		{
			what: "full, with a unique index", setup: []string{
				"CREATE TABLE %t (id int NOT NULL, n int, p int NOT NULL, e int NOT NULL)", "CREATE UNIQUE INDEX ON %t (n)", "CREATE UNIQUE INDEX ON %t (p) WHERE p > 0",
				"CREATE UNIQUE INDEX ON %t (abs(e))", "ALTER TABLE %t ADD UNIQUE (e) DEFERRABLE", "CREATE UNIQUE INDEX ON %t (p, id)", "ALTER TABLE %t REPLICA IDENTITY FULL",
			},
			rows: []string{"INSERT INTO %t VALUES (1, 2, 3, 4), (2, NULL, 4, 5)"}, key: "p,id",
		},
		{
			what: "full, without a key", setup: []string{"CREATE TABLE %t (id int, a json)", "ALTER TABLE %t REPLICA IDENTITY FULL"},
			rows: []string{"INSERT INTO %t VALUES (1, '{}'), (1, '{}'), (NULL, NULL)"},
		},
		{
			what: "nothing", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int)", "ALTER TABLE %t REPLICA IDENTITY NOTHING"},
			rows: []string{"INSERT INTO %t VALUES (1, 2), (2, NULL)"}, key: "id",
		},
		{what: "nothing at all", setup: []string{"CREATE TABLE %t (id int, a int)"}, rows: []string{"INSERT INTO %t VALUES (1, 2), (2, NULL)"}},
		{what: "deferrable key", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY DEFERRABLE, a int)"}, rows: []string{"INSERT INTO %t VALUES (1, 2)"}},
		{what: "no columns", setup: []string{"CREATE TABLE %t ()"}, rows: []string{"INSERT INTO %t DEFAULT VALUES", "INSERT INTO %t DEFAULT VALUES"}},
		{
			what: "dropped and generated columns", setup: []string{"CREATE TABLE %t (x int, id int PRIMARY KEY, y int, g int GENERATED ALWAYS AS (id * 2) STORED, z text DEFAULT 'zed', i int GENERATED ALWAYS AS IDENTITY)", "ALTER TABLE %t DROP COLUMN x, DROP COLUMN y, ADD COLUMN w numeric(10,2)"},
			rows: []string{"INSERT INTO %t (id, w) VALUES (1, 2), (2, NULL)"}, key: "id",
		},
		{
			what: "published generated columns", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED, v int GENERATED ALWAYS AS (id * 3))"}, pub: "TABLE %t WITH (publish_generated_columns = stored)",
			rows: []string{"INSERT INTO %t (id) VALUES (1), (2)"}, key: "id", least: 180000,
		},
		{what: "key on a generated column", setup: []string{"CREATE TABLE %t (id int, g int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)"}, rows: []string{"INSERT INTO %t (id) VALUES (1), (2)"}},
		{
			what: "key on a published generated column", setup: []string{"CREATE TABLE %t (id int, g int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)"}, pub: "TABLE %t" + generated,
			rows: []string{"INSERT INTO %t (id) VALUES (1), (2)"}, key: "g", least: 180000,
		},
		{
			what: "user types", setup: []string{
				"CREATE TYPE mood_%n AS ENUM ('sad', 'ok', 'it''s \"so\"')", "CREATE DOMAIN d1_%n AS numeric(10,2) CHECK (value > 0)", "CREATE DOMAIN d2_%n AS d1_%n NOT NULL", "CREATE DOMAIN da_%n AS int[]", "CREATE DOMAIN dm_%n AS mood_%n",
				"CREATE TYPE pair_%n AS (a int, b text)", "CREATE TYPE span_%n AS RANGE (subtype = float8)",
				"CREATE TABLE %t (m mood_%n, d d2_%n, a da_%n, p pair_%n, r span_%n, ma mood_%n[], dm dm_%n, pa pair_%n[], c information_schema.cardinal_number, PRIMARY KEY (dm, d, p, a))",
			},
			rows: []string{`INSERT INTO %t VALUES ('ok', 1.5, '{1,NULL}', '(1,"x,""y")', '[1,2)', '{sad,NULL}', 'it''s "so"', '{"(1,)",NULL}', 5), ('sad', 2, '[0:1]={1,2}', '(1,b)', 'empty', '{}', 'sad', '{}', 7)`}, key: "dm,d,p,a",
		},
		{
			what: "column list", setup: []string{"CREATE TABLE %t (a int, id int PRIMARY KEY, b text, c text)"}, pub: "TABLE %t (c, id)",
			rows: []string{"INSERT INTO %t SELECT i, i, i, i FROM generate_series(1, 10) i"}, key: "id",
		},
		{
			what: "column list without the key", setup: []string{"CREATE TABLE %t (a int, id int PRIMARY KEY, b text)"}, pub: "TABLE %t (b)",
			rows: []string{"INSERT INTO %t SELECT i, i, i FROM generate_series(1, 10) i"},
		},
		{
			what: "row filter", setup: []string{"CREATE TABLE %t (a int, id int PRIMARY KEY, b text)"}, pub: "TABLE %t (id, b) WHERE (a > 3 AND b <> 'x''y' OR id = 1)",
			rows: []string{"INSERT INTO %t SELECT i, i, i FROM generate_series(1, 10) i"}, key: "id",
		},
		{what: "all tables", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int)"}, pub: "ALL TABLES", rows: []string{"INSERT INTO %t VALUES (1, 2)"}, key: "id"},
		{what: "tables in a schema", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int)"}, pub: "TABLES IN SCHEMA public", rows: []string{"INSERT INTO %t VALUES (1, 2)"}, key: "id"},
		{
			what: "partitions by their root", setup: []string{
				"CREATE TABLE %t (id int, r int, b text, PRIMARY KEY (r, id)) PARTITION BY LIST (r)", "CREATE TABLE %t_1 PARTITION OF %t FOR VALUES IN (1)", "CREATE TABLE %t_d (b text, x int, r int NOT NULL, id int NOT NULL)",
				"ALTER TABLE %t_d DROP COLUMN x", "ALTER TABLE %t ATTACH PARTITION %t_d DEFAULT", "CREATE TABLE %t_2 PARTITION OF %t FOR VALUES IN (2) PARTITION BY RANGE (id)", "CREATE TABLE %t_2a PARTITION OF %t_2 DEFAULT",
			},
			pub: "TABLE %t WHERE (id <> 4) WITH (publish_via_partition_root)", rows: []string{"INSERT INTO %t SELECT i, i % 5, i FROM generate_series(1, 50) i"}, key: "r,id",
		},
		{
			what: "partitioned root, full, without a key", setup: []string{"CREATE TABLE %t (id int, r int) PARTITION BY LIST (r)", "CREATE TABLE %t_1 PARTITION OF %t FOR VALUES IN (1)", "CREATE TABLE %t_d PARTITION OF %t DEFAULT", "ALTER TABLE %t REPLICA IDENTITY FULL"},
			pub: "TABLE %t WITH (publish_via_partition_root)", rows: []string{"INSERT INTO %t SELECT i, i % 3 FROM generate_series(1, 10) i"},
		},
		{
			what: "inheritance", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int)", "CREATE TABLE %t_child (b int, PRIMARY KEY (id)) INHERITS (%t)"}, pub: "TABLE %t",
			rows: []string{"INSERT INTO %t VALUES (1, 2)", "INSERT INTO %t_child VALUES (1, 2, 3)"}, key: "id",
		},
		{what: "empty", setup: []string{"CREATE TABLE %t (id int PRIMARY KEY, a int)"}, rows: []string{"BEGIN; INSERT INTO %t VALUES (1, 2); SAVEPOINT s; COMMIT", "DELETE FROM %t"}, key: "id"},
	} {
		n := fmt.Sprint(databases.Add(1))
		name := "t" + n
		fill := strings.NewReplacer("%t", name, "%n", n).Replace
		t.Run(c.what, func(t *testing.T) {
			if s.version < c.least {
				t.Skip("of a newer PostgreSQL")
			}
			s := *s
			s.t = t
			for _, sql := range c.setup {
				s.exec(fill(sql))
			}
			if c.pub == "" {
				c.pub = "TABLE %t"
			}
			s.exec(fill("CREATE PUBLICATION p%n FOR " + c.pub))
			s.exec("SELECT pg_catalog.pg_replication_slot_advance('" + s.slot + "', pg_catalog.pg_current_wal_insert_lsn())")
			for _, sql := range c.rows {
				s.exec(fill(sql))
			}
			s.Session = s.open("p" + n)
			want := s.decode("p"+n, name)
			if c.what == "empty" {
				want.inserts = nil
			}
			table := s.table(name)
			if got := strings.Join(table.Key, ","); got != c.key {
				t.Errorf("key %q, want %q", got, c.key)
			}
			if want.relation == nil || !bytes.Equal(table.Relation.Raw, want.relation.Raw) || !equalTypes(table, want) {
				t.Fatalf("described as\n%q %v, pgoutput says\n%+v", table.Relation.Raw, table.Relation.Types, want.relation)
			}
			if table.Key == nil {
				res, err := s.Whole(t.Context(), "w", table, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				equalRows(t, messagesOf(t, res.Body), want.inserts)
				return
			}
			for _, l := range []limits{{1, 1}, {3, 1 << 20}, {1 << 20, 64}, roomy} {
				got, _ := s.read(table, l, Range{})
				equalRows(t, got, want.inserts)
			}
			if len(want.inserts) > 0 {
				s.keysFind(table)
			}
		})
	}
}

func equalTypes(table *Table, want decoded) bool {
	if len(table.Relation.Types) != len(want.relation.Types) {
		return false
	}
	for _, t := range want.relation.Types {
		if got, ok := table.Relation.TypeName(t.OID); !ok || got != t {
			return false
		}
	}
	return true
}

// keysFind asks for every second row by its key, twice.
func (s *shard) keysFind(table *Table) {
	s.t.Helper()
	var keys [][]string
	var want [][]byte
	all, _ := s.read(table, roomy, Range{})
	for i, msg := range all {
		if i%2 == 1 {
			continue
		}
		var c pipeline.Change
		if err := pipeline.ParseChange(msg, &c); err != nil {
			s.t.Fatal(err)
		}
		values := c.New.Values(nil)
		key := make([]string, len(table.key))
		for j, k := range table.key {
			key[j] = string(values[k.at].Data)
		}
		keys = append(keys, key, key)
		want = append(want, msg)
	}
	res, err := s.Keys(s.t.Context(), "k", table, keys, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	equalRows(s.t, messagesOf(s.t, res.Body), want)
	if !res.End || res.Rows != len(want) || res.ID != "k" {
		s.t.Errorf("%d rows of chunk %q", res.Rows, res.ID)
	}
}

// Values of every type come as pgoutput sends them. The table has no key: all types are looked at.
func TestTypes(t *testing.T) {
	values := []struct{ typ, list string }{
		{"boolean", `'yes' false`},
		{"smallint", `-32768 32767`},
		{"bigint", `-9223372036854775808 9007199254740993`},
		{"numeric", `1e131071 1e-16383 -0 100.00 NaN Infinity -Infinity`},
		{"numeric(38,10)", `9999999999999999999999999999.9999999999 NaN`},
		{"numeric(5,-2)", `12345`},
		{"real", `3.4028235e38 1e-45 1.17549435e-38 -0 NaN Infinity -Infinity 0.1`},
		{"double precision", `1.7976931348623157e308 5e-324 -0 0.30000000000000004 1e15 1e16 1e23 NaN`},
		{"money", `92233720368547758.07 -92233720368547758.08`},
		{"oid", `4294967295 0`},
		{"xid", `4294967295`},
		{"xid8", `18446744073709551615`},
		{"cid", `4294967295`},
		{"tid", `(4294967295,65535)`},
		{"regclass", `pg_catalog.pg_class 0 4294967000`},
		{"regtype", `text[]`},
		{"regproc", `pg_catalog.now`},
		{"text", "'' ' ' 'a ' '\t\n\r\b\f\v\x01' '\\.' '\\N' '\\' 'a\\tb' 'NULL' '😀é日本語'"},
		{"varchar(20)", `'' 'a''b'`},
		{"char(5)", `'ab' ''`},
		{"name", `'n'`},
		{`"char"`, `'a' '' '\377'`},
		{"bytea", `\x \x00 \x00ff5c0a09`},
		{"bit(3)", `101`},
		{"bit varying", `'' 10000001`},
		{"uuid", `{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}`},
		{"json", `'{"b":1,"a":2,"a":3}' ' [1 , 2] ' 'null' '"\u0000"'`},
		{"jsonb", `'{"b":1,"a":2,"a":3}' '1e3' '"\\\""'`},
		{"jsonpath", `'$.a[*] ? (@ > 1)'`},
		{"xml", `'<a/><b/>' ''`},
		{"tsvector", `'fat:1A cat:2,3 rat' ''`},
		{"tsquery", `'fat & (rat | !cat)' 'super:*AB'`},
		{"pg_lsn", `16/B374D848`},
		{"pg_snapshot", `10:20:10,14,15`},
		{"date", `infinity -infinity '4714-11-24 BC' 5874897-12-31 2024-02-29`},
		{"time", `24:00:00 23:59:59.999999`},
		{"timetz", `00:00:00+15:59:59`},
		{"timestamp", `infinity '4714-11-24 00:00:00 BC' '294276-12-31 23:59:59.999999'`},
		{"timestamptz", `'2024-03-10 02:30 America/New_York' '1800-01-01 00:00+00' -infinity`},
		{"interval", `'178000000 years' '1 mon -1 day +00:00:01' '-0.000001 s'`},
		{"inet", `192.168.1.5 192.168.1.5/24 ::1`},
		{"cidr", `10/8`},
		{"macaddr", `0800.2b01.0203`},
		{"macaddr8", `08:00:2b:01:02:03`},
		{"point", `(1,-2.5) (NaN,Infinity)`},
		{"lseg", `[(0,0),(1,1)]`},
		{"line", `{1,-1,0}`},
		{"box", `(0,0),(1,1)`},
		{"path", `[(0,0),(1,1)] ((0,0),(1,1))`},
		{"polygon", `((0,0),(1,1),(2,0))`},
		{"circle", `<(0,0),5>`},
		{"int4range", `empty [1,10] (,)`},
		{"numrange", `[1.10,2.20]`},
		{"tsrange", `'[2024-01-01,infinity]'`},
		{"daterange", `[2024-01-01,2024-01-31]`},
		{"int8multirange", `{} {[1,3),[2,7)}`},
		{"int[]", `{} {NULL} {{1,2},{3,4}} [0:2]={1,2,3}`},
		{"text[]", `'{"a,b","c\"d","e\\f","{x}"," sp ",NULL,"NULL",""}'`},
		{"bytea[]", `'{"\\x00ff"}'`},
		{"box[]", `'{(1,1),(0,0);(2,2),(0,0)}'`},
		{"float8[]", `{NaN,-0,1e300}`},
		{"aclitem", `postgres=r/postgres`},
		{"refcursor", `cur`},
		{"int2vector", `'1 2 3'`},
		{"oidvector", `'1 2'`},
		{"information_schema.sql_identifier", `x`},
	}
	s := newShard(t, "CREATE TABLE v (n int)", "CREATE PUBLICATION p FOR TABLE v")
	rows := 0
	for i, v := range values {
		if i%10 == 0 { // a row is not to have too many columns that are NULL
			rows = 0
		}
		column := fmt.Sprintf("c%d", i)
		s.exec(fmt.Sprintf("ALTER TABLE v ADD COLUMN %s %s", column, v.typ))
		for _, value := range words(v.list) {
			s.exec(fmt.Sprintf("INSERT INTO v (n, %s) VALUES (%d, %s)", column, rows, literal(value)))
			rows++
		}
	}
	table := s.table("v")
	res, err := s.Whole(t.Context(), "w", table, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Rows < 2*len(values) {
		t.Fatalf("%d rows of %d types", res.Rows, len(values))
	}
	// An old row had fewer columns when it was sent; write all of them once more, as they are.
	s.exec("CREATE TABLE w (LIKE v)", "ALTER PUBLICATION p ADD TABLE w", "INSERT INTO w TABLE v")
	again, err := s.Whole(t.Context(), "w", s.table("w"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := s.decode("p", "w")
	equalRows(t, messagesOf(t, again.Body), want.inserts)
	for i, msg := range messagesOf(t, res.Body) {
		if !bytes.Equal(msg[5:], messagesOf(t, again.Body)[i][5:]) {
			t.Errorf("row %d differs: %q", i, msg)
		}
	}
}

// words splits at blanks outside of single quotes, which may stand around a word and are doubled in it.
func words(s string) (list []string) {
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		if s[0] != '\'' {
			word, rest, _ := strings.Cut(s, " ")
			list, s = append(list, word), rest
			continue
		}
		word := strings.Builder{}
		i := 1
		for ; s[i] != '\'' || i+1 < len(s) && s[i+1] == '\''; i++ {
			word.WriteByte(s[i])
			if s[i] == '\'' {
				i++
			}
		}
		list, s = append(list, word.String()), s[i+1:]
	}
	return list
}

// Of several publications the filters are alternatives, and one without a filter lets all pass.
func TestSeveralPublications(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY, a int)",
		"CREATE PUBLICATION p1 FOR TABLE t WHERE (id < 3)", "CREATE PUBLICATION p2 FOR TABLE t WHERE (id > 8)", "CREATE PUBLICATION p3 FOR TABLE t", "CREATE PUBLICATION p4 FOR TABLE t (id)",
		"INSERT INTO t SELECT i, i FROM generate_series(1, 10) i")
	for _, c := range []struct {
		publications []string
		rows         int
	}{{[]string{"p1"}, 2}, {[]string{"p1", "p2"}, 4}, {[]string{"p2", "p3"}, 10}} {
		s.Session = s.open(c.publications...)
		if rows, _ := s.read(s.table("t"), roomy, Range{}); len(rows) != c.rows {
			t.Errorf("%v: %d rows", c.publications, len(rows))
		}
	}
	s.Session = s.open("p3", "p4")
	table, err := s.Describe(t.Context(), "public", "t")
	if err != nil || !strings.Contains(table.Fault, "different columns") {
		t.Fatalf("%v, %v", table, err)
	}
	_, err = s.Chunk(t.Context(), Request{Table: table, Rows: 1, BytesMax: 1})
	wantError(t, err, `shard a: table "public"."t": publications list different columns of it, which PostgreSQL does not send. Try: ALTER PUBLICATION … SET TABLE with the same columns`)
}

// A partition is listed once: under the name that its rows are published under.
func TestTables(t *testing.T) {
	s := newShard(t, `CREATE SCHEMA "Ünï.cödé"`, `CREATE TABLE "Ünï.cödé"."a b'""%d\x" ("Id" int, "id" int, "select" text, PRIMARY KEY ("id", "Id"))`,
		"CREATE TABLE r (id int PRIMARY KEY, t text) PARTITION BY RANGE (id)", "CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (1000)", "CREATE TABLE r2 PARTITION OF r DEFAULT",
		"CREATE TABLE e (id int PRIMARY KEY)",
		`CREATE PUBLICATION p FOR TABLE r1, e, "Ünï.cödé"."a b'""%d\x"`, `CREATE PUBLICATION "Roots" FOR TABLE r WITH (publish_via_partition_root)`,
		"INSERT INTO r SELECT i, repeat('x', 100) FROM generate_series(0, 9999) i",
		`INSERT INTO "Ünï.cödé"."a b'""%d\x" SELECT i, i, '日本語' FROM generate_series(1, 30) i`)
	s.Session = s.open("p", "Roots")
	list := func() (names []string, tables []*Table) {
		tables, err := s.Tables(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range tables {
			names = append(names, table.String()+"("+strings.Join(table.Key, ",")+")"+table.Fault)
		}
		return names, tables
	}
	names, tables := list()
	if want := []string{"public.e(id)", "public.r(id)", `Ünï.cödé.a b'"%d\x(id,Id)`}; !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want))) {
		t.Fatalf("%q", names)
	}
	find := func(name string) *Table {
		return tables[slices.IndexFunc(tables, func(t *Table) bool { return t.Name == name })]
	}
	if r := find("r"); r.Rows < 5000 || r.Rows > 30000 || r.Bytes < 1<<20 || find("e").Rows != 0 {
		t.Errorf("never analyzed: about %d rows, %d bytes; %d rows in the empty one", r.Rows, r.Bytes, find("e").Rows)
	}
	s.exec("ANALYZE")
	_, tables = list()
	if r := find("r"); r.Rows < 9500 || r.Rows > 10500 {
		t.Errorf("about %d rows", r.Rows)
	}
	odd := find(`a b'"%d\x`)
	want := s.decode("p", odd.Name)
	if !bytes.Equal(odd.Relation.Raw, want.relation.Raw) {
		t.Errorf("described as %q", odd.Relation.Raw)
	}
	got, _ := s.read(odd, limits{7, 1 << 20}, Range{})
	equalRows(t, got, want.inserts)
	s.keysFind(odd)
	s.Session = s.open("p", "missing")
	_, err := s.Tables(t.Context())
	wantError(t, err, `shard a: publication "missing" does not exist. Try: create it again with the same name and tables`)
}

func wantError(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || err.Error() != text {
		t.Errorf("got %v\nwant %s", err, text)
	}
}

var (
	_ File      = (*memory)(nil)
	_ io.Writer = (*memory)(nil)
)
