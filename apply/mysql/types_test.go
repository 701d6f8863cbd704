package mysql_test

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"shardcdc/apply"
)

// How a value of PostgreSQL, as text, reads on the target.
type reads func(text string) string

func asIs(text string) string    { return text }
func asBool(text string) string  { return map[string]string{"t": "1", "f": "0"}[text] }
func asBytes(text string) string { return strings.ToUpper(strings.TrimPrefix(text, `\x`)) } // by HEX()
func trimmed(text string) string { return strings.TrimRight(text, " ") }
func asMoney(text string) string { return strings.NewReplacer("$", "", ",", "").Replace(text) }

func asTime(text string) string {
	text = strings.TrimSuffix(text, "+00")
	whole, fraction, _ := strings.Cut(text, ".")
	return whole + "." + (fraction + "000000")[:6]
}

// bits of a double, so that no digit and no sign is lost on the way back.
func asFloat(text string) string {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%x", math.Float64bits(f))
}

var types = []struct {
	typ    string
	values []string // SQL
	reads  reads
	column string // of the target, when it is not v
}{
	{"boolean", []string{"true", "false"}, asBool, ""},
	{"smallint", []string{"'-32768'", "32767"}, asIs, ""},
	{"integer", []string{"'-2147483648'", "2147483647"}, asIs, ""},
	{"bigint", []string{"'-9223372036854775808'", "9223372036854775807", "9007199254740993"}, asIs, ""},
	{"numeric", []string{"'1e131071'", "'1e-16383'", "'-0'", "'100.00'", "'1.0'", "'NaN'", "'Infinity'", "'-Infinity'"}, asIs, ""},
	{"numeric(38,10)", []string{"'9999999999999999999999999999.9999999999'", "'-0.0000000001'"}, asIs, ""},
	{"numeric(65,30)", []string{"'-99999999999999999999999999999999999.999999999999999999999999999999'"}, asIs, ""},
	{"numeric(5,-2)", []string{"12345"}, asIs, ""},
	{"numeric(3,5)", []string{"0.00999"}, asIs, ""},
	{"real", []string{"'3.4028235e38'", "'1e-45'", "'1.17549435e-38'", "0", "0.1"}, asFloat, ""},
	{"double precision", []string{"'1.7976931348623157e308'", "'5e-324'", "'2.2250738585072014e-308'", "0.1::float8+0.2::float8", "1e15", "1e16", "1e23", "123456789.123456789"}, asFloat, ""},
	{"money", []string{"'92233720368547758.07'", "'-92233720368547758.08'", "'(12.34)'"}, asMoney, ""},
	{"oid", []string{"4294967295", "0"}, asIs, ""},
	{"xid8", []string{"'18446744073709551615'"}, asIs, ""},
	{"tid", []string{"'(4294967295,65535)'"}, asIs, ""},
	{"regclass", []string{"'pg_class'", "0"}, asIs, ""},
	{"text", []string{
		"''", "' '", "'a '", `E'\t\n\r\b\f'`, `E'\u0001'`, `'\u0000'`, `E'a\\b'`, "'it''s'", "'NULL'", `U&'\+01F600'`, `E'e\u0301'`, "'é'",
		`E'\uFEFFx'`, `E'\u202Ex'`, `E'\U0001F468\u200D\U0001F469'`, "repeat('x', 3000000)", `'\N'`, "'''); DROP TABLE t--'", `'?'`, `E'\\'''`,
	}, asIs, ""},
	{"varchar(10)", []string{"''", "'a '", "'1234567890'", "'世界世界世界世界世界'"}, asIs, ""},
	{"varchar(300)", []string{"repeat('é', 300)"}, asIs, ""},
	{"char(5)", []string{"'ab'", "''", "' b '"}, trimmed, ""},
	{"name", []string{"repeat('x', 63)"}, asIs, ""},
	{`"char"`, []string{"'a'", "''", `'\377'`}, asIs, ""},
	{"bytea", []string{`'\x'`, `'\x00'`, `'\x00ff'`, `'\x5c27'`, "decode(repeat('00',1048576),'hex')"}, asBytes, "HEX(v)"},
	{"bit(5)", []string{"B'10101'", "B'00000'"}, asIs, "LPAD(BIN(v + 0), 5, '0')"},
	{"bit(64)", []string{"repeat('1', 64)::bit(64)"}, asIs, "LPAD(BIN(v + 0), 64, '0')"},
	{"bit(65)", []string{"repeat('1', 65)::bit(65)"}, asIs, ""},
	{"varbit", []string{"B''", "B'10000001'", "repeat('10', 5000)::varbit"}, asIs, ""},
	{"uuid", []string{"'00000000-0000-0000-0000-000000000000'", "'{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'"}, asIs, ""},
	{"json", []string{`'{"b":1,"a":2}'`, `'{"a":1,"a":2}'`, `' [1 , 2]'`, `'null'`, `'1e400'`, `'"\u0000"'`, `'"\ud83d\ude00"'`}, asIs, ""},
	{"jsonb", []string{`'{"a":1.00}'`, `'null'`, "'12345678901234567890123456789012345678901234567890'"}, asIs, ""},
	{"xml", []string{"'<a/><b/>'", "''"}, asIs, ""},
	{"tsvector", []string{"'fat:1A cat:2,3 rat'"}, asIs, ""},
	{"date", []string{"'0001-01-01'", "'1582-10-10'", "'2024-02-29'", "'9999-12-31'"}, asIs, ""},
	{"time", []string{"'00:00:00'", "'23:59:59.999999'", "'24:00:00'"}, asTime, ""},
	{"timetz", []string{"'00:00:00-15:59:59'", "'13:51:30.123789+02:30'"}, asIs, ""},
	{"timestamp", []string{"'0001-01-01 00:00:00'", "'1969-12-31 23:59:59.999999'", "'9999-12-31 23:59:59.999999'"}, asTime, ""},
	{"timestamptz", []string{"'2024-03-10 02:30 America/New_York'", "'2024-11-03 01:30-04'", "'2024-11-03 01:30-05'", "'1800-01-01+00'"}, asTime, ""},
	{"interval", []string{"'178000000 years'", "'-2147483648 days'", "'1 mon -1 day +00:00:01'", "'24:00:00'", "'1 day'"}, asIs, ""},
	{"inet", []string{"'192.168.1.5/24'", "'::1'", "'::ffff:1.2.3.4'"}, asIs, ""},
	{"macaddr8", []string{"'08:00:2b:01:02:03'"}, asIs, ""},
	{"point", []string{"'(NaN,Infinity)'"}, asIs, ""},
	{"int4range", []string{"'empty'", "'[1,10]'", "'(,)'"}, asIs, ""},
	{"int4multirange", []string{"'{[1,3),[2,7)}'"}, asIs, ""},
	{"comp", []string{`'(1,"x,""y")'`, "'(1,)'"}, asIs, ""},
	{"mood", []string{"'happy'", "'it''s \"ok\"'"}, asIs, ""},
	{"mood[]", []string{"'{happy,NULL}'"}, asIs, ""},
	{"d0", []string{"1.50"}, asIs, ""},
}

