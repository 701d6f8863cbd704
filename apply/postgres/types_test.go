package postgres_test

import (
	"fmt"
	"strings"
	"testing"
)

// types lists the types of PostgreSQL with the values that break things, as SQL expressions.
var types = []struct {
	typ    string
	values []string
}{
	{"boolean", []string{"true", "false"}},
	{"smallint", []string{"'-32768'", "32767"}},
	{"integer", []string{"'-2147483648'", "2147483647"}},
	{"bigint", []string{"'-9223372036854775808'", "9223372036854775807", "9007199254740993"}},
	{"numeric", []string{"'1e131071'", "'1e-16383'", "'-0'", "'100.00'", "'1.0'", "'NaN'", "'Infinity'", "'-Infinity'"}},
	{"numeric(38,10)", []string{"'9999999999999999999999999999.9999999999'", "'NaN'"}},
	{"numeric(5,-2)", []string{"12345"}},
	{"numeric(3,5)", []string{"0.00999"}},
	{"real", []string{"'3.4028235e38'", "'1e-45'", "'1.17549435e-38'", "'-0'", "0", "'NaN'", "'Infinity'", "'-Infinity'", "0.1"}},
	{"double precision", []string{
		"'1.7976931348623157e308'", "'5e-324'", "'2.2250738585072014e-308'", "'-0'", "0", "0.1::float8+0.2::float8",
		"1e15", "1e16", "1e23", "'NaN'", "'-Infinity'",
	}},
	{"money", []string{"'92233720368547758.07'", "'-92233720368547758.08'", "'(12.34)'"}},
	{"oid", []string{"4294967295", "0"}},
	{"xid", []string{"'4294967295'"}},
	{"xid8", []string{"'18446744073709551615'"}},
	{"cid", []string{"'4294967295'"}},
	{"tid", []string{"'(4294967295,65535)'"}},
	{"regclass", []string{"'pg_class'", "0"}},
	{"regtype", []string{"'text[]'"}},
	{"regoperator", []string{"'+(integer,integer)'"}},
	{"regrole", []string{"'pg_monitor'"}},
	{"regcollation", []string{`'"C"'`}},
	{"text", []string{
		"''", "' '", "'a '", `E'\t\n\r\b\f'`, `E'\u0001'`, `'\u0000'`, `E'a\\b'`, "'it''s'", "'NULL'", "'null'", `U&'\+01F600'`, `E'e\u0301'`, "'é'",
		`E'\uFEFFx'`, `E'\u202Ex'`, `E'\U0001F468\u200D\U0001F469'`, "repeat('x', 3000000)", `'\N'`, "'''); DROP TABLE t--'",
	}},
	{"varchar(10)", []string{"''", "'a '", "'1234567890'"}},
	{"char(5)", []string{"'ab'", "''", "'ab   '"}},
	{"name", []string{"repeat('x', 63)"}},
	{`"char"`, []string{"'a'", "''", `'\377'`}},
	{"citext", []string{"'ABC'", "'abc'"}},
	{"bytea", []string{`'\x'`, `'\x00'`, `'\x00ff'`, `'\x5c'`, "decode(repeat('00',1048576),'hex')"}},
	{"bit(5)", []string{"B'10101'", "B'101'::bit(5)"}},
	{"bit", []string{"B'1'"}},
	{"varbit", []string{"B''", "B'10000001'", "repeat('10', 5000)::varbit"}},
	{"uuid", []string{"'00000000-0000-0000-0000-000000000000'", "'{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'"}},
	{"json", []string{`'{"b":1,"a":2}'`, `'{"a":1,"a":2}'`, `' [1 , 2]'`, `'null'`, `'1e400'`, `'"\u0000"'`, `'"\ud83d\ude00"'`, `'1.0'`}},
	{"jsonb", []string{`'{"a":1,"a":2}'`, `'{"a":1.0}'`, `'{"a":1.00}'`, `'null'`, "'12345678901234567890123456789012345678901234567890'"}},
	{"jsonpath", []string{`'$.a[*] ? (@ > 1)'`}},
	{"xml", []string{"'<a/><b/>'", "'plain text'", `'<?xml version="1.0"?><a/>'`, "''"}},
	{"tsvector", []string{"'fat:1A cat:2,3 rat'", "''", "'''it''''s'':1'"}},
	{"tsquery", []string{"'fat & (rat | !cat)'", "'super:*AB'", "'a <-> b'", "''"}},
	{"pg_lsn", []string{"'0/0'", "'16/B374D848'", "'FFFFFFFF/FFFFFFFF'"}},
	{"txid_snapshot", []string{"'10:20:10,14,15'"}},
	{"pg_snapshot", []string{"'10:20:10,14,15'"}},
	{"int2vector", []string{"'1 2 3'"}},
	{"oidvector", []string{"'1 2 3'"}},
	{"refcursor", []string{"'cur'"}},
	{"date", []string{"'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "'0001-12-31 BC'", "'0001-01-01'", "'1582-10-10'", "'2024-02-29'"}},
	{"time", []string{"'00:00:00'", "'23:59:59.999999'", "'24:00:00'", "'23:59:60'"}},
	{"time(0)", []string{"'23:59:59.5'"}},
	{"timetz", []string{"'00:00:00+15:59:59'", "'00:00:00-15:59:59'", "'24:00:00-15:59'", "'13:51:30.123789+02:30'", "'10:00+02'", "'08:00+00'"}},
	{"timestamp", []string{
		"'infinity'", "'-infinity'", "'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'",
		"'1969-12-31 23:59:59.999999'", "'0044-03-15 12:00:00 BC'", "'2016-12-31 23:59:60'",
	}},
	{"timestamp(3)", []string{"'2024-01-01 00:00:00.9996'"}},
	{"timestamptz", []string{"'infinity'", "'2024-03-10 02:30 America/New_York'", "'2024-11-03 01:30-04'", "'2024-11-03 01:30-05'", "'1800-01-01+00'", "'4714-11-24 00:00:00+00 BC'"}},
	{"interval", []string{
		"'178000000 years'", "'2147483647 months'", "'-2147483648 days'", "'2147483647 hours'", "'1 mon -1 day +00:00:01'",
		"'-0.000001 s'", "'1 year 2 mons 3 days 04:05:06.000007'", "'1 mon'", "'30 days'", "'24:00:00'", "'1 day'",
	}},
	{"inet", []string{"'192.168.1.5/24'", "'192.168.1.5'", "'::1'", "'::ffff:1.2.3.4'", "'2001:db8::/32'"}},
	{"cidr", []string{"'10/8'"}},
	{"macaddr", []string{"'0800.2b01.0203'"}},
	{"macaddr8", []string{"'08:00:2b:01:02:03'"}},
	{"point", []string{"'(1,-2.5)'", "'(-0,0)'", "'(0,0)'", "'(NaN,Infinity)'", "'(1e-7,0)'"}},
	{"lseg", []string{"'[(0,0),(1,1)]'"}},
	{"line", []string{"'{1,-1,0}'", "'{2,-2,0}'"}},
	{"box", []string{"'(0,0),(1,1)'", "'(5,5),(6,6)'"}},
	{"path", []string{"'[(0,0),(1,1)]'", "'((0,0),(1,1))'"}},
	{"polygon", []string{"'((0,0),(1,1),(2,0))'", "'((1,1),(2,0),(0,0))'", "'((0,0),(1,1))'"}},
	{"circle", []string{"'<(0,0),5>'", "'<(7,7),5>'"}},
	{"int4range", []string{"'empty'", "'[1,10]'", "'(,)'", "'(,5)'"}},
	{"numrange", []string{"'[1.10,2.20]'", "'[NaN,NaN]'", "'(,Infinity)'"}},
	{"tsrange", []string{"'[2024-01-01,)'", "'[2024-01-01,infinity]'"}},
	{"daterange", []string{"'[2024-01-01,2024-01-31]'"}},
	{"int4multirange", []string{"'{}'", "'{[1,3),[2,7)}'", "'{(,)}'"}},
	{"int[]", []string{"'{}'", "'{NULL}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:2]={1,2,3}'", "'[2:3][-1:0]={{1,2},{3,4}}'"}},
	{"text[]", []string{`'{"",NULL,"NULL",null}'`, `$${"a,b","c\"d","e\\f","{x}"," sp "}$$`}},
	{"bytea[]", []string{`$${"\\x00ff"}$$`}},
	{"json[]", []string{`$${"{\"a\": 1}"}$$`}},
	{"numeric[]", []string{"'{NaN,1.10,Infinity}'"}},
	{"bool[]", []string{"'{t,f,NULL}'"}},
	{"box[]", []string{"'{(1,1),(0,0);(2,2),(0,0)}'"}},
	{"point[]", []string{`'{"(1,2)"}'`}},
	{"comp", []string{`'(1,"x,""y",{ok})'`, "'(1,,)'", "ROW(NULL,NULL,NULL)::comp"}},
	{"comp[]", []string{`'{"(1,,)",NULL}'`}},
	{"mood", []string{"'happy'", "'it''s \"ok\"'"}},
	{"mood[]", []string{"'{happy,NULL}'"}},
	{"d1", []string{"1.50"}},
	{"d1[]", []string{"'{1.50}'"}},
	{"da", []string{"'{1,2}'"}},
	{"hstore", []string{`'"a"=>NULL,"b"=>"x"'`}},
	{"ltree", []string{"'a.b.c'"}},
	{"cube", []string{"'(1,2),(3,4)'"}},
}

const typesDDL = `
CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION cube;
CREATE TYPE mood AS ENUM ('sad', 'happy', 'it''s "ok"');
CREATE TYPE comp AS (a int, b text, c mood[]);
ALTER TYPE comp ALTER ATTRIBUTE c TYPE text;
CREATE DOMAIN d0 AS numeric(10,2) CHECK (value > 0); CREATE DOMAIN d1 AS d0 NOT NULL; CREATE DOMAIN da AS int[];`

// TestTypes takes every value through insert, update and delete: by key, and by the whole row without any key
// (each row twice, so that one of two equal rows has to be hit).
func TestTypes(t *testing.T) {
	w := newWorld(t, 1)
	w.both(typesDDL)
	var tables []string
	for i, typ := range types {
		null := "NULL::" + typ.typ
		if strings.HasPrefix(typ.typ, "d1") {
			null = typ.values[0]
		}
		values := "(" + strings.Join(append(typ.values, null), "), (") + ")"
		key, full := fmt.Sprintf("k%d", i), fmt.Sprintf("f%d", i)
		w.both(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, v %s, n int)", key, typ.typ))
		w.both(fmt.Sprintf("CREATE TABLE %s (n int, v %s); ALTER TABLE %[1]s REPLICA IDENTITY FULL", full, typ.typ))
		w.source(fmt.Sprintf("INSERT INTO %s (v) VALUES %s", key, values))
		w.source(fmt.Sprintf("INSERT INTO %s (v) VALUES %s", full, values))
		w.source(fmt.Sprintf("INSERT INTO %s (v) VALUES %s", full, values))
		w.source(fmt.Sprintf("UPDATE %s SET n = id", key))
		// One of each pair of equal rows changes, and another goes.
		w.source(fmt.Sprintf("UPDATE %s SET n = 1 WHERE ctid IN (SELECT min(ctid) FROM %[1]s GROUP BY v::text)", full))
		w.source(fmt.Sprintf("DELETE FROM %s WHERE ctid IN (SELECT max(ctid) FROM %[1]s GROUP BY v::text HAVING count(*) > 1 AND random() < 0.5)", full))
		tables = append(tables, key, full)
	}
	w.replay()
	w.same(tables...)
	w.proves(tables...)
	for i := range types {
		w.source(fmt.Sprintf("DELETE FROM k%d WHERE id %% 2 = 0; DELETE FROM f%[1]d WHERE n = 1", i))
	}
	w.replay()
	w.same(tables...)
}
