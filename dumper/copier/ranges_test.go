package copier

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"shardcdc/dumper/copier/fold"
	"shardcdc/pipeline"
)

// keyedTables are tables of about a hundred rows, whose keys are compared in all ways that an index may compare.
var keyedTables = []struct{ name, create, fill string }{
	{"k_int", "CREATE TABLE k_int (id int PRIMARY KEY, v text)", "SELECT (i - 50) * 3, repeat('v', i) FROM generate_series(1, 100) i"},
	{"k_pair", "CREATE TABLE k_pair (b int, v text, a text, PRIMARY KEY (a, b))", "SELECT i % 10, i, chr(97 + i / 10) FROM generate_series(1, 100) i"},
	{"k_one_tenant", "CREATE TABLE k_one_tenant (tenant int, id uuid, PRIMARY KEY (tenant, id))", "SELECT 1, md5(i::text)::uuid FROM generate_series(1, 100) i"},
	{"k_c", `CREATE TABLE k_c (id text COLLATE "C" PRIMARY KEY)`, "SELECT chr(32 + i) || CASE WHEN i % 3 = 0 THEN 'é' ELSE '''\\' END FROM generate_series(1, 90) i"},
	{"k_icu", `CREATE TABLE k_icu (id text COLLATE "de-x-icu" PRIMARY KEY)`, "SELECT chr(32 + i) || CASE WHEN i % 3 = 0 THEN 'é' ELSE 'E' END FROM generate_series(1, 90) i UNION ALL VALUES ('')"},
	{"k_fold", `CREATE TABLE k_fold (id text COLLATE folding PRIMARY KEY, v int)`, "SELECT CASE WHEN i % 2 = 0 THEN upper(md5(i::text)) ELSE md5(i::text) END, i FROM generate_series(1, 100) i"},
	{
		"k_index_collation", `CREATE TABLE k_index_collation (id text COLLATE "de-x-icu" NOT NULL, n int NOT NULL); CREATE UNIQUE INDEX k_index_collation_x ON k_index_collation (id COLLATE "C", n); ALTER TABLE k_index_collation REPLICA IDENTITY USING INDEX k_index_collation_x`,
		"SELECT chr(32 + i), n FROM generate_series(1, 90) i, generate_series(1, 2) n",
	},
	{
		"k_pattern", "CREATE TABLE k_pattern (id varchar(10) NOT NULL, n int NOT NULL); CREATE UNIQUE INDEX k_pattern_x ON k_pattern (id text_pattern_ops, n DESC); ALTER TABLE k_pattern REPLICA IDENTITY USING INDEX k_pattern_x",
		"SELECT chr(32 + i), n FROM generate_series(1, 90) i, generate_series(1, 2) n",
	},
	{"k_desc", "CREATE TABLE k_desc (a int NOT NULL, b int NOT NULL); CREATE UNIQUE INDEX k_desc_x ON k_desc (a DESC, b DESC); ALTER TABLE k_desc REPLICA IDENTITY USING INDEX k_desc_x", "SELECT i % 10, i / 10 FROM generate_series(1, 100) i"},
	{"k_float", "CREATE TABLE k_float (id float8 PRIMARY KEY)", "SELECT i / 7.0::float8 FROM generate_series(1, 90) i UNION ALL VALUES ('NaN'::float8), ('Infinity'), ('-Infinity'), ('-0'), (5e-324), (1e300)"},
	{"k_numeric", "CREATE TABLE k_numeric (id numeric PRIMARY KEY)", "SELECT i / 7.00 FROM generate_series(1, 90) i UNION ALL VALUES ('NaN'::numeric), ('Infinity'), ('-Infinity'), (1.10), (1e100)"},
	{"k_char", "CREATE TABLE k_char (id char(5), c \"char\", b bit(3), PRIMARY KEY (c, b, id))", "SELECT chr(96 + i), chr(97 + i % 3)::\"char\", i::bit(3) FROM generate_series(1, 26) i"},
	{"k_time", "CREATE TABLE k_time (id timestamptz PRIMARY KEY)", "SELECT '2024-01-01'::timestamptz + i * '1.000001 s'::interval FROM generate_series(1, 90) i UNION ALL VALUES ('infinity'::timestamptz), ('-infinity'), ('4714-11-24 00:00 BC')"},
	{"k_interval", "CREATE TABLE k_interval (id interval PRIMARY KEY)", "SELECT i * '1 day 1 hour'::interval FROM generate_series(1, 90) i UNION ALL VALUES ('1 mon -1 day'::interval)"},
	{"k_bytea", "CREATE TABLE k_bytea (id bytea PRIMARY KEY)", "SELECT decode(md5(i::text), 'hex') FROM generate_series(1, 90) i UNION ALL VALUES (''::bytea), ('\\x00')"},
	{"k_enum", "CREATE TABLE k_enum (m mood, id int, PRIMARY KEY (m, id))", "SELECT (enum_range(NULL::mood))[1 + i % 3], i FROM generate_series(1, 90) i"},
	{"k_domain", "CREATE TABLE k_domain (m dmood, a darray, n dint, PRIMARY KEY (m, a, n))", "SELECT (enum_range(NULL::mood))[1 + i % 3]::mood, ARRAY[i % 5, NULL], i FROM generate_series(1, 90) i"},
	{"k_array", "CREATE TABLE k_array (id text[] PRIMARY KEY)", "SELECT ARRAY[i::text, NULL, '\"', ''] FROM generate_series(1, 90) i"},
	{"k_composite", "CREATE TABLE k_composite (id pair PRIMARY KEY)", "SELECT (i, chr(34) || i)::pair FROM generate_series(1, 90) i"},
	{"k_range", "CREATE TABLE k_range (id int4range PRIMARY KEY)", "SELECT int4range(i, i + 5) FROM generate_series(1, 90) i UNION ALL VALUES ('empty'::int4range), ('(,)')"},
	{"k_citext", "CREATE TABLE k_citext (id ext.citext, n int, PRIMARY KEY (id, n))", "SELECT chr(64 + i % 50) || 'x', i FROM generate_series(1, 90) i"},
	{
		"k_parts", "CREATE TABLE k_parts (id int, t text, PRIMARY KEY (id, t)) PARTITION BY HASH (t); CREATE TABLE k_parts_0 PARTITION OF k_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE k_parts_1 PARTITION OF k_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
		"SELECT i / 3, i FROM generate_series(1, 100) i",
	},
}