const typesDDL = `CREATE TYPE mood AS ENUM ('sad', 'happy', 'it''s "ok"'); CREATE TYPE comp AS (a int, b text); CREATE DOMAIN d0 AS numeric(10,2) CHECK (value > 0)`

// TestTypes takes every value through insert, update and delete, into tables that the target makes: by key, and by the whole row
// without any key, each row twice, so that one of two equal rows has to be hit.
func TestTypes(t *testing.T) {
	w := newWorld(t, 1)
	w.source(typesDDL)
	for i, typ := range types {
		values := "(" + strings.Join(append(typ.values, "NULL"), "), (") + ")"
		w.source(fmt.Sprintf(`CREATE TABLE k%[1]d (id int PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, v %[2]s, n int);
			CREATE TABLE f%[1]d (n int, v %[2]s); ALTER TABLE f%[1]d REPLICA IDENTITY FULL;
			INSERT INTO k%[1]d (v) VALUES %[3]s; INSERT INTO f%[1]d (v) VALUES %[3]s; INSERT INTO f%[1]d (v) VALUES %[3]s;
			UPDATE k%[1]d SET n = id; UPDATE k%[1]d SET v = v;
			UPDATE f%[1]d SET n = 1 WHERE ctid IN (SELECT min(ctid) FROM f%[1]d GROUP BY v::text)`, i, typ.typ, values))
	}
	w.replay()
	sameTypes := func() {
		t.Helper()
		for i, typ := range types {
			column := typ.column
			if column == "" {
				column = "v"
			}
			for _, table := range []string{"k", "f"} {
				from := fmt.Sprintf(" FROM %s%d ORDER BY n IS NULL, n", table, i)
				got := strings.Split(strings.TrimSuffix(w.rows("SELECT COALESCE(n, '-'), "+column+from), "\n"), "\n")
				want := strings.Split(strings.TrimSuffix(w.rowsPG(0, "SELECT COALESCE(n::text, '-'), v"+from), "\n"), "\n")
				if table == "f" {
					got, want = strings.Split(sorted(strings.Join(got, "\n")), "\n"), strings.Split(sorted(strings.Join(want, "\n")), "\n")
				}
				if len(got) != len(want) {
					t.Errorf("%s: %s%d has %d lines, want %d", typ.typ, table, i, len(got), len(want))
					continue
				}
				counts := map[string]int{}
				for j := range got {
					counts[normal(got[j], typ.reads, true)]++
					counts[normal(want[j], typ.reads, false)]--
				}
				for line, n := range counts {
					if n != 0 {
						t.Errorf("%s: %s%d: %.200q %+d", typ.typ, table, i, line, n)
					}
				}
			}
		}
	}
	sameTypes()
	for i := range types {
		w.source(fmt.Sprintf("DELETE FROM k%d WHERE id %% 2 = 0; DELETE FROM f%[1]d WHERE n = 1", i))
	}
	w.replay()
	sameTypes()
}

