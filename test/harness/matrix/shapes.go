package matrix

import (
	"strconv"
	"strings"
)

// A shape is a way in which a table can be made.
type shape struct {
	ddl    string
	target string   // instead of ddl, on the target
	tables []string // as published
	fill   []string // see fillIn
	change []string
}

// wideColumns: with id there are 1600, the most that a table can have.
const wideColumns = 1599

func wide(format, sep string) string {
	parts := make([]string, wideColumns)
	for i := range parts {
		parts[i] = strings.ReplaceAll(format, "#", strconv.Itoa(i))
	}
	return strings.Join(parts, sep)
}

const longName = `"long name 日本語日本語日本語日本語日本語日本 x"` // 62 bytes

var shapes = []shape{
	{
		ddl: `CREATE TABLE toast (id int PRIMARY KEY, a text, b bytea, n int);
			ALTER TABLE toast ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL`,
		tables: []string{"public.toast"},
		fill: []string{`INSERT INTO toast SELECT {0} + g, CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE repeat(chr(97 + g % 26), 5000 * g) END,
			CASE g % 3 WHEN 0 THEN NULL WHEN 1 THEN '\x' ELSE decode(repeat('00ff', 3000 * g), 'hex') END, g FROM generate_series(1, 20) AS g`},
		change: []string{
			"UPDATE toast SET n = n + 1", "UPDATE toast SET a = a || 'x' WHERE n % 5 = {r} % 5", "UPDATE toast SET b = NULL WHERE n % 9 = {r} % 9",
			"UPDATE toast SET id = id + 1000 WHERE id = {0} + {r}", "UPDATE toast SET a = repeat('new', 4000) WHERE a IS NULL",
		},
	},
	{
		ddl:    "CREATE TABLE toast_key (k text, s int, n int, PRIMARY KEY (k, s)); ALTER TABLE toast_key ALTER k SET STORAGE EXTERNAL",
		tables: []string{"public.toast_key"},
		fill:   []string{"INSERT INTO toast_key SELECT repeat(chr(97 + g), 2200), {i}, g FROM generate_series(0, 9) AS g"},
		change: []string{"UPDATE toast_key SET n = n + 1", "UPDATE toast_key SET k = 'r{r}' || substr(k, 1, 2300) WHERE n % 7 = {r} % 7"},
	},
	{
		ddl: "CREATE TABLE wide (id int PRIMARY KEY, " + wide("c# int", ", ") + ")", tables: []string{"public.wide"},
		fill: []string{
			"INSERT INTO wide VALUES ({0}, " + wide("#", ", ") + ")", "INSERT INTO wide (id) VALUES ({0} + 1)",
			"INSERT INTO wide (id, c0, c1598) SELECT {0} + g, g, -g FROM generate_series(2, 50) AS g",
		},
		change: []string{"UPDATE wide SET c1598 = {r}, c7 = NULL WHERE id % 3 = {r} % 3", "DELETE FROM wide WHERE id = {0} + 10 + {r}"},
	},
	{
		ddl: `CREATE SCHEMA "s.ch.""q"; CREATE TABLE "s.ch.""q"."Ünï.cödé 日本語" ("select" int PRIMARY KEY, "a b'" text, "%d" text, "\x" text, "Id" int, "id" int, "$1" int, "a,b" text, "c""d" text);
			CREATE TABLE "s.ch.""q".` + longName + ` ("` + strings.Repeat("k", 63) + `" int PRIMARY KEY, ` + longName + ` text);
			CREATE TABLE "order" ("t" int PRIMARY KEY, "s" int, "x" int); CREATE TABLE "t" (t int, s int); ALTER TABLE t REPLICA IDENTITY FULL;
			CREATE TABLE "T" ("t.t" text, "i" int, PRIMARY KEY ("i", "t.t"))`,
		tables: []string{`"s.ch.""q"."Ünï.cödé 日本語"`, `"s.ch.""q".` + longName, `public."order"`, "public.t", `public."T"`},
		fill: []string{
			`INSERT INTO "s.ch.""q"."Ünï.cödé 日本語" SELECT {0} + g, 'a', 'b', 'c', 1, 2, 3, 'x,y', 'z"z' FROM generate_series(1, 20) AS g`,
			`INSERT INTO "s.ch.""q".` + longName + ` SELECT {0} + g, 'v' || g FROM generate_series(1, 20) AS g`,
			`INSERT INTO "order" SELECT {0} + g, g FROM generate_series(1, 20) AS g`, "INSERT INTO t SELECT {i}, g % 4 FROM generate_series(1, 20) AS g",
			`INSERT INTO "T" SELECT 'é' || g, {i} FROM generate_series(1, 20) AS g`,
		},
		change: []string{
			`UPDATE "s.ch.""q"."Ünï.cödé 日本語" SET "a b'" = '$1', "select" = "select" + 100 WHERE "select" % 10 = {r} % 10`,
			`UPDATE "s.ch.""q".` + longName + " SET " + longName + ` = 'r{r}'`,
			`UPDATE "order" SET x = {r}`, "UPDATE t SET s = s + 1 WHERE ctid = (SELECT ctid FROM t ORDER BY s, ctid LIMIT 1)",
			`UPDATE "T" SET "t.t" = "t.t" || '.' WHERE "t.t" LIKE '%{r}'`,
		},
	},
	{
		ddl: `CREATE TABLE by_list (id int, r text, v int, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
			CREATE TABLE by_list_a (v int, r text NOT NULL, id int NOT NULL); ALTER TABLE by_list ATTACH PARTITION by_list_a FOR VALUES IN ('a');
			CREATE TABLE by_list_b PARTITION OF by_list FOR VALUES IN ('b'); CREATE TABLE by_list_rest PARTITION OF by_list DEFAULT;
			CREATE TABLE by_range (id int, at date, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
			CREATE TABLE by_range_1 PARTITION OF by_range FOR VALUES FROM (MINVALUE) TO ('2024-01-01') PARTITION BY HASH (id);
			CREATE TABLE by_range_1_0 PARTITION OF by_range_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			CREATE TABLE by_range_1_1 PARTITION OF by_range_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (id);
			CREATE TABLE by_range_1_1_x PARTITION OF by_range_1_1 DEFAULT;
			CREATE TABLE by_range_2 PARTITION OF by_range FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
			CREATE TABLE by_hash (id bigint, t text, n int) PARTITION BY HASH (id);
			CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE by_hash_1 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);
			ALTER TABLE by_hash REPLICA IDENTITY FULL; ALTER TABLE by_hash_0 REPLICA IDENTITY FULL; ALTER TABLE by_hash_1 REPLICA IDENTITY FULL;
			CREATE TABLE no_partition (id int PRIMARY KEY) PARTITION BY RANGE (id)`,
		tables: []string{"public.by_list", "public.by_range", "public.by_hash", "public.no_partition"},
		fill: []string{
			"INSERT INTO by_list SELECT {0} + g, chr(97 + g % 4), g FROM generate_series(1, 40) AS g",
			"INSERT INTO by_range SELECT {0} + g, date '2023-12-01' + g, g FROM generate_series(1, 60) AS g",
			"INSERT INTO by_hash SELECT {0} + g % 10, 't', 1 FROM generate_series(1, 40) AS g",
		},
		change: []string{
			"UPDATE by_list SET v = v + 1", "UPDATE by_list SET r = chr(97 + (ascii(r) - 96) % 4) WHERE id % 5 = {r} % 5",
			"UPDATE by_range SET at = at + 20 WHERE id % 4 = {r} % 4", "DELETE FROM by_range WHERE id = {0} + {r}",
			"UPDATE by_hash SET n = n + 1 WHERE id = {0} + {r} % 10", "UPDATE by_hash SET id = id + 10 WHERE id = {0} + 1 + {r} % 10",
		},
	},
	{
		ddl:    "CREATE TABLE parent_of (id int PRIMARY KEY, v int); CREATE TABLE child_of (extra text, PRIMARY KEY (id)) INHERITS (parent_of)",
		tables: []string{"public.parent_of", "public.child_of"},
		fill: []string{
			"INSERT INTO parent_of SELECT {0} + g, g FROM generate_series(1, 20) AS g", "INSERT INTO child_of SELECT {0} + g, g, 'x' FROM generate_series(101, 120) AS g",
		},
		change: []string{"UPDATE parent_of SET v = v + 1", "DELETE FROM parent_of WHERE id IN ({0} + {r}, {0} + 100 + {r})", "INSERT INTO child_of VALUES ({0} + 200 + {r}, {r}, NULL)"},
	},
	{
		ddl: `CREATE TABLE empty_always (id int PRIMARY KEY, v text); CREATE TABLE empty_full (v text); ALTER TABLE empty_full REPLICA IDENTITY FULL;
			CREATE TABLE no_columns (); ALTER TABLE no_columns REPLICA IDENTITY FULL; CREATE TABLE late (id int PRIMARY KEY, v text)`,
		tables: []string{"public.empty_always", "public.empty_full", "public.no_columns", "public.late"},
		fill:   []string{"INSERT INTO no_columns DEFAULT VALUES", "INSERT INTO no_columns DEFAULT VALUES"},
		change: []string{"INSERT INTO no_columns DEFAULT VALUES", "INSERT INTO late VALUES ({0} + {r}, 'first')"},
	},
	{
		ddl: `CREATE TABLE duplicates (a int, b text, j json, p point); ALTER TABLE duplicates REPLICA IDENTITY FULL; CREATE INDEX ON duplicates (a);
			CREATE TABLE null_key (a int, b text, UNIQUE (a, b)); ALTER TABLE null_key REPLICA IDENTITY FULL;
			CREATE TABLE full_with_key (id int PRIMARY KEY, v float8, j json, big text); ALTER TABLE full_with_key REPLICA IDENTITY FULL; ALTER TABLE full_with_key ALTER big SET STORAGE EXTERNAL`,
		tables: []string{"public.duplicates", "public.null_key", "public.full_with_key"},
		fill: []string{
			`INSERT INTO duplicates SELECT {i}, 'x', '{"a": 1}', '(0,0)' FROM generate_series(1, 8)`, "INSERT INTO duplicates SELECT NULL, NULL, NULL, NULL FROM generate_series(1, 5)",
			`INSERT INTO duplicates VALUES ({i}, 'x', '{"a":1}', '(0,0)'), ({i}, 'x', '{"a": 1}', '(1e-7,0)'), ({i}, '', NULL, '(-0,0)')`,
			"INSERT INTO null_key SELECT CASE WHEN g % 2 = 0 THEN {0} + g END, CASE WHEN g % 3 = 0 THEN 't' || g END FROM generate_series(1, 30) AS g",
			"INSERT INTO full_with_key SELECT {0} + g, CASE g % 3 WHEN 0 THEN '-0' WHEN 1 THEN 0 ELSE 'NaN'::float8 END, '[]', repeat('big', 3000) FROM generate_series(1, 20) AS g",
		},
		change: []string{
			"UPDATE duplicates SET b = b || '{r}' WHERE ctid = (SELECT min(ctid) FROM duplicates WHERE b = 'x')", "DELETE FROM duplicates WHERE ctid = (SELECT min(ctid) FROM duplicates WHERE b IS NULL)",
			"UPDATE duplicates SET a = a", "INSERT INTO duplicates VALUES ({i}, 'x', NULL, NULL)",
			"UPDATE null_key SET b = 'r{r}' WHERE ctid = (SELECT min(ctid) FROM null_key WHERE b IS NULL)",
			"UPDATE full_with_key SET v = -v", "UPDATE full_with_key SET id = id + 1000 WHERE id = {0} + {r}", "DELETE FROM full_with_key WHERE id = {0} + 1000 + {r} - 2",
		},
	},
	{
		ddl: `CREATE TABLE composite (a int, b text, c date, v int, PRIMARY KEY (c, a, b));
			CREATE TABLE all_key (b int, a text, PRIMARY KEY (a, b));
			CREATE TABLE by_index (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, v text); CREATE UNIQUE INDEX by_index_u ON by_index (b, a); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_u;
			CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v int); ALTER TABLE deferred REPLICA IDENTITY FULL;
			CREATE TABLE excluded (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&))`,
		tables: []string{"public.composite", "public.all_key", "public.by_index", "public.deferred", "public.excluded"},
		fill: []string{
			"INSERT INTO composite SELECT {0} + g % 7, 'b' || g % 11, date '2024-01-01' + g % 5, g FROM generate_series(1, 300) AS g",
			"INSERT INTO all_key SELECT {0} + g % 10, 'a' || g FROM generate_series(1, 100) AS g",
			"INSERT INTO by_index SELECT {0} + g, g % 10, 'b' || {0} + g, 'v' FROM generate_series(1, 100) AS g",
			"INSERT INTO deferred SELECT {0} + g, g FROM generate_series(1, 20) AS g",
			"INSERT INTO excluded SELECT {0} + g, int4range({0} + g * 10, {0} + g * 10 + 10) FROM generate_series(1, 20) AS g",
		},
		change: []string{
			"UPDATE composite SET v = v + 1", "UPDATE composite SET c = c + 10 WHERE v % 13 = {r} % 13", "UPDATE composite SET b = b || '.' WHERE v % 17 = {r} % 17", "DELETE FROM composite WHERE v % 19 = {r} % 19",
			"UPDATE all_key SET b = b + 10 WHERE a LIKE '%{r}'", "UPDATE by_index SET v = v || {r} WHERE id % 3 = {r} % 3", "UPDATE by_index SET id = id + 1000 WHERE id = {0} + {r}", "UPDATE by_index SET b = b || 'z' WHERE id = {0} + 50 + {r}",
			"UPDATE deferred SET id = 2 * {0} + 21 - id WHERE id BETWEEN {0} + 1 AND {0} + 20", "UPDATE excluded SET during = int4range(upper(during) - 1, upper(during)) WHERE id = {0} + {r}",
		},
	},
	{
		ddl: `CREATE TABLE identity_always (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v int); CREATE TABLE identity_beside (id int PRIMARY KEY, s int GENERATED ALWAYS AS IDENTITY, v int);
			CREATE TABLE serials (id bigserial PRIMARY KEY, v timestamptz DEFAULT clock_timestamp());
			CREATE TABLE computed (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED, t text GENERATED ALWAYS AS (upper('x' || a::text)) STORED, z int DEFAULT 7);
			CREATE TABLE computed_full (a int, g int GENERATED ALWAYS AS (a * 2) STORED); ALTER TABLE computed_full REPLICA IDENTITY FULL`,
		tables: []string{"public.identity_always", "public.identity_beside", "public.serials", "public.computed", "public.computed_full"},
		fill: []string{
			"INSERT INTO identity_always (id, v) OVERRIDING SYSTEM VALUE SELECT {0} + g, g FROM generate_series(1, 20) AS g", "INSERT INTO identity_beside (id, v) SELECT {0} + g, g FROM generate_series(1, 20) AS g",
			"INSERT INTO serials (id) SELECT {0} + g FROM generate_series(1, 20) AS g", "INSERT INTO computed (id, a) SELECT {0} + g, g FROM generate_series(1, 20) AS g",
			"INSERT INTO computed_full SELECT {0} + g % 4 FROM generate_series(1, 20) AS g",
		},
		change: []string{
			"UPDATE identity_always SET v = v + 1", "UPDATE identity_beside SET v = v + 1, id = id + 1000 WHERE id = {0} + {r}", "UPDATE serials SET v = v + interval '1 s'",
			"UPDATE computed SET a = a + 1", "UPDATE computed SET z = NULL WHERE id = {0} + {r}", "UPDATE computed_full SET a = a + 4 WHERE ctid = (SELECT min(ctid) FROM computed_full)",
		},
	},
	{
		ddl: `CREATE TABLE parent (id int PRIMARY KEY, up int REFERENCES parent ON DELETE CASCADE);
			CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
			CREATE TABLE audit (id int, what text, PRIMARY KEY (id, what));
			CREATE FUNCTION audit_child() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (NEW.id, TG_OP || NEW.p); RETURN NULL; END';
			CREATE TRIGGER audits AFTER INSERT OR UPDATE ON child FOR EACH ROW EXECUTE FUNCTION audit_child();
			CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
		tables: []string{"public.parent", "public.child", "public.audit"},
		fill: []string{
			"INSERT INTO parent SELECT {0} + g, {0} + 21 - g FROM generate_series(1, 20) AS g", "INSERT INTO child SELECT {0} + g, {0} + 1 + g % 20 FROM generate_series(1, 40) AS g",
		},
		change: []string{"UPDATE child SET p = {0} + 10 WHERE id = {0} + {r}", "DELETE FROM parent WHERE id = {0} + {r}", "INSERT INTO parent VALUES ({0} + 100 + {r}, NULL)", "INSERT INTO child VALUES ({0} + 100 + {r}, {0} + 100 + {r})"},
	},
	{
		ddl: "CREATE TABLE reordered (id int PRIMARY KEY, a text, b int, dropped int, c text); ALTER TABLE reordered DROP dropped; ALTER TABLE reordered ADD later int DEFAULT 5",
		// The target has the columns in another order, and one more.
		target: "CREATE TABLE reordered (later int, c text, own text DEFAULT 'own', b int, a text, id int PRIMARY KEY)",
		tables: []string{"public.reordered"},
		fill:   []string{"INSERT INTO reordered (id, a, b, c, later) SELECT {0} + g, 'a', g, 'c', 5 FROM generate_series(1, 40) AS g"},
		change: []string{"UPDATE reordered SET c = a || b, later = {r} WHERE id % 3 = {r} % 3", "DELETE FROM reordered WHERE id = {0} + {r}"},
	},
	{
		ddl:    `CREATE TABLE texts_c (k text COLLATE "C", s int, v int, PRIMARY KEY (k, s)); CREATE TABLE texts_posix (k varchar(80) COLLATE "POSIX" PRIMARY KEY, v int); CREATE TABLE chars (k char(12) PRIMARY KEY, v int)`,
		tables: []string{"public.texts_c", "public.texts_posix", "public.chars"},
		fill: []string{
			"INSERT INTO texts_c SELECT md5(g::text) || chr(200 + g % 300), {i}, g FROM generate_series(1, 2000) AS g", "INSERT INTO texts_c VALUES ('', {i}, -1), (' ', {i}, -2), ('NULL', {i}, -3), ('{a,\"b}', {i}, -4), (E'\\t\\n\\\\', {i}, -5)",
			"INSERT INTO texts_posix SELECT 'é' || md5(g::text) || {i}, g FROM generate_series(1, 500) AS g", "INSERT INTO chars SELECT {i} || chr(65 + g % 50) || g, g FROM generate_series(1, 300) AS g",
		},
		change: []string{"UPDATE texts_c SET v = v + 1 WHERE v % 10 = {r} % 10", "UPDATE texts_c SET k = 'm' || k WHERE v % 50 = {r} % 50", "DELETE FROM texts_posix WHERE v % 31 = {r} % 31", "UPDATE chars SET k = 'x' || substr(k, 1, 11) WHERE v % 41 = {r} % 41"},
	},
}

// icuShape needs a server that was built with ICU.
var icuShape = shape{
	ddl: `CREATE COLLATION german (provider = icu, locale = 'de-u-co-phonebk'); CREATE COLLATION anyhow (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
		CREATE TABLE texts_icu (k text COLLATE german, s int, v int, PRIMARY KEY (k, s)); CREATE TABLE texts_anyhow (k text COLLATE anyhow PRIMARY KEY, v int)`,
	tables: []string{"public.texts_icu", "public.texts_anyhow"},
	fill: []string{
		"INSERT INTO texts_icu SELECT chr(65 + g % 500) || md5(g::text), {i}, g FROM generate_series(1, 2000) AS g",
		"INSERT INTO texts_anyhow SELECT 'É' || {i} || 'b' || md5(g::text), g FROM generate_series(1, 500) AS g",
	},
	change: []string{
		"UPDATE texts_icu SET v = v + 1 WHERE v % 10 = {r} % 10", "UPDATE texts_icu SET k = 'Ä' || k WHERE v % 50 = {r} % 50",
		"UPDATE texts_anyhow SET k = lower(k) WHERE v % 20 = {r} % 20", "UPDATE texts_anyhow SET v = v + 1",
	},
}
