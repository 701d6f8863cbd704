package matrix

import (
	"strings"
)

// A kind is a type with values, as SQL expressions.
type kind struct {
	typ    string
	values []string
	use    use
	needs  string // an extension, or a version of the server: see needs
}

// use says what a type cannot do.
type use int

const (
	anywhere use = iota
	noKey        // it has no order
	noArray      // its arrays are something else
	neither
	notNull // a domain that has no NULL
)

var kinds = []kind{
	{typ: "boolean", values: []string{"true", "false"}},
	{typ: "smallint", values: []string{"'-32768'", "32767"}},
	{typ: "integer", values: []string{"'-2147483648'", "2147483647", "0"}},
	{typ: "bigint", values: []string{"'-9223372036854775808'", "9223372036854775807", "9007199254740993"}},
	{typ: "numeric", values: []string{"'1e131071'", "'1e-16383'", "'-0'", "'100.00'", "'1.0'", "'NaN'", "'Infinity'", "'-Infinity'"}},
	{typ: "numeric(38,10)", values: []string{"'9999999999999999999999999999.9999999999'", "'NaN'"}},
	{typ: "numeric(5,-2)", values: []string{"12345"}},
	{typ: "numeric(3,5)", values: []string{"0.00999"}},
	{typ: "real", values: []string{"'3.4028235e38'", "'1e-45'", "'1.17549435e-38'", "'-0'", "0", "'NaN'", "'Infinity'", "'-Infinity'", "0.1"}},
	{typ: "double precision", values: []string{
		"'1.7976931348623157e308'", "'5e-324'", "'2.2250738585072014e-308'", "'-0'", "0", "0.1::float8+0.2::float8", "1e15", "1e16", "1e23", "'NaN'", "'-Infinity'",
	}},
	{typ: "money", values: []string{"'92233720368547758.07'", "'-92233720368547758.08'", "'(12.34)'"}},
	{typ: "oid", values: []string{"4294967295", "0"}},
	{typ: "xid", values: []string{"'4294967295'"}, use: noKey},
	{typ: "xid8", values: []string{"'18446744073709551615'"}},
	{typ: "cid", values: []string{"'4294967295'"}, use: noKey},
	{typ: "tid", values: []string{"'(4294967295,65535)'", "'(0,1)'"}},
	{typ: "regclass", values: []string{"'pg_class'", "'0'"}},
	{typ: "regtype", values: []string{"'text[]'"}},
	{typ: "regoperator", values: []string{"'+(integer,integer)'"}},
	{typ: "regproc", values: []string{"'now'"}},
	{typ: "regrole", values: []string{"'pg_monitor'"}},
	{typ: "regnamespace", values: []string{"'pg_catalog'"}},
	{typ: "regcollation", values: []string{`'"C"'`}},
	{typ: "regconfig", values: []string{"'simple'"}},
	{typ: "text", values: []string{
		"''", "' '", "'a '", `E'\t\n\r\b\f'`, `E'\u0001'`, `'\u0000'`, `E'a\\b'`, "'it''s'", "'NULL'", "'null'", `U&'\+01F600'`, `E'e\u0301'`, "'é'",
		`E'\uFEFFx'`, `E'\u202Ex'`, `E'\U0001F468\u200D\U0001F469'`, `'\N'`, `'\.'`, "'''); DROP TABLE t--'", "repeat('x', 300000)",
	}},
	{typ: "varchar(10)", values: []string{"''", "'a '", "'1234567890'"}},
	{typ: "char(5)", values: []string{"'ab'", "''", "'ab  c'"}},
	{typ: "name", values: []string{"repeat('x', 63)", "''"}},
	{typ: `"char"`, values: []string{"'a'", "''", `'\377'`}},
	{typ: "bytea", values: []string{`'\x'`, `'\x00'`, `'\x00ff'`, `'\x5c'`, "decode(repeat('00ff',50000),'hex')"}},
	{typ: "bit(5)", values: []string{"B'10101'", "B'101'"}},
	{typ: "bit", values: []string{"B'1'", "B'0'"}},
	{typ: "varbit", values: []string{"B''", "B'10000001'", "repeat('10', 5000)"}},
	{typ: "uuid", values: []string{"'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'"}},
	{typ: "json", values: []string{
		`'{"b":1,"a":2}'`, `'{"a":1,"a":2}'`, `' [1 , 2]'`, `'null'`, `'1e400'`, `'"\u0000"'`, `'"\ud83d\ude00"'`, `'1.0'`,
		`('{"long": "' || repeat('j', 100000) || '"}')`,
	}, use: noKey},
	{typ: "jsonb", values: []string{
		`'{"a":1,"a":2}'`, `'{"a":1.0}'`, `'{"a":1.00}'`, `'null'`, `'{"bb":1,"a":[{}, null, "x"]}'`, "'12345678901234567890123456789012345678901234567890'",
	}},
	{typ: "jsonpath", values: []string{`'$.a[*] ? (@ > 1)'`}, use: noKey},
	{typ: "xml", values: []string{"'<a/><b/>'", "'plain text'", `'<?xml version="1.0"?><a/>'`, "''"}, use: noKey},
	{typ: "tsvector", values: []string{"'fat:1A cat:2,3 rat'", "''", "'''it''''s'':1'"}},
	{typ: "tsquery", values: []string{"'fat & (rat | !cat)'", "'super:*AB'", "'a <-> b'", "''"}},
	{typ: "pg_lsn", values: []string{"'0/0'", "'16/B374D848'", "'FFFFFFFF/FFFFFFFF'"}},
	{typ: "txid_snapshot", values: []string{"'10:20:10,14,15'"}, use: noKey},
	{typ: "pg_snapshot", values: []string{"'10:20:10,14,15'"}, use: noKey},
	{typ: "int2vector", values: []string{"'1 2 3'", "''"}, use: neither},
	{typ: "oidvector", values: []string{"'1 2 3'"}, use: noArray},
	{typ: "refcursor", values: []string{"'cur'", "''"}, use: noKey},
	{typ: "aclitem", values: []string{"'postgres=r/postgres'"}, use: noKey},
	{typ: "date", values: []string{
		"'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "'0001-12-31 BC'", "'0001-01-01'", "'1582-10-10'", "'2024-02-29'",
	}},
	{typ: "time", values: []string{"'00:00:00'", "'23:59:59.999999'", "'24:00:00'", "'23:59:60'"}},
	{typ: "time(0)", values: []string{"'23:59:59.5'"}},
	{typ: "timetz", values: []string{"'00:00:00+15:59:59'", "'00:00:00-15:59:59'", "'24:00:00-15:59'", "'13:51:30.123789+02:30'", "'10:00+02'", "'08:00+00'"}},
	{typ: "timestamp", values: []string{
		"'infinity'", "'-infinity'", "'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'",
		"'1969-12-31 23:59:59.999999'", "'0044-03-15 12:00:00 BC'", "'2016-12-31 23:59:60'",
	}},
	{typ: "timestamp(3)", values: []string{"'2024-01-01 00:00:00.9996'"}},
	{typ: "timestamptz", values: []string{
		"'infinity'", "'2024-03-10 02:30 America/New_York'", "'2024-11-03 01:30-04'", "'2024-11-03 01:30-05'", "'1800-01-01+00'", "'4714-11-24 00:00:00+00 BC'",
	}},
	{typ: "interval", values: []string{
		"'178000000 years'", "'2147483647 months'", "'-2147483648 days'", "'2147483647 hours'", "'1 mon -1 day +00:00:01'",
		"'-0.000001 s'", "'1 year 2 mons 3 days 04:05:06.000007'", "'1 mon'", "'30 days'", "'24:00:00'", "'1 day'",
	}},
	{typ: "inet", values: []string{"'192.168.1.5/24'", "'192.168.1.5'", "'::1'", "'::ffff:1.2.3.4'", "'2001:db8::/32'"}},
	{typ: "cidr", values: []string{"'10/8'", "'2001:db8::/32'"}},
	{typ: "macaddr", values: []string{"'0800.2b01.0203'"}},
	{typ: "macaddr8", values: []string{"'08:00:2b:01:02:03'"}},
	{typ: "point", values: []string{"'(1,-2.5)'", "'(-0,0)'", "'(0,0)'", "'(NaN,Infinity)'", "'(1e-7,0)'"}, use: noKey},
	{typ: "lseg", values: []string{"'[(0,0),(1,1)]'"}, use: noKey},
	{typ: "line", values: []string{"'{1,-1,0}'", "'{2,-2,0}'"}, use: noKey},
	{typ: "box", values: []string{"'(0,0),(1,1)'", "'(5,5),(6,6)'"}, use: noKey},
	{typ: "path", values: []string{"'[(0,0),(1,1)]'", "'((0,0),(1,1))'"}, use: noKey},
	{typ: "polygon", values: []string{"'((0,0),(1,1),(2,0))'", "'((1,1),(2,0),(0,0))'", "'((0,0),(1,1))'"}, use: noKey},
	{typ: "circle", values: []string{"'<(0,0),5>'", "'<(7,7),5>'"}, use: noKey},
	{typ: "int4range", values: []string{"'empty'", "'[1,10]'", "'(,)'", "'(,5)'"}},
	{typ: "int8range", values: []string{"'[1,9223372036854775806]'"}},
	{typ: "numrange", values: []string{"'[1.10,2.20]'", "'[NaN,NaN]'", "'(,Infinity)'"}},
	{typ: "tsrange", values: []string{"'[2024-01-01,)'", "'[2024-01-01,infinity]'"}},
	{typ: "tstzrange", values: []string{"'[2024-01-01 00:00+02,2024-06-01 00:00+02)'"}},
	{typ: "daterange", values: []string{"'[2024-01-01,2024-01-31]'"}},
	{typ: "textrange", values: []string{`'["a b","c""d")'`, `'[,"é,)"]'`}},
	{typ: "int4multirange", values: []string{"'{}'", "'{[1,3),[2,7)}'", "'{(,)}'"}},
	{typ: "int8multirange", values: []string{"'{[1,2)}'"}},
	{typ: "nummultirange", values: []string{"'{[1.10,2.20],(3,)}'"}},
	{typ: "tsmultirange", values: []string{"'{[2024-01-01,2024-02-01),[2025-01-01,)}'"}},
	{typ: "tstzmultirange", values: []string{"'{[2024-01-01 00:00+02,)}'"}},
	{typ: "datemultirange", values: []string{"'{[2024-01-01,2024-01-31]}'"}},
	{typ: "textmultirange", values: []string{`'{["a b","c""d")}'`}},
	{typ: "int[]", values: []string{"'{}'", "'{NULL}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:2]={1,2,3}'", "'[2:3][-1:0]={{1,2},{3,4}}'"}},
	{typ: "text[]", values: []string{`'{"",NULL,"NULL",null}'`, `$${"a,b","c\"d","e\\f","{x}"," sp "}$$`}},
	{typ: "bytea[]", values: []string{`$${"\\x00ff"}$$`}},
	{typ: "json[]", values: []string{`$${"{\"a\": 1}"}$$`}, use: noKey},
	{typ: "numeric[]", values: []string{"'{NaN,1.10,Infinity}'"}},
	{typ: "box[]", values: []string{"'{(1,1),(0,0);(2,2),(0,0)}'"}, use: noKey},
	{typ: "comp", values: []string{`'(1,"x,""y",{ok})'`, "'(1,,)'", "ROW(NULL,NULL,NULL)"}},
	{typ: "nested", values: []string{`ROW('(1,"x",)'::comp, ARRAY['(2,,)'::comp, NULL])`, "'(,)'"}},
	{typ: "mood", values: []string{"'happy'", "'sad'", "'it''s \"ok\"'", "'größe'"}},
	{typ: "d1", values: []string{"1.50", "2"}, use: notNull},
	{typ: "d2", values: []string{"'x'", "NULL"}},
	{typ: "da", values: []string{"'{1,2}'", "'{}'"}},
	{typ: "dc", values: []string{"'(1,,)'"}},
	{typ: "citext", values: []string{"'ABC'", "'abd'"}, needs: "citext"},
	{typ: "hstore", values: []string{`'"a"=>NULL,"b"=>"x"'`, "''"}, needs: "hstore"},
	{typ: "ltree", values: []string{"'a.b.c'"}, needs: "ltree"},
	{typ: "cube", values: []string{"'(1,2),(3,4)'"}, needs: "cube"},
	{typ: "isbn", values: []string{"'0-393-04002-X'"}, needs: "isn"},
	{typ: "seg", values: []string{"'1.5 .. ~3'"}, needs: "seg"},
}