// normal is a line with its value as the target reads it.
func normal(line string, reads reads, target bool) string {
	n, v, found := strings.Cut(line, "|")
	if !found || v == "∅" {
		return line
	}
	if isFloat := strings.HasPrefix(reads("1"), "3ff"); isFloat || !target {
		v = reads(v)
	}
	return n + "|" + v
}

// Arrays become JSON, numbers as in the format json.
func TestArrays(t *testing.T) {
	w := newWorld(t, 1)
	w.source("CREATE DOMAIN da AS int[]; CREATE TABLE t (id int PRIMARY KEY, i int[], f float8[], s text[], d da)")
	w.source(`INSERT INTO t VALUES (1, '{{1,2},{3,NULL}}', '{NaN,1.5}', $${"a,b","c\"d","e\\f",NULL,"NULL","é"}$$, '[0:1]={5,6}'), (2, '{}', '{}', '{}', '{1}')`)
	w.replay()
	w.want("SELECT id, i, f, s, d FROM t ORDER BY id",
		`1|[[1,2],[3,null]]|["NaN",1.5]|["a,b","c\"d","e\\f",null,"NULL","é"]|{"bounds":"[0:1]","values":[5,6]}; 2|[]|[]|[]|[1]`)
	w.want("SELECT JSON_VALID(s) + JSON_VALID(d) FROM t", "2; 2")
}

// What MySQL cannot hold is refused, and a column of text takes it.
func TestUnfit(t *testing.T) {
	for i, c := range []struct{ typ, value, says string }{
		{"numeric(10,2)", "'NaN'", "neither NaN nor infinity"},
		{"real", "'Infinity'", "neither NaN nor infinity"},
		{"float8", "'NaN'", "neither NaN nor infinity"},
		{"date", "'infinity'", "no infinite times"},
		{"date", "'4714-11-24 BC'", "years are 1 to 9999"},
		{"date", "'5874897-12-31'", "years are 1 to 9999"},
		{"timestamp", "'-infinity'", "no infinite times"},
		{"timestamp", "'294276-12-31 23:59:59.999999'", "years are 1 to 9999"},
		{"timestamptz", "'0044-03-15 12:00:00+00 BC'", "years are 1 to 9999"},
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			w := newWorld(t, 1)
			w.source("CREATE TABLE t (id int PRIMARY KEY, v " + c.typ + ")")
			w.source("INSERT INTO t VALUES (7, " + c.value + ")")
			txs := w.capture()
			b := w.blocked(txs)
			var unfit *apply.Blocked
			if !errors.As(b, &unfit) || !strings.Contains(b.Error(), c.says) || !strings.Contains(b.Error(), "MODIFY `v` LONGTEXT") {
				t.Error(b)
			}
			w.exec("ALTER TABLE t MODIFY v LONGTEXT")
			if err := w.try(txs); err != nil {
				t.Fatal(err)
			}
			w.want("SELECT id, v FROM t", strings.TrimSuffix(w.rowsPG(0, "SELECT id, v FROM t"), "\n"))
		})
	}
}