func keyedShard(t testing.TB) *shard {
	s := newShard(t, "CREATE SCHEMA ext", "CREATE EXTENSION citext SCHEMA ext", "CREATE TYPE mood AS ENUM ('zzz', 'b', 'a''')", "CREATE DOMAIN dmood AS mood", "CREATE DOMAIN dint AS int",
		"CREATE DOMAIN darray AS int[]", "CREATE TYPE pair AS (a int, b text)", "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
	for _, k := range keyedTables {
		s.exec(k.create, "INSERT INTO "+k.name+" "+k.fill)
	}
	s.exec("CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root)", "ANALYZE")
	return s
}

// Every row is in one chunk of one range, whatever the key, the ranges and the limits. And the index of the key is used.
func TestRanges(t *testing.T) {
	s := keyedShard(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, k := range keyedTables {
		t.Run(k.name, func(t *testing.T) {
			s := *s
			s.t = t
			table := s.table(k.name)
			if table.Key == nil {
				t.Fatal("no key")
			}
			want, chunks := s.read(table, roomy, Range{})
			if len(want) < 20 || chunks != 1 || s.cell("SELECT count(*) FROM "+k.name) != fmt.Sprint(len(want)) {
				t.Fatalf("%d rows in %d chunks", len(want), chunks)
			}
			for range 3 {
				n := 1 + random.IntN(8)
				ranges, err := s.split(t.Context(), table, n, 100)
				if err != nil || len(ranges) != n {
					t.Fatalf("%d ranges: %v", len(ranges), err)
				}
				l := limits{5 + random.IntN(60), 100 + random.IntN(2000)}
				got, _ := s.read(table, l, ranges...)
				if !slices.EqualFunc(got, want, bytes.Equal) { // ranges follow each other, so the order is the same, too
					equalRows(t, got, want)
					t.Fatalf("%d ranges, %+v: not the order of the key", n, l)
				}
				for _, r := range ranges {
					if part, _ := s.read(table, roomy, r); len(part) < len(want)/n-1 || len(part) > len(want)/n+1 {
						t.Errorf("%d of %d rows in a range of %d", len(part), len(want), n)
					}
				}
				s.usesIndex(table, ranges[len(ranges)/2])
			}
			s.keysFind(table)
		})
	}
}

// usesIndex looks at the plan of a chunk: no table is sorted, or gone through.
func (s *shard) usesIndex(table *Table, r Range) {
	s.t.Helper()
	results, err := s.query(s.t.Context(), "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; EXPLAIN SELECT 1 FROM "+
		table.from()+table.where(r.conditions(table.key)...)+" ORDER BY "+order(table.key)+" LIMIT 10; COMMIT")
	if err != nil {
		s.t.Fatal(err)
	}
	plan := strings.Builder{}
	for _, row := range results[len(results)-2].Rows {
		plan.Write(append(row[0], '\n'))
	}
	mixed := table.Name == "k_pattern" // ascending and descending: no comparison of rows goes along such an index
	cond := "Index Cond: ("
	if len(table.Key) > 1 && !mixed && table.Name != "k_citext" { // whose operators are of two schemas
		cond = "(ROW("
	}
	conditioned := r.After == nil && r.Through == nil || strings.Contains(plan.String(), cond)
	if strings.Contains(plan.String(), "Seq Scan") || strings.Contains(plan.String(), "Sort  (") && !mixed || !conditioned {
		s.t.Errorf("%+v\n%s", r, plan.String())
	}
}

// While others write, a row that was there all the time is read exactly once.
func TestRangesWhileOthersWrite(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id bigint PRIMARY KEY, v text)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t SELECT i * 10, 'stays' FROM generate_series(1, 3000) i")
	writer := s.open("p")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			_, err := writer.query(t.Context(), fmt.Sprintf("INSERT INTO public.t SELECT %d + i * 300, 'new' FROM generate_series(1, 100) i ON CONFLICT DO NOTHING; DELETE FROM public.t WHERE v = 'new' AND id %% 7 = %d", i%300, i%7))
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	table := s.table("t")
	for range 3 {
		ranges, err := s.split(t.Context(), table, 5, 50)
		if err != nil {
			t.Fatal(err)
		}
		stayed := map[string]int{}
		rows, chunks := s.read(table, limits{200, 4000}, ranges...)
		for _, msg := range rows {
			if bytes.HasSuffix(msg, []byte("stays")) {
				stayed[string(msg)]++
			}
		}
		if len(stayed) != 3000 || chunks < 20 {
			t.Errorf("%d of 3000 rows in %d chunks", len(stayed), chunks)
		}
		for msg, n := range stayed {
			if n != 1 {
				t.Errorf("%q: %d times", msg, n)
			}
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A large table is split by itself, a small one is not.
func TestSplit(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE small (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR ALL TABLES",
		"ALTER TABLE t ALTER COLUMN v SET STORAGE PLAIN", "INSERT INTO t SELECT i, repeat('x', 1500) FROM generate_series(1, 50000) i", "ANALYZE t")
	if ranges, err := s.Split(t.Context(), s.table("small"), 8); err != nil || len(ranges) != 1 || ranges[0].After != nil || ranges[0].Through != nil {
		t.Errorf("%v, %v", ranges, err)
	}
	table := s.table("t")
	for _, c := range []struct{ asked, got int }{{1, 1}, {2, 2}, {8, 2}} {
		ranges, err := s.Split(t.Context(), table, c.asked)
		if err != nil || len(ranges) != c.got {
			t.Fatalf("%d MB: %d ranges: %v", table.Bytes>>20, len(ranges), err)
		}
		for _, r := range ranges {
			rows := 0
			for end := false; !end; {
				res, err := s.Chunk(t.Context(), Request{ID: "c", Table: table, Range: r, Rows: 100_000, BytesMax: 8 << 20})
				if err != nil {
					t.Fatal(err)
				}
				rows, r.After, end = rows+res.Rows, res.Last, res.End
			}
			if rows < 50000/c.got*7/10 {
				t.Errorf("%d rows in one of %d ranges", rows, c.got)
			}
		}
	}
}

// Each chunk sees what its snapshot says, no more and no less.
func TestSnapshot(t *testing.T) {
	s := newShard(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t", "INSERT INTO t VALUES (1)")
	open := s.open("p")
	exec(t, open, "BEGIN", "INSERT INTO public.t VALUES (2)")
	xid, err := strconv.ParseUint(cell(t, open, "SELECT pg_catalog.pg_current_xact_id()"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	table := s.table("t")
	var said fold.Snapshot
	res, err := s.Chunk(t.Context(), Request{ID: "c", Table: table, Rows: 10, BytesMax: 100, Taken: func(snapshot fold.Snapshot) {
		said = snapshot
		exec(t, open, "COMMIT") // before the rows are read, and after the snapshot
		s.exec("INSERT INTO t VALUES (3)")
	}})
	if err != nil || res.Rows != 1 || said.Sees(pipeline.XID(xid)) || res.Snapshot.String() != said.String() {
		t.Errorf("%+v, %v", res, err)
	}
	var after fold.Snapshot
	res, err = s.Keys(t.Context(), "c", table, [][]string{{"1"}, {"2"}, {"3"}, {"4"}}, nil, func(snapshot fold.Snapshot) { after = snapshot })
	if err != nil || res.Rows != 3 || !after.Sees(pipeline.XID(xid)) {
		t.Errorf("%+v, %v", res, err)
	}
}
