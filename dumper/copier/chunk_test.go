package copier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
	"shardcdc/pipeline/pause/pausetest"
)

func (s *shard) chunk(table *Table, r Range, l limits) (*Result, error) {
	return s.Chunk(s.t.Context(), Request{ID: "c", Table: table, Range: r, Rows: l.rows, BytesMax: l.bytes})
}

// A chunk ends behind the row that fills it, without reading the rest, and the session goes on.
func TestBytesMax(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t", "ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL",
		"INSERT INTO t SELECT i, repeat('x', 1000000) FROM generate_series(1, 200) i")
	table := s.table("t")
	for _, c := range []struct{ bytes, rows int }{{1, 1}, {1_000_000, 1}, {2_500_000, 3}, {20_000_000, 20}} {
		began := time.Now()
		res, err := s.chunk(table, Range{}, limits{1000, c.bytes})
		if err != nil || res.Rows != c.rows || res.End || res.Last[0] != fmt.Sprint(c.rows) {
			t.Fatalf("%d bytes: %+v, %v", c.bytes, res, err)
		}
		t.Logf("%d of 200 MB after %s", len(res.Body)>>20, time.Since(began))
	}
	blocks := func() int {
		t.Helper()
		exec(t, s.Session, "SELECT pg_catalog.pg_stat_force_next_flush()")
		n, err := strconv.Atoi(s.cell("SELECT toast_blks_hit + toast_blks_read FROM pg_catalog.pg_statio_user_tables WHERE relname = 't'"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	pausetest.Until(t.Context(), t, "what the INSERT did is counted", func() bool { // its session tells when it likes
		return s.cell("SELECT n_tup_ins FROM pg_catalog.pg_stat_user_tables WHERE relname = 't'") == "200"
	})
	before := blocks()
	if _, err := s.chunk(table, Range{}, limits{1000, 1}); err != nil {
		t.Fatal(err)
	}
	if read := blocks() - before; read > 10_000 { // of some 25,000; what the buffers of the connection hold is on its way
		t.Errorf("%d blocks were read for a chunk of one row", read)
	}
	res, err := s.chunk(table, Range{After: []string{"190"}}, limits{1000, 1 << 30})
	if err != nil || res.Rows != 10 || !res.End {
		t.Errorf("%d rows, %v", res.Rows, err)
	}
	if res, err = s.chunk(table, Range{After: []string{"3"}, Through: []string{"5"}}, limits{2, 1 << 30}); err != nil || !res.End {
		t.Errorf("the last row of a range does not end it: %v", err)
	}
	if _, err = s.chunk(table, Range{}, limits{0, 1}); err == nil {
		t.Error("a chunk of no rows")
	}
}

// Rows as wide as rows can be, and as large.
func TestExtremes(t *testing.T) {
	columns := make([]string, 1599)
	for i := range columns {
		columns[i] = fmt.Sprintf("c%d int", i)
	}
	s := newShard(t, "CREATE TABLE wide (id int PRIMARY KEY, "+strings.Join(columns, ", ")+")", "CREATE TABLE large (id int PRIMARY KEY, v text, b bytea)", "CREATE PUBLICATION p FOR TABLE wide, large",
		"INSERT INTO wide (id, c0, c1598) SELECT i, i, i FROM generate_series(1, 5) i", "INSERT INTO large VALUES (1, repeat('é', 50000000), NULL), (2, '', decode(repeat('00', 1000), 'hex'))")
	got, _ := s.read(s.table("wide"), roomy, Range{})
	equalRows(t, got, s.decode("p", "wide").inserts)
	s.keysFind(s.table("wide"))
	res, err := s.chunk(s.table("large"), Range{}, limits{10, 1 << 20})
	if err != nil || res.Rows != 1 || len(res.Body) < 100_000_000 {
		t.Fatalf("%d rows: %v", res.Rows, err)
	}
	var c pipeline.Change
	if err := pipeline.ParseChange(res.Body[4:], &c); err != nil {
		t.Fatal(err)
	}
	if v := c.New.Values(nil)[1]; len(v.Data) != 100_000_000 || strings.Count(string(v.Data), "é") != 50_000_000 {
		t.Errorf("%d bytes", len(v.Data))
	}
}

// A table without a key is read whole: into memory, or into a file when it is larger than that.
func TestWhole(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int, v text)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t SELECT i, repeat('x', i % 50) FROM generate_series(1, 2000) i")
	want := s.decode("p", "t").inserts
	table := s.table("t")
	for _, bytesMax := range []int{1, 5000, rowsKeep} {
		var out *memory
		taken := 0
		res, err := s.whole(t.Context(), "w", table, bytesMax, func() (File, error) { out = &memory{}; return out, nil }, func(fold.Snapshot) { taken++ })
		if err != nil || taken != 1 || res.Rows != 2000 || !res.End || res.Last != nil {
			t.Fatalf("%+v, %v", res, err)
		}
		body := res.Body
		if (out != nil) != (bytesMax < rowsKeep) {
			t.Fatalf("limit of %d bytes: file %v", bytesMax, out)
		}
		if out != nil {
			if body != nil || res.Content != pipeline.Content(out) || !out.sealed || out.released {
				t.Fatalf("%+v", res)
			}
			body = out.Bytes()
		} else if res.Content != nil {
			t.Fatal("a content without a file")
		}
		equalRows(t, messagesOf(t, body), want)
	}
	s.exec("CREATE TABLE k (id int PRIMARY KEY)", "ALTER PUBLICATION p ADD TABLE k", "INSERT INTO k VALUES (1), (2)")
	keyless := *s.table("k")
	keyless.Key = nil
	if res, err := s.Whole(t.Context(), "w", &keyless, nil, nil); err != nil || res.Rows != 2 || res.Table.Key != nil {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := s.chunk(&keyless, Range{}, roomy); err == nil {
		t.Error("a chunk of a table without a key")
	}
	full := errors.New("the disk is full")
	out := &memory{fail: full}
	_, err := s.whole(t.Context(), "w", table, 5000, func() (File, error) { return out, nil }, nil)
	if !errors.Is(err, full) || !out.released {
		t.Errorf("%v, released %v", err, out.released)
	}
	if _, err = s.whole(t.Context(), "w", table, 5000, func() (File, error) { return nil, full }, nil); !errors.Is(err, full) {
		t.Error(err)
	}
	s.exec("TRUNCATE t")
	res, err := s.Whole(t.Context(), "w", table, nil, nil)
	if err != nil || res.Rows != 0 || res.Content != nil {
		t.Errorf("an empty table: %+v, %v", res, err)
	}
}

// The description is that of the snapshot; as long as nothing changes it is one and the same.
func TestDefinitionChanges(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (1, 'a')")
	table := s.table("t")
	relation := func() *pipeline.Relation {
		t.Helper()
		res, err := s.chunk(table, Range{}, roomy)
		if err != nil {
			t.Fatal(err)
		}
		messagesOf(t, res.Body)
		return res.Relation
	}
	first := relation()
	described := s.tables[table.quoted()]
	if first != relation() || first != table.Relation || described != s.tables[table.quoted()] {
		t.Error("another description of the same table")
	}
	for _, c := range []struct {
		sql     string
		columns int
		same    bool
	}{
		{"ALTER TABLE t ADD COLUMN w int", 3, false},
		{"ANALYZE t", 3, true},
		{"VACUUM FULL t", 3, true},
		{"CREATE INDEX ON t (v)", 3, true},
		{"GRANT SELECT ON t TO PUBLIC", 3, true},
		{"ALTER TABLE t DROP COLUMN v", 2, false},
		{"ALTER TABLE t RENAME COLUMN w TO x", 2, false},
		{"ALTER PUBLICATION p SET TABLE t (id)", 1, false},
		{"ALTER TABLE t REPLICA IDENTITY FULL", 1, false},
		{"DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text); ALTER PUBLICATION p SET TABLE t", 2, false},
	} {
		before := relation()
		s.exec(c.sql)
		after := relation()
		if len(after.Columns) != c.columns || (before == after) != c.same {
			t.Errorf("%s: %d columns, the same %v", c.sql, len(after.Columns), before == after)
		}
	}
	s.exec("ALTER TABLE t RENAME COLUMN id TO ident")
	_, err := s.chunk(table, Range{}, roomy)
	if !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	wantError(t, err, `shard a: table "public"."t": its key was (id integer) and is (ident integer): the table has another key now. Try: the former key again, or cdcctl remove-table and cdcctl add-table`)
	s.exec("ALTER PUBLICATION p DROP TABLE t")
	if _, err = s.chunk(table, Range{}, roomy); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	wantError(t, err, `shard a: table "public"."t": it is not published by p: the table is not there. Try: cdcctl remove-table, if it left for good`)
	s.exec("DROP TABLE t")
	if _, err = s.chunk(table, Range{}, roomy); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if _, err = s.Describe(t.Context(), "public", "t"); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// What we may not read is said before anything is read, and when it is.
func TestRights(t *testing.T) {
	s := newShard(t, "CREATE SCHEMA s", "CREATE TABLE s.a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)", "CREATE TABLE c (id int PRIMARY KEY)", "CREATE TABLE d (id int PRIMARY KEY)",
		`DROP ROLE IF EXISTS "Re'ader"`, `CREATE ROLE "Re'ader" LOGIN`, `GRANT SELECT ON s.a, c, d TO "Re'ader"`, "ALTER TABLE c ENABLE ROW LEVEL SECURITY", `CREATE POLICY x ON c TO "Re'ader" USING (id = 1)`,
		"CREATE PUBLICATION p FOR ALL TABLES", "INSERT INTO c VALUES (1), (2)", "INSERT INTO d VALUES (1)")
	t.Cleanup(func() { s.exec(`DROP OWNED BY "Re'ader"`, `DROP ROLE "Re'ader"`) })
	exec(t, s.Session, `SET SESSION AUTHORIZATION "Re'ader"`)
	s.role = `"Re'ader"`
	tables, err := s.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var faults []string
	for _, table := range tables {
		faults = append(faults, table.Name+": "+table.Fault)
	}
	want := `b: role "Re'ader" may not read it. Try: GRANT SELECT ON "public"."b" TO "Re'ader"
c: row-level security hides rows of it from role "Re'ader". Try: ALTER ROLE "Re'ader" BYPASSRLS
d: 
a: role "Re'ader" may not use its schema. Try: GRANT USAGE ON SCHEMA "s" TO "Re'ader"`
	if got := strings.Join(faults, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, table := range tables {
		res, err := s.chunk(table, Range{}, roomy)
		if (err == nil) != (table.Name == "d") {
			t.Fatalf("%s: %+v, %v", table.Name, res, err)
		}
		switch table.Name {
		case "b":
			wantError(t, err, `shard a: table "public"."b": read a chunk: ERROR: permission denied for table b (SQLSTATE 42501). Try: GRANT SELECT ON "public"."b" TO "Re'ader"; GRANT USAGE ON SCHEMA "public" TO "Re'ader"; ALTER ROLE "Re'ader" BYPASSRLS if a policy hides rows`)
		case "c":
			wantError(t, err, `shard a: table "public"."c": row-level security hides rows of it from role "Re'ader". Try: ALTER ROLE "Re'ader" BYPASSRLS`)
		}
	}
	s.exec(`ALTER ROLE "Re'ader" BYPASSRLS`)
	if res, err := s.chunk(tables[1], Range{}, roomy); err != nil || res.Rows != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	s.exec(`ALTER ROLE "Re'ader" NOBYPASSRLS`) // which no row of the catalog that describes the table shows
	if res, err := s.chunk(tables[1], Range{}, roomy); code(err) != privilegeMissing {
		t.Errorf("%+v, %v", res, err)
	}
}

// A table that somebody keeps locked is not waited for without end, and the error says who that is.
func TestLocked(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (1)")
	table := s.table("t")
	other := s.open("p")
	exec(t, s.Session, "SET lock_timeout = 50")
	exec(t, other, "SET application_name = 'migration'", "BEGIN", "LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
	_, err := s.chunk(table, Range{}, roomy)
	if code(err) != lockNotAvailable || !strings.Contains(err.Error(), "it is locked by pid "+cell(t, other, "SELECT pg_catalog.pg_backend_pid()")+" ") ||
		!strings.Contains(err.Error(), " migration in a transaction since 2") || !strings.Contains(err.Error(), "Try: wait until that ends") {
		t.Error(err)
	}
	exec(t, other, "ROLLBACK")
	if res, err := s.chunk(table, Range{}, roomy); err != nil || res.Rows != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// A context that ends while a chunk is read ends it, and the session with it.
func TestContextEnds(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t SELECT generate_series(1, 1000)")
	table := s.table("t")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Chunk(ctx, Request{ID: "c", Table: table, Rows: 10, BytesMax: 10, Taken: func(fold.Snapshot) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err = s.Session.Tables(t.Context()); err == nil {
		t.Error("a session goes on whose connection is in the middle of something")
	}
}

func TestEmit(t *testing.T) {
	s := newShard(t, "CREATE PUBLICATION p")
	if err := s.Emit(t.Context(), "cdc.copy", []byte("{\"a\":\"'\\\x00é\"}")); err != nil {
		t.Fatal(err)
	}
	got := s.cell("SELECT string_agg(encode(data, 'escape'), '|') FROM pg_catalog.pg_logical_slot_peek_binary_changes('" + s.slot + "', NULL, NULL, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true') WHERE get_byte(data, 0) = 77")
	if want := `cdc.copy\000\000\000\000\r{"a":"'\\\000\303\251"}`; !strings.HasPrefix(got, "M\x01") || !strings.HasSuffix(got, strings.ReplaceAll(want, `\r`, "\r")) {
		t.Errorf("%s", got)
	}
}

// Transactions that have written are waited for, prepared ones too; later ones and those of other databases are not.
func TestAwaitWriters(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY)")
	if err := s.AwaitWriters(t.Context(), func(who string) { t.Errorf("waits for %s", who) }); err != nil {
		t.Fatal(err)
	}
	idle, open, prepared, elsewhere, later := s.open(), s.open(), s.open(), connect(t, Source{DSN: server.DSN()}), s.open()
	exec(t, idle, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM public.t")
	exec(t, open, "SET application_name = 'nightly job'", "BEGIN", "SAVEPOINT s", "INSERT INTO public.t VALUES (1)")
	exec(t, prepared, "BEGIN", "INSERT INTO public.t VALUES (2)", "PREPARE TRANSACTION 'it''s'")
	exec(t, elsewhere, "BEGIN", "SELECT pg_catalog.pg_current_xact_id()")
	var said []string
	err := s.AwaitWriters(t.Context(), func(who string) {
		said = append(said, who)
		switch len(said) {
		case 1:
			exec(t, later, "BEGIN", "INSERT INTO public.t VALUES (3)")
			exec(t, open, "COMMIT")
		case 2:
			exec(t, prepared, "COMMIT PREPARED 'it''s'")
		}
	})
	if err != nil || len(said) != 2 || !strings.Contains(said[0], " nightly job since 2") || !strings.Contains(said[0], ", and 1 more") && strings.Count(said[0], "transaction") < 2 ||
		!strings.HasPrefix(said[1], "prepared transaction 'it''s' of ") || s.cell("SELECT count(*) FROM t") != "2" {
		t.Errorf("%q, %v", said, err)
	}
	exec(t, later, "ROLLBACK")
	ctx, cancel := context.WithCancel(t.Context())
	exec(t, later, "BEGIN", "INSERT INTO public.t VALUES (3)")
	if err = s.AwaitWriters(ctx, func(string) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Settings of a database do not change what is read.
func TestSettings(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id float8 PRIMARY KEY, d date, b bytea)", "CREATE PUBLICATION p FOR TABLE t", `INSERT INTO t VALUES (0.1::float8 + 0.2, '2024-02-01', '\x00ff')`)
	want := s.decode("p", "t").inserts
	for _, set := range []string{"extra_float_digits = 0", "DateStyle = 'SQL, DMY'", "bytea_output = escape", "default_transaction_read_only = on", "lock_timeout = 1", "search_path = public"} {
		s.exec(fmt.Sprintf("ALTER DATABASE %s SET %s", s.cell("SELECT pg_catalog.current_database()"), set))
	}
	s.Session = s.open("p")
	got, _ := s.read(s.table("t"), roomy, Range{})
	equalRows(t, got, want)
	if err := s.Emit(t.Context(), "x", nil); err != nil {
		t.Error(err)
	}
}

// Values arrive as they are counted: no allocation for a row beside the growth of the body.
func BenchmarkChunk(b *testing.B) {
	const count = 200_000
	s := newShard(b, "CREATE TABLE t (id bigint PRIMARY KEY, a int, ts timestamptz, n numeric(12,2), b bool, u uuid, v varchar, x text, f float8, j jsonb)", "CREATE PUBLICATION p FOR TABLE t",
		fmt.Sprintf(`INSERT INTO t SELECT i, i, now(), i * 1.5, true, gen_random_uuid(), 'abc' || i, 'hello world text \ ' || i, i * 1.1, '{"a":1,"b":[1,2,3]}' FROM generate_series(1, %d) i`, count), "VACUUM ANALYZE t")
	table := s.table("t")
	b.ReportAllocs()
	rows, bytes := 0, 0
	for b.Loop() {
		r := Range{}
		for end := false; !end; {
			res, err := s.Chunk(b.Context(), Request{ID: "c", Table: table, Range: r, Rows: 50_000, BytesMax: 16 << 20})
			if err != nil {
				b.Fatal(err)
			}
			rows, bytes, r.After, end = rows+res.Rows, bytes+len(res.Body), res.Last, res.End
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(bytes)/b.Elapsed().Seconds()/1e6, "MB/s")
}

func BenchmarkRows(b *testing.B) {
	values := [][]byte{[]byte("12345"), nil, []byte("2024-01-01 00:00:00+00"), []byte("12.34"), []byte("t"), []byte(""), []byte("abc"), []byte("hello world text"), []byte("1.1"), []byte(`{"a": 1}`)}
	r := &rows{n: len(values), body: make([]byte, 0, 1<<20)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.add(values); err != nil {
			b.Fatal(err)
		}
		if len(r.body) > 1<<20-1024 {
			r.body = r.body[:0]
		}
	}
}

// What a chunk costs beside its rows.
func BenchmarkSmallChunk(b *testing.B) {
	s := newShard(b, "CREATE TABLE t (id bigint PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (1, 'a')")
	table := s.table("t")
	for b.Loop() {
		if _, err := s.Chunk(b.Context(), Request{ID: "c", Table: table, Rows: 1, BytesMax: 1 << 20}); err != nil {
			b.Fatal(err)
		}
	}
}

// A chunk that has to wait for a change of the table reads it as it is after the change: the snapshot comes after the lock.
func TestWaitsForDefinition(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (1, 'a')")
	table := s.table("t")
	other := s.open("p")
	exec(t, other, "BEGIN", "ALTER TABLE public.t ADD COLUMN w int DEFAULT 7, ALTER COLUMN id TYPE bigint", "INSERT INTO public.t VALUES (2, 'b')")
	type answer struct {
		res *Result
		err error
	}
	got := make(chan answer, 1)
	go func() {
		res, err := s.chunk(table, Range{}, roomy)
		got <- answer{res, err}
	}()
	pausetest.Within(patience, t, "the chunk waits for the lock", func() bool {
		return s.cell("SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted AND locktype = 'relation'") == "1"
	})
	exec(t, other, "COMMIT")
	a := <-got
	if a.err != nil || a.res.Rows != 2 || len(a.res.Relation.Columns) != 3 {
		t.Fatalf("%+v, %v", a.res, a.err)
	}
	if inserts := s.decode("p", "t").inserts; !bytes.Equal(messagesOf(t, a.res.Body)[1], inserts[1]) {
		t.Errorf("%q, %q", a.res.Body, inserts)
	}
}