// extensions are those that some kind needs.
var extensions = []string{"citext", "hstore", "ltree", "cube", "isn", "seg"}

const kindsDDL = `
CREATE TYPE mood AS ENUM ('sad', 'happy', 'it''s "ok"', 'größe');
CREATE TYPE comp AS (a int, b text, c text);
CREATE TYPE nested AS (x comp, y comp[]);
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C", multirange_type_name = textmultirange);
CREATE DOMAIN d0 AS numeric(10,2) CHECK (value > 0);
CREATE DOMAIN d1 AS d0 NOT NULL;
CREATE DOMAIN d2 AS text;
CREATE DOMAIN da AS int[];
CREATE DOMAIN dc AS comp;
`

// value is the r-th value of a kind; after the last one comes NULL, and then the first again.
func (k *kind) value(r int) string {
	n := len(k.values)
	if k.use != notNull {
		n++
	}
	if r %= n; r < len(k.values) {
		return "(" + k.values[r] + ")::" + k.typ
	}
	return "NULL::" + k.typ
}

// array is an array of the kind, of one dimension or of two.
func (k *kind) array(r int) string {
	a, b := k.value(r), k.value(r+1)
	if r%2 == 0 {
		return "ARRAY[" + a + ", " + b + "]::" + k.typ + "[]"
	}
	return "ARRAY[ARRAY[" + a + ", " + b + "], ARRAY[" + b + ", " + a + "]]::" + k.typ + "[]"
}

// keys are the values that a B-tree takes: no NULL, none that is too long.
func (k *kind) keys() (values []string) {
	if k.use == noKey || k.use == neither {
		return nil
	}
	for i, v := range k.values {
		if v != "NULL" && !strings.Contains(v, "repeat(") {
			values = append(values, k.value(i))
		}
	}
	return values
}

// hasArray: arrays of arrays are arrays of more dimensions, and those of domains over arrays are not asked for.
func (k *kind) hasArray() bool {
	return k.use != noArray && k.use != neither && !strings.HasSuffix(k.typ, "]")
}
